"""Collections and where their pictures come from, for one job of one tenant."""
