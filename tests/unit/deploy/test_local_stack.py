"""What the embedded stack takes from the settings."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from deploy.local.servers import free_port
from deploy.local.stack import Stack, StackOptions
from shared.settings import Settings

RUNBOOK = Path(__file__).parents[3] / "deploy" / "RUNBOOK.md"


def test_workers_get_the_time_that_their_settings_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMQUEUE_DRAIN_GRACE_S", "100")
    assert Stack(StackOptions(tmp_path))._worker_stop_s == Settings(drain_grace_s=100).stop_within_s
    own = StackOptions(tmp_path, env={"DREAMQUEUE_DRAIN_GRACE_S": "7"})
    assert Stack(own)._worker_stop_s == Settings(drain_grace_s=7).stop_within_s


def test_the_runbook_gives_them_as_long() -> None:
    told = re.findall(r"(?:TimeoutStopSec=|terminationGracePeriodSeconds: )(\d+)", RUNBOOK.read_text())
    assert [float(seconds) for seconds in told] == [Settings().stop_within_s] * 2


def test_ports_are_no_connections_ports_and_given_out_once() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        assert free_port(ports[0]) != ports[0]
    assert free_port(ports[1]) == ports[1]
