"""Salts of answers, and the keys that come of them (RFC 9810, 5.1.3.1).

Deriving a key takes longer than all else in an answer, so the salt stays the same throughout a
transaction, as the RFC recommends: the client's own where it is long and new, else one of ours.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Final, NamedTuple, TypeAlias, TypeVar

from tmad.events import Clock, Secret
from tmad.protocols.cmp.protection import MAC, SALT
from tmad.wire.cms import Random
from tmad.wire.signatures import Algorithm

_KEPT: Final = timedelta(minutes=10)
_MOST_KEPT: Final = 1_000
# T-CMP-01: a salt does not come again in so many answers, whatever the client does.
_REMEMBERED: Final = 10_000

K = TypeVar("K")
V = TypeVar("V")
Derive: TypeAlias = Callable[[MAC, Secret], Awaitable[bytes]]


class Protected(NamedTuple):
    """How the answers of a transaction are protected; ``algorithm`` is their protectionAlg."""

    mac: MAC
    key: Secret
    algorithm: Algorithm
    since: datetime


class Salts:
    """The salts of the transactions of the last minutes."""

    def __init__(self, derive: Derive, random: Random, now: Clock) -> None:
        self._derive = derive
        self._random = random
        self._now = now
        self._blind = token_bytes(32)
        self._kept: OrderedDict[tuple[object, ...], Protected] = OrderedDict()
        self._used: OrderedDict[bytes, None] = OrderedDict()

    def key_of(self, transaction: bytes | None, mac: MAC, secret: Secret) -> bytes | None:
        """Return the key of a message that has the salt of its transaction's answers."""
        found = self._find(self._name(transaction, mac, secret))
        return found.key.reveal() if found is not None and found.mac.salt == mac.salt else None

    async def answering(
        self, transaction: bytes | None, mac: MAC, secret: Secret, key: bytes
    ) -> Protected:
        """Return how an answer is protected; ``mac`` and ``key`` are those of its request."""
        name = self._name(transaction, mac, secret)
        found = self._find(name)
        if found is not None:
            return found
        if len(mac.salt) < SALT or mac.salt in self._used:
            mac = mac.renewed(self._random)
            key = await self._derive(mac, secret)
        _remember(self._used, mac.salt, None, _REMEMBERED)
        found = Protected(mac, Secret(key), mac.algorithm(), self._now())
        _remember(self._kept, name, found, _MOST_KEPT)
        return found

    def _find(self, name: tuple[object, ...]) -> Protected | None:
        found = self._kept.get(name)
        is_fresh = found is not None and timedelta(0) <= self._now() - found.since < _KEPT
        return found if is_fresh else None

    def _name(self, transaction: bytes | None, mac: MAC, secret: Secret) -> tuple[object, ...]:
        digest = hashlib.sha256(self._blind + secret.reveal()).digest()
        how = mac.kind, mac.rounds, mac.hash_oid, mac.mac_algorithm, mac.key_length
        return transaction, digest, *how


def _remember(kept: OrderedDict[K, V], name: K, value: V, most: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > most:
        kept.popitem(last=False)
