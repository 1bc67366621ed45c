"""Replay nonces that any worker of any node can have made (RFC 8555, 6.5).

A nonce carries its time and a MAC under the master key, so that making one costs no row; what is
kept is which ones were used.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from tmad.ca.acme.faults import deny
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.signer.seal import Seal
from tmad.storage import acme as rows
from tmad.storage.batches import Batches
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

LIFETIME: Final = timedelta(hours=1)

_TIME: Final = 5  # octets: seconds since 1970
_BODY: Final = _TIME + 16  # and 128 random bits
_WHOLE: Final = _BODY + 12
_BATCH: Final = 1_000
_SKEW: Final = timedelta(minutes=1)  # between the clocks of nodes


class _Use(NamedTuple):
    digest: bytes
    expires_at: datetime


class Nonces:
    """Makes nonces and takes each of them once."""

    def __init__(self, database: Database, seal: Seal, now: Clock) -> None:
        self._database = database
        self._seal = seal
        # Each message uses one: those of one moment share a commit.
        self._uses: Batches[_Use, None] = Batches(database, _use)
        self._now = now

    def make(self) -> str:
        """Return a new one, in base64url."""
        seconds = int(self._now().timestamp())
        body = seconds.to_bytes(_TIME, "big") + randomness.token_bytes(_BODY - _TIME)
        return base64.urlsafe_b64encode(body + self._mac(body)).decode()

    async def use(self, nonce: str) -> None:
        """Take one; Fault(BAD_INTEGRITY), badNonce, for any that is not to be had any more."""
        made_at, digest = self._open(nonce)
        now = self._now()
        if not now - LIFETIME < made_at <= now + _SKEW:
            raise _bad("the nonce is too old")
        await self._uses.add(_Use(digest, made_at + LIFETIME))

    async def forget(self) -> int:
        """Forget those used ones that are too old anyway."""
        total = 0
        while gone := await self._database.write(rows.forget_nonces, self._now(), _BATCH):
            total += gone
        return total

    def _open(self, nonce: str) -> tuple[datetime, bytes]:
        try:
            whole = base64.b64decode(nonce.encode("ascii"), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError, ValueError):
            whole = b""
        body, mac = whole[:_BODY], whole[_BODY:]
        if len(whole) != _WHOLE or not hmac.compare_digest(self._mac(body), mac):
            raise _bad("the nonce is not one of ours")
        return datetime.fromtimestamp(int.from_bytes(body[:_TIME], "big"), UTC), body

    def _mac(self, body: bytes) -> bytes:
        return self._seal.digest("acme-nonce", Secret(body))[: _WHOLE - _BODY]


def _use(connection: Connection, uses: Sequence[_Use]) -> list[None]:
    rows.use_nonces(connection, uses)
    return [None] * len(uses)


def _bad(detail: str) -> Fault:
    return deny(FaultCode.BAD_INTEGRITY, "badNonce", detail, "acme.nonce")
