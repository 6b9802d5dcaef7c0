"""The queue as plain Python: what the Lua scripts must agree with, job by job and turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.jobs import PRIORITIES, TRANSITIONS, JobState

__all__ = ["ModelJob", "ModelPool"]

STRIDE = 5040


@dataclass
class ModelJob:
    """What the model knows of one job."""

    id: str
    tenant: str
    pool: str
    priority: str
    created_at_ms: int
    state: JobState = JobState.QUEUED
    delayed: bool = False
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    cancel: bool = False
    late: bool = False  # its deadline has passed
    result: dict[str, int] | None = None
    outcomes: list[str | None] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, str]:
        """Order within its tenant."""
        return self.created_at_ms + PRIORITIES[self.priority], self.id

    def move(self, state: JobState) -> None:
        """Change state; fails on a transition the table does not allow."""
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state

    def close(self, outcome: str) -> None:
        """End the current attempt."""
        self.outcomes[-1] = outcome


class ModelPool:
    """Turns of tenants by start-time fair queueing, jobs of a tenant by rank."""

    def __init__(self, weights: dict[str, int]) -> None:
        self.weights = weights
        self.ready: dict[str, list[ModelJob]] = {}
        self.turns: dict[str, int] = {}
        self.owed: dict[str, int] = {}
        self.clock = 0

    def add(self, job: ModelJob) -> None:
        """The job becomes ready."""
        self.ready.setdefault(job.tenant, []).append(job)
        self.ready[job.tenant].sort(key=lambda other: other.rank)
        if job.tenant not in self.turns:
            self.turns[job.tenant] = max(self.clock, self.owed.pop(job.tenant, 0))

    def remove(self, job: ModelJob) -> None:
        """The job leaves without being claimed."""
        if job in self.ready.get(job.tenant, []):
            self.ready[job.tenant].remove(job)
        self._retire(job.tenant)

    def _retire(self, tenant: str) -> None:
        if tenant in self.turns and not self.ready.get(tenant):
            turn = self.turns.pop(tenant)
            if turn > self.clock:
                self.owed[tenant] = turn

    def take(self) -> tuple[ModelJob | None, list[ModelJob]]:
        """The job that is claimed next, and those found late on the way to it."""
        late: list[ModelJob] = []
        while self.turns:
            tenant = min(self.turns, key=lambda name: (self.turns[name], name))
            job = self.ready[tenant].pop(0)
            if job.late:
                late.append(job)
                self._retire(tenant)
                continue
            self.clock = self.turns[tenant]
            self.turns[tenant] += STRIDE // self.weights.get(tenant, 1)
            self._retire(tenant)
            return job, late
        return None, late

    def order(self) -> list[ModelJob]:
        """Every ready job in the order of claims, by playing the turns through."""
        due = [
            (self.turns[tenant] + index * (STRIDE // self.weights.get(tenant, 1)), tenant, index, job)
            for tenant, jobs in self.ready.items()
            for index, job in enumerate(jobs)
        ]
        return [job for *_, job in sorted(due, key=lambda item: item[:3])]
