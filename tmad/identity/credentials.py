"""Enrolment secrets: one-time, time-limited and static challenges.

Only a digest under the master key is stored. Whatever is wrong with a presented secret, the
client hears one neutral sentence; the rule that said no goes to the journal.
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets as randomness
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event, Secret
from tmad.identity.access import Records, guarded
from tmad.identity.actors import Actor
from tmad.identity.binding import Binding
from tmad.signer.seal import Seal
from tmad.storage import enroll_secrets as rows
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import EnrollSecret
from tmad.storage.kept import KeptByKey

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.storage.changes import Changes

_OCTETS: Final = 20  # 160 bits
_GENERATED: Final = re.compile(rb"[A-Z2-7]{32}")
_SHORTEST: Final = 16  # characters of a secret that a person brings
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_SHIFTS: Final = tuple(range(120, -1, -10))
_PEERS: Final = 10_000
_STATIC_KEPT: Final = 1_000


class ChallengePolicy(BaseModel):
    """Which enrolment secrets may exist for one endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    static: bool = Field(
        default=False,
        description="Allow secrets that work any number of times: whoever reads one of them "
        "can enrol as anyone the profile allows (VU#971035).",
    )
    lifetime_hours: int = Field(default=24, ge=1, le=8760, description="Of a one-time secret.")
    longest_hours: int = Field(default=720, ge=1, le=87600, description="That may be asked for.")
    recoverable: bool = Field(
        default=False,
        description="Allow secrets that are kept sealed, not as a digest: a MAC under a secret "
        "(CMP, CMC) can be verified in no other way.",
    )
    failures_per_minute: int = Field(
        default=10, ge=1, le=6000, description="Wrong secrets from one peer before it must wait."
    )

    @model_validator(mode="after")
    def _default_fits(self) -> ChallengePolicy:
        if self.lifetime_hours > self.longest_hours:
            raise ValueError("lifetime_hours is longer than longest_hours")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What a secret must know of its endpoint ("scep/routers")."""

    tenant: str
    policy: ChallengePolicy


class EnrollSecrets:
    """The enrolment secrets of one database.

    ``door`` finds an endpoint; it raises Fault(NOT_FOUND). Static secrets are kept as long as
    ``changes`` tells of no revocation; the transaction that claims one asks the database anyway.
    """

    def __init__(
        self,
        database: Database,
        journal: Records,
        seal: Seal,
        now: Clock,
        door: Callable[[str], Awaitable[Door]],
        changes: Changes | None = None,
    ) -> None:
        self.journal = journal
        self._database = database
        self._seal = seal
        self._now = now
        self._door = door
        self._failures = _Buckets(now)
        self._changes = changes
        self._static: KeptByKey[tuple[str, bytes], EnrollSecret | None] = KeptByKey(
            largest=_STATIC_KEPT, keeps=lambda row: row is not None and row.uses_left is None
        )
        if changes is not None:
            changes.listen(rows.TOPIC, lambda _: self._static.forget_all())

    # -- for actors -------------------------------------------------------------------------

    @guarded("secret.create")
    async def create(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str,
        *,
        uses: Literal[1] | None = 1,
        lifetime: timedelta | None = None,
        bound_to: Binding | None = None,
        secret: Secret | None = None,
        recoverable: bool = False,
        dry_run: bool = False,
    ) -> tuple[EnrollSecret, Secret]:
        """Make a secret and return it, this one time, with its row.

        A ``recoverable`` one is kept sealed as well, where the endpoint's policy allows it: who
        knows it proves so by a MAC, naming the row's id as the reference.
        ``uses`` None makes a static secret, which the endpoint's policy must allow and which
        lives until it is revoked unless ``lifetime`` says less. Without ``secret`` it is random:
        160 bits as 32 letters and digits.
        """
        door = await self._door(endpoint)
        if door.tenant != tenant:
            # Another tenant's endpoint is one that does not exist.
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is no such endpoint",
                rule="endpoint.absent",
                values={"endpoint": endpoint},
            )
        if uses is None and not door.policy.static:
            raise Fault(
                FaultCode.REJECTED,
                f"the endpoint {endpoint} allows no static secrets",
                rule="secret.static",
                values={"endpoint": endpoint, "challenge.static": "false"},
            )
        if recoverable and not door.policy.recoverable:
            raise Fault(
                FaultCode.REJECTED,
                f"the endpoint {endpoint} allows no recoverable secrets",
                rule="secret.recoverable",
                values={"endpoint": endpoint, "challenge.recoverable": "false"},
            )
        lifetime = _lifetime(door.policy, uses, lifetime)
        clear = _checked(secret) if secret else _random()
        now = self._now()
        row = EnrollSecret(
            id=new_id(now),
            tenant=tenant,
            endpoint=endpoint,
            bound_to=(bound_to or Binding()).model_dump_json(exclude_defaults=True),
            uses_left=uses,
            claimed_by=None,
            used_at=None,
            revoked_at=None,
            expires_at=None if lifetime is None else now + lifetime,
            created_by=actor.name,
            created_at=now,
        )
        digest = self.digest(endpoint, clear)
        sealed = self._seal.seal(clear.reveal(), about=_about(row)) if recoverable else None
        await self._database.write(self._insert, row, digest, sealed, dry_run=dry_run)
        return row, clear

    @guarded("secret.read")
    async def list(
        self,
        actor: Actor,
        tenant: str,
        endpoint: str | None = None,
        *,
        after: str = "",
        limit: int = 100,
    ) -> tuple[EnrollSecret, ...]:
        """Return a page of a tenant's secrets without the secrets, oldest first."""
        return await self._database.read(rows.find, tenant, endpoint, after, limit)

    @guarded("secret.revoke")
    async def revoke(
        self, actor: Actor, tenant: str, secret_id: str, *, dry_run: bool = False
    ) -> bool:
        """Make a secret unusable; tell whether it was not so before. Fault(NOT_FOUND)."""
        return await self._database.write(self._revoke, actor, tenant, secret_id, dry_run=dry_run)

    # -- for the pipeline, inside its transaction ------------------------------------------

    def digest(self, endpoint: str, secret: Secret) -> bytes:
        """Return what the database knows of a secret; it differs from endpoint to endpoint."""
        return self._seal.digest(f"enroll-secret {endpoint}", _canonical(secret))

    async def find(self, endpoint: str, digest: bytes) -> EnrollSecret:
        """Return the usable secret with this digest; the neutral Fault for any other."""
        row = await self.presented(endpoint, digest)
        if row is None:
            raise refusal("secret.wrong", endpoint=endpoint)
        self.check_usable(row)
        return row

    async def presented(self, endpoint: str, digest: bytes) -> EnrollSecret | None:
        """Return the secret with this digest in whatever state; ``check_usable`` follows."""
        reading = self._database.lookup
        if self._changes is None:
            return await reading(rows.by_digest, endpoint, digest)
        await self._changes.catch_up()
        kept = self._static.get((endpoint, digest))
        if kept is not None:
            return kept
        return await self._static.fill(
            (endpoint, digest), reading(rows.by_digest, endpoint, digest)
        )

    def shared(
        self, connection: Connection, tenant: str, endpoint: str, reference: str
    ) -> tuple[EnrollSecret, Secret] | None:
        """Return the recoverable secret of a reference in whatever state, and what it is."""
        found = rows.sealed(connection, tenant, endpoint, reference)
        if found is None:
            return None
        row, sealed = found
        return row, self._seal.open(sealed, about=_about(row))

    def check_binding(
        self,
        secret: EnrollSecret,
        subject: x509.Name,
        names: Iterable[x509.GeneralName],
        profile: str,
    ) -> None:
        """Raise the neutral Fault unless the secret is good for these names and this profile."""
        binding = _binding(secret.bound_to)
        if (violation := binding.violation(subject, names, profile)) is not None:
            rule, value = violation
            raise refusal(rule, secret=secret.id, asked=value, bound_to=secret.bound_to)

    def claim(
        self, connection: Connection, wanted: Sequence[tuple[str, str]], now: datetime
    ) -> None:
        """Take secrets for requests, as pairs of their ids; the neutral Fault unless all can be.

        Of many that want the same one, all but one get it.
        """
        if not rows.claim(connection, wanted, now):
            raise refusal("secret.used", secret=", ".join(key for key, _ in wanted))

    def consume(
        self, connection: Connection, wanted: Sequence[tuple[str, str]], now: datetime
    ) -> None:
        """Use up claimed secrets, in the transaction that records the issue."""
        if not rows.consume(connection, wanted, now):
            raise refusal("secret.used", secret=", ".join(key for key, _ in wanted))

    def release(self, connection: Connection, secret_id: str, request_id: str) -> None:
        """Give back a claimed secret: the request failed, and not because of the secret."""
        rows.release(connection, secret_id, request_id)

    # -- what a message is given to bring back ----------------------------------------------

    def stamp(self, about: str, message: bytes) -> Secret:
        """Return what only this appliance can compute about a message: 32 octets.

        Any worker computes the same, so that a challenge needs no row; ``about`` says what it is
        for, and since when if it shall end.
        """
        return Secret(self._seal.digest(f"stamp {about}", Secret(message)))

    # -- guessing ---------------------------------------------------------------------------

    def admit(self, endpoint: str, peer: str, policy: ChallengePolicy) -> None:
        """Raise Fault(RATE_LIMITED) for a peer that presented too many wrong secrets here."""
        wait = self._failures.wait(endpoint, peer, policy.failures_per_minute)
        if wait > 0:
            raise Fault(
                FaultCode.RATE_LIMITED,
                "too many challenges were not accepted",
                retry_after=math.ceil(wait),
                rule="secret.guessing",
                values={"endpoint": endpoint, "peer": peer},
            )

    async def note_failure(
        self, endpoint: str, tenant: str, peer: str, policy: ChallengePolicy
    ) -> None:
        """Count one wrong secret; journal the moment from which the peer has to wait."""
        if self._failures.take(endpoint, peer, policy.failures_per_minute):
            await self.journal.write(
                Event(
                    kind="secret.guessing-limited",
                    tenant=tenant,
                    actor=endpoint,
                    object=endpoint,
                    data={"peer": peer, "failures_per_minute": policy.failures_per_minute},
                )
            )

    # -- transactions -----------------------------------------------------------------------

    def _insert(
        self, connection: Connection, row: EnrollSecret, digest: bytes, sealed: bytes | None
    ) -> None:
        rows.insert(connection, row, digest=digest, sealed=sealed)
        expires = None if row.expires_at is None else row.expires_at.isoformat()
        data: dict[str, JSON] = {
            "endpoint": row.endpoint,
            "uses": row.uses_left,
            "expires_at": expires,
            "bound_to": json.loads(row.bound_to),
        }
        if sealed is not None:
            data["recoverable"] = True
        created = Event(
            kind="secret.created", tenant=row.tenant, actor=row.created_by, object=row.id, data=data
        )
        self.journal.append(connection, created)
        if row.uses_left is None:
            # VU#971035: whoever reads a static challenge can enrol as anyone.
            self.journal.append(
                connection,
                replace(
                    created,
                    kind="warning.raised",
                    data={"warning": "static enrolment secret", "endpoint": row.endpoint},
                ),
            )

    def _revoke(self, connection: Connection, actor: Actor, tenant: str, secret_id: str) -> bool:
        row = rows.by_id(connection, tenant, secret_id)
        if row is None:
            raise Fault(
                FaultCode.NOT_FOUND, f"there is no secret {secret_id}", rule="secret.absent"
            )
        if not rows.revoke(connection, tenant, secret_id, self._now()):
            return False
        self.journal.append(
            connection,
            Event(
                kind="secret.revoked",
                tenant=tenant,
                actor=actor.name,
                object=secret_id,
                data={"endpoint": row.endpoint},
            ),
        )
        return True

    def check_usable(self, row: EnrollSecret) -> None:
        """Raise the neutral Fault for a secret that is revoked, used up or too old."""
        now = self._now()
        if row.revoked_at is not None:
            raise refusal("secret.revoked", secret=row.id, revoked_at=row.revoked_at.isoformat())
        if row.uses_left == 0:
            raise refusal("secret.used", secret=row.id, used_at=str(row.used_at))
        if row.expires_at is not None and row.expires_at <= now:
            raise refusal(
                "secret.expired",
                secret=row.id,
                expires_at=row.expires_at.isoformat(),
                now=now.isoformat(),
            )


