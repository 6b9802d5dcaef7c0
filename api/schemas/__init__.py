"""The contract as types: what comes in, what goes out, and the document that describes both."""
