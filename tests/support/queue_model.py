"""The queue as plain Python: what the Lua scripts must agree with, job by job and turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.records.job import PRIORITIES, TRANSITIONS, JobState, SavedRun

__all__ = ["AGES_AGO", "ModelJob", "ModelPool"]

STRIDE = 5040
AGES_AGO = 1  # the score that stands for having waited too long


@dataclass
class ModelJob:
    """What the model knows of one job."""

    id: str
    tenant: str
    pool: str
    priority: str
    created_at_ms: int
    sequence: int  # how many were accepted before it
    state: JobState = JobState.QUEUED
    delayed: bool = False
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    cancel: bool = False
    paused: bool = False
    held: bool = False
    alone: bool = False  # how it runs now
    yielding: int = 0  # the attempt that was called away
    has_waited: bool = False  # long enough for a high job to have a low one called away
    has_called: bool = False  # and it had
    suspect_since: float = 0
    late: bool = False  # its deadline has passed
    result: dict[str, int] | None = None
    saved: SavedRun | None = None  # the last snapshot
    lost_step: int = 0  # of the snapshot there was when a worker was lost last
    worker: str = ""  # that claimed it last
    outcomes: list[str | None] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        """Order within its tenant: jobs of one millisecond run in the order they came."""
        return self.created_at_ms + PRIORITIES[self.priority], self.sequence

    def move(self, state: JobState) -> None:
        """Change state; fails on a transition the table does not allow."""
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        self.state = state

    def close(self, outcome: str) -> None:
        """End the current attempt."""
        self.outcomes[-1] = outcome

    @property
    def told(self) -> str:
        """What its owner hears."""
        if self.cancel:
            return "cancel"
        return "yield" if self.paused or self.yielding == self.attempt else "ok"


class ModelPool:
    """Turns of tenants by start-time fair queueing, jobs of a tenant by rank."""

    def __init__(self, weights: dict[str, int]) -> None:
        self.weights = weights
        self.ready: dict[str, list[ModelJob]] = {}
        self.turns: dict[str, int] = {}
        self.owed: dict[str, int] = {}
        self.clock = 0
        self.suspects: list[ModelJob] = []
        self.emptying: str | ModelJob | None = None  # a worker, then the suspect it runs before the line
        self.forced: str | None = None  # the worker that owes the line a job

    def add(self, job: ModelJob) -> None:
        """The job becomes ready."""
        self.ready.setdefault(job.tenant, []).append(job)
        self.ready[job.tenant].sort(key=lambda other: other.rank)
        if job.tenant not in self.turns:
            self.turns[job.tenant] = max(self.clock, self.owed.pop(job.tenant, 0))

    def suspect(self, job: ModelJob, since: float) -> None:
        """The job waits to run alone."""
        job.suspect_since = since
        self.suspects.append(job)
        self.sort_suspects()

    def sort_suspects(self) -> None:
        """Those that wait longest first."""
        self.suspects.sort(key=lambda job: (job.suspect_since, f"{job.tenant}:{job.id}"))

    def remove(self, job: ModelJob) -> None:
        """The job leaves without being claimed."""
        if job in self.suspects:
            self.suspects.remove(job)
        if job in self.ready.get(job.tenant, []):
            self.ready[job.tenant].remove(job)
        self._retire(job.tenant)

    def _retire(self, tenant: str) -> None:
        if tenant in self.turns and not self.ready.get(tenant):
            turn = self.turns.pop(tenant)
            if turn > self.clock:
                self.owed[tenant] = turn

    def take(self, worker: str, *, is_idle: bool) -> tuple[ModelJob | str | None, list[ModelJob]]:
        """The job that is claimed next (or `standby`), and those found late on the way to it."""
        late: list[ModelJob] = []
        has_line = bool(self.turns)
        may_force = self.emptying in (None, worker) and not (has_line and self.forced == worker)
        if self.suspects and self.suspects[0].suspect_since == AGES_AGO and may_force:
            if not is_idle:
                self.emptying = worker
                return "standby", late
            if job := self._take_suspect(worker, late, is_forced=has_line):
                return job, late
        job = self._take_from_line(worker, late)
        if job is None and is_idle:
            job = self._take_suspect(worker, late, is_forced=False)
        return job, late

    def _take_suspect(self, worker: str, late: list[ModelJob], *, is_forced: bool) -> ModelJob | None:
        while self.suspects:
            job = self.suspects.pop(0)
            if not job.late:
                if is_forced:
                    self.emptying, self.forced = job, worker
                elif self.emptying == worker:
                    self.emptying = None
                self._charge(job.tenant)
                job.alone = True
                return job
            late.append(job)
        return None

    def _charge(self, tenant: str) -> None:
        stride = STRIDE // self.weights.get(tenant, 1)
        if tenant in self.turns:
            self.turns[tenant] += stride
        else:
            self.owed[tenant] = max(self.clock, self.owed.get(tenant, 0)) + stride

    def _take_from_line(self, worker: str, late: list[ModelJob]) -> ModelJob | None:
        while self.turns:
            tenant = self._first_tenant()
            job = self.ready[tenant].pop(0)
            if job.late:
                late.append(job)
                self._retire(tenant)
                continue
            self.clock = self.turns[tenant]
            self.turns[tenant] += STRIDE // self.weights.get(tenant, 1)
            self._retire(tenant)
            job.alone = False
            if self.forced == worker:
                self.forced = None
            return job
        return None

    def _first_tenant(self) -> str:
        return min(self.turns, key=lambda name: (self.turns[name], name))

    def first(self) -> ModelJob | None:
        """The head of the line."""
        return self.ready[self._first_tenant()][0] if self.turns else None

    def add_behind(self, job: ModelJob) -> None:
        """The job becomes ready again after it was called away: its tenant's turn comes after a high job's."""
        first = self.first()
        turn = self.turns[first.tenant] if first else 0
        self.add(job)
        if first and first.priority == "high" and (self.turns[job.tenant], job.tenant) < (turn, first.tenant):
            self.turns[job.tenant] = turn + 1

    def order(self) -> list[ModelJob]:
        """Every ready job in the order of claims, by playing the turns through."""
        due = [
            (self.turns[tenant] + index * (STRIDE // self.weights.get(tenant, 1)), tenant, index, job)
            for tenant, jobs in self.ready.items()
            for index, job in enumerate(jobs)
        ]
        return [job for *_, job in sorted(due, key=lambda item: item[:3])]