def refusal(rule: str, **values: str) -> Fault:
    """Return the one answer to a secret that is wrong, used, expired, revoked or not for this."""
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the challenge was not accepted",
        private=", ".join([rule, *(f"{key}={value}" for key, value in values.items())]),
        rule=rule,
        values=values,
    )


def grouped(secret: Secret) -> str:
    """Return a random secret in groups of four for people; any other as it is."""
    text = secret.reveal().decode()
    if not _GENERATED.fullmatch(text.encode()):
        return text
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def new_id(now: datetime) -> str:
    """Return a ULID: 48 bits of milliseconds and 80 random bits, sorting by time."""
    number = int(now.timestamp() * 1000) << 80 | randomness.randbits(80)
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


# The same again and again for a static secret, and for those that nobody bound.
_binding = lru_cache(maxsize=256)(Binding.model_validate_json)


def _about(row: EnrollSecret) -> str:
    return "enroll-secret " + json.dumps([row.id, row.tenant, row.endpoint])


def _random() -> Secret:
    return Secret(base64.b32encode(randomness.token_bytes(_OCTETS)))


def _checked(secret: Secret) -> Secret:
    octets = secret.reveal()
    if not (_SHORTEST <= len(octets) <= 255 and all(0x20 < octet < 0x7F for octet in octets)):
        # RFC 2985, 5.4.1: a challengePassword has 1 to 255 characters; ASCII is what all send.
        raise Fault(
            FaultCode.REJECTED,
            f"a secret has {_SHORTEST} to 255 visible ASCII characters",
            rule="secret.weak",
        )
    return secret


