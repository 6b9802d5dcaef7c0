"""What a worker does beside its jobs: beat, listen, watch, sweep, audit, compact."""
