"""What happened, as the store tells it. Pure: no Redis, no clock."""
