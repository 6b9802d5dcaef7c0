"""Jobs in the store: the caller's side, the worker's side, and the sweeps, as one JobStore."""

from shared.store.jobs.calls import JobPage, Submitted
from shared.store.jobs.leases import STANDBY, Signal, Standby
from shared.store.jobs.store import JobStore
from shared.store.jobs.sweeps import Reaped

__all__ = ["STANDBY", "JobPage", "JobStore", "Reaped", "Signal", "Standby", "Submitted"]
