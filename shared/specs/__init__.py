"""What to compute: frozen, validated values. Pure: no Redis, no clock."""