def _canonical(secret: Secret) -> Secret:
    """Let a random secret be typed in groups and in lower case."""
    plain = secret.reveal().replace(b"-", b"").upper()
    return Secret(plain) if _GENERATED.fullmatch(plain) else secret


def _lifetime(
    policy: ChallengePolicy, uses: int | None, lifetime: timedelta | None
) -> timedelta | None:
    if lifetime is None:
        return None if uses is None else timedelta(hours=policy.lifetime_hours)
    longest = timedelta(hours=policy.longest_hours)
    if not timedelta(0) < lifetime <= longest:
        raise Fault(
            FaultCode.REJECTED,
            f"a secret of this endpoint lives at most {policy.longest_hours} hours",
            rule="secret.lifetime",
            values={"lifetime": str(lifetime), "longest": str(longest)},
        )
    return lifetime


class _Buckets:
    """Token buckets of endpoint and peer; the least recently used are forgotten."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._levels: OrderedDict[tuple[str, str], tuple[float, datetime]] = OrderedDict()

    def wait(self, endpoint: str, peer: str, per_minute: int) -> float:
        """Return the seconds until the peer may fail again."""
        if not self._levels:
            return 0.0  # nobody has failed yet
        level = self._level((endpoint, _network(peer)), per_minute)
        return 0.0 if level >= 1 else (1 - level) * 60 / per_minute

    def take(self, endpoint: str, peer: str, per_minute: int) -> bool:
        """Take one token; tell whether it was the last one."""
        key = (endpoint, _network(peer))
        before = self._level(key, per_minute)
        after = max(0.0, before - 1)
        self._levels[key] = (after, self._now())
        self._levels.move_to_end(key)
        if len(self._levels) > _PEERS:
            self._levels.popitem(last=False)
        return before >= 1 > after

    def _level(self, key: tuple[str, str], per_minute: int) -> float:
        found = self._levels.get(key)
        if found is None:
            return float(per_minute)
        level, since = found
        # A clock that was set back refills nothing.
        elapsed = max(0.0, (self._now() - since).total_seconds())
        return min(float(per_minute), level + elapsed * per_minute / 60)


@lru_cache(1024)
def _network(peer: str) -> str:
    """Return the address, of IPv6 the /64 that one host has to itself."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return address.packed[:8].hex()
    return peer
