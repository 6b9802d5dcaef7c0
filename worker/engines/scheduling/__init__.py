"""Who is on the device when: batches of jobs, turns between kinds, memory."""
