"""Run the whole system on one machine: servers, processes, stack, demo."""
