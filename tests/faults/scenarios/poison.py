"""A job whose engine crashes the process (a real segfault), among fifteen good ones on the same workers."""

from __future__ import annotations

from tests.faults.cluster import LEASE_S, Station
from tests.faults.effects import SEGFAULTS
from tests.faults.load import longer_probe
from tests.faults.report import Row
from tests.faults.storm import Run, Storm

__all__ = ["run"]

GOOD = 15  # at least, while each poison does its work
MOST_RUNS = 4


def run(run: Run) -> Row:
    """5 poisons, one after the other; all good jobs succeed, each poison fails as worker_lost after few runs."""
    poisons = run.pick(5, 1)
    stations = [Station(number) for number in range(2)]
    with Storm.of(run, per_s=3, stations=stations, load={"spec": longer_probe}) as storm:
        ids: list[str] = []

        def poison() -> None:
            body = {"kind": "probe", "input": {"steps": 1, "write_bytes": SEGFAULTS}}
            ids.append(storm.load.give_one(body))
            storm.wait_final(ids[-1])

        storm.rage(poison, faults=poisons, jobs=GOOD * poisons, every_s=(0.2, 0.4))
        verdict = storm.verdict()
        runs = [sum(entry.id == one for entry in storm.cluster.ledger.read("run")) for one in ids]
        row = Row.of("poison", run.seed, verdict, doomed=ids, poisons=poisons, runs_of_poison=runs,
                     lease_s=LEASE_S)  # fmt: skip
    row.expect({verdict.failed.get(one) for one in ids} == {"worker_lost"}, f"poisons ended: {verdict.failed}")
    row.expect(max(runs) <= MOST_RUNS, f"a poison ran {max(runs)} times")
    return row
