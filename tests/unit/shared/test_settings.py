"""The environment's reader, and its page for operators."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.settings import ENV_PREFIX, Settings

ENV_EXAMPLE = Path("deploy/env.example")


def test_every_setting_is_in_env_example_with_its_default() -> None:
    listed = dict(re.findall(r"^# ?(DREAMQUEUE_\w+)=(.*)$", ENV_EXAMPLE.read_text(), re.M))
    fields = {ENV_PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
    assert set(listed) == set(fields)
    for name, field in fields.items():
        if field.default_factory is None:
            told = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert listed[name] == told, name


def test_values_are_read_and_typed() -> None:
    settings = Settings.from_env({"DREAMQUEUE_LEASE_S": "12.5", "DREAMQUEUE_SLOTS": "7", "OTHER": "x"})
    assert (settings.lease_s, settings.slots) == (12.5, 7)


def test_a_wrong_value_stops_with_its_name() -> None:
    with pytest.raises(SystemExit, match=r"DREAMQUEUE_SLOTS.*many"):
        Settings.from_env({"DREAMQUEUE_SLOTS": "many"})


def test_client_settings_share_the_prefix_and_are_left_alone() -> None:
    assert Settings.from_env({"DREAMQUEUE_URL": "http://x", "DREAMQUEUE_API_KEY": "k"}).slots == 4


def test_three_beats_fit_in_a_lease() -> None:
    settings = Settings()
    assert settings.beat_s * 3 <= settings.lease_s
    with pytest.raises(SystemExit, match=r"three beats .*DREAMQUEUE_LEASE_S must be 12 at least, not 5"):
        Settings.from_env({"DREAMQUEUE_LEASE_S": "5"})
