"""The Lua scripts of shared/store/scripts, ready to run on one Redis; and the base of what runs them."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources
from typing import Any

import redis

from shared.settings import Settings
from shared.store import keys
from shared.store.doorbell import WIRE
from shared.store.redis import guarded

__all__ = ["LIBRARY", "ScriptedStore", "Scripts"]

LIBRARY = ("keys", "records", "fairness", "isolation", "moves")  # scripts/lib; each part uses those before it

_COMMENT = re.compile(r"--.*")
_FUNCTION = re.compile(r"^local function (?P<name>\w+)(?:.* end|(?:.*\n)+?end)$", re.MULTILINE)  # at the left margin


class Scripts:
    """Runs a script by its file's name; the library and the constants go in front of each. Thread-safe."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._constants = json.dumps(
            {
                "prefix": keys.PREFIX,
                "events_max_len": settings.events_max_len,
                "event_ttl_ms": settings.event_ttl_s * 1000,
                "result_ttl_ms": settings.result_ttl_s * 1000,
                "gone_ttl_ms": settings.gone_ttl_s * 1000,
                "idempotency_ttl_ms": settings.idempotency_ttl_s * 1000,
                "max_queued": settings.max_queued_per_tenant,
                "max_losses": settings.max_losses,
            }
        )
        self._registered: dict[str, Any] = {}

    def run(self, name: str, *args: Any) -> Any:
        """The script's reply. Loaded into Redis when it is not there."""
        script = self._registered.get(name)
        if script is None:
            script = self._registered[name] = self._client.register_script(_source(name))
        return script(args=[self._constants, *args])


@functools.cache
def _source(name: str) -> str:
    """A script with the library in front of it. The doorbell is a literal of the text, not one of the constants, which
    are parsed with each call."""
    folder = resources.files("shared.store") / "scripts"
    library = "\n".join((folder / "lib" / f"{part}.lua").read_text() for part in LIBRARY)
    script = (folder / f"{name}.lua").read_text()
    return "\n".join([f"local DOORBELL = [==[{WIRE}]==]", _needed(_COMMENT.sub("", library), script), script])


def _needed(library: str, script: str) -> str:
    """The library without the functions that neither the script nor what it calls names: Redis makes each one anew with
    every call of the script, which for all of them costs as much as a short script does."""
    functions = {found["name"]: found[0] for found in _FUNCTION.finditer(library)}
    named: set[str] = set()
    texts = [_COMMENT.sub("", script)]
    while texts:
        new = functions.keys() & set(re.findall(r"\w+", texts.pop())) - named
        named |= new
        texts += [functions[name] for name in new]
    return _FUNCTION.sub(lambda found: found[0] if found["name"] in named else "", library)


class ScriptedStore:
    """One Redis, the settings, and the scripts."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.redis = client
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._run = Scripts(client, settings).run

    @guarded
    def now_ms(self) -> int:
        """Redis' clock."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000
