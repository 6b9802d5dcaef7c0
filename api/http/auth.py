"""API keys: `dq_<kid>_<secret>`, 256 random bits, shown once, stored as the secret's SHA-256.

The secret has too much entropy to be guessed, so a plain hash is enough; the tenant comes from the key and from
nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import redis

from shared.errors import Forbidden, InvalidInput, Unauthorized, UnreadableRecord
from shared.logs import get_logger
from shared.records.reading import FieldReader
from shared.store import keys
from shared.store.redis import guarded

__all__ = ["SCOPES", "ApiKey", "Authenticator", "KeyStore", "Principal"]

log = get_logger(__name__)

SCOPES = frozenset({"jobs:read", "jobs:write", "admin"})
TENANT = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")  # part of Redis keys and object keys: no colon, no slash
NOBODY = hashlib.sha256(b"").hexdigest()  # compared against where the key id is unknown, so both cases take as long


@dataclass(frozen=True)
class Principal:
    """Who calls."""

    tenant: str
    kid: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key has `scope`; `admin` does not imply the others."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope}")


@dataclass(frozen=True)
class ApiKey:
    """A key as stored: never the secret itself."""

    kid: str
    tenant: str
    scopes: frozenset[str]
    sha256: str
    created_at: int  # seconds since the epoch
    expires_at: int | None = None

    @classmethod
    def from_hash(cls, kid: str, raw: dict[str, str]) -> ApiKey:
        """Read the Redis hash `dq:key:{kid}`. Raises UnreadableRecord: half a key must not open more than the whole."""
        read = FieldReader(raw)
        key = cls(
            kid=kid,
            tenant=read.required("tenant"),
            scopes=frozenset(read.text("scopes").split()),
            sha256=read.required("sha256"),
            created_at=read.integer("created_at"),
            expires_at=read.optional_integer("expires_at"),
        )
        if read.unreadable:
            raise UnreadableRecord(f"the API key {kid} cannot be read: {', '.join(read.unreadable)}")
        return key


class KeyStore:
    """Create, look up, list and revoke keys in Redis. Every method raises StoreUnavailable when Redis is away."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @guarded
    def create(self, tenant: str, scopes: Iterable[str], *, expires_in_s: int | None = None) -> str:
        """Make a key and return its text, the only time it can be seen. Raises InvalidInput."""
        wanted = frozenset(scopes)
        if unknown := wanted - SCOPES:
            raise InvalidInput(
                f"unknown scopes: {', '.join(sorted(unknown))}", field="scopes", limit=", ".join(sorted(SCOPES))
            )
        if not TENANT.fullmatch(tenant):
            raise InvalidInput("a tenant is 1 to 32 of a-z, 0-9 and -", field="tenant", limit=TENANT.pattern)
        kid, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        now = int(time.time())
        self._redis.hset(
            keys.key(kid),
            mapping={
                "sha256": _digest(secret),
                "tenant": tenant,
                "scopes": " ".join(sorted(wanted)),
                "created_at": now,
                "expires_at": "" if expires_in_s is None else now + expires_in_s,
            },
        )
        return f"dq_{kid}_{secret}"

    @guarded
    def find(self, kid: str) -> ApiKey | None:
        """The key with this id; None where there is none that can be read."""
        raw = cast("dict[str, str]", self._redis.hgetall(keys.key(kid)))
        try:
            return ApiKey.from_hash(kid, raw) if raw else None
        except UnreadableRecord as error:
            log.error("API key refused", error=error.message)
            return None

    @guarded
    def revoke(self, kid: str) -> bool:
        """Delete a key; false when there was none. API processes forget it within settings.key_cache_s."""
        return bool(self._redis.delete(keys.key(kid)))

    @guarded
    def list(self, tenant: str | None = None) -> list[ApiKey]:
        """All keys, or those of one tenant; by tenant and age. Scans: for operators, not for requests."""
        prefix = keys.key("")
        kids = [str(name).removeprefix(prefix) for name in self._redis.scan_iter(f"{prefix}*", count=500)]
        found = [key for kid in kids if (key := self.find(kid)) and tenant in (None, key.tenant)]
        return sorted(found, key=lambda key: (key.tenant, key.created_at, key.kid))


class Authenticator:
    """From an Authorization header to a Principal. Known keys are remembered for `cache_s`, unknown ones never."""

    def __init__(self, store: KeyStore, cache_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._cache_s = cache_s
        self._clock = clock
        self._known: dict[str, tuple[float, ApiKey]] = {}

    def principal(self, header: str | None) -> Principal:
        """Raise Unauthorized unless `header` is `Bearer` with a key that is held and not over."""
        kid, secret = _parts(header)
        key = self._key(kid)
        matches = hmac.compare_digest(_digest(secret), key.sha256 if key else NOBODY)
        if key is None or not matches:
            raise Unauthorized("this API key is not valid")
        if key.expires_at is not None and key.expires_at <= time.time():
            raise Unauthorized("this API key has expired")
        return Principal(key.tenant, kid, key.scopes)

    def _key(self, kid: str) -> ApiKey | None:
        now = self._clock()
        cached = self._known.get(kid)
        if cached and cached[0] > now:
            return cached[1]
        key = self._store.find(kid)
        if key is None:
            self._known.pop(kid, None)
        else:
            self._known[kid] = (now + self._cache_s, key)
        return key


def _parts(header: str | None) -> tuple[str, str]:
    if not header:
        raise Unauthorized("send an API key: Authorization: Bearer dq_...")
    scheme, _, text = header.partition(" ")
    mark, _, rest = text.strip().partition("_")
    kid, _, secret = rest.partition("_")
    if scheme.lower() != "bearer" or mark != "dq" or not re.fullmatch(r"[0-9a-f]{12}", kid) or not secret:
        raise Unauthorized("this API key is not valid")
    return kid, secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
