"""Faults on purpose, and a ledger outside the broker that says what became of every accepted job."""
