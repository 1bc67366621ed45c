"""One datagram in, one out: who asks, how it is secured, what is answered (RFC 3412, 3414, 3584).

What cannot be read or believed gets no answer, or at most a report whose size is that of the
question; those go to one address only so often, since it may be forged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tmad.errors import Fault
from tmad.identity.snmp_managers import Table, View
from tmad.protocols.snmp import agent, codec
from tmad.protocols.snmp.codec import (
    AUTHENTICATED,
    CONFIRMED,
    ENCRYPTED,
    PDU,
    QUESTIONS,
    REPORTABLE,
    V1,
    V3,
    CommunityMessage,
    ForeignModel,
    Kind,
    SecureMessage,
    Status,
)
from tmad.protocols.snmp.mib import Snapshot
from tmad.protocols.snmp.usm import Keys, LocalEngine, Salts
from tmad.protocols.snmp.vacm import Window
from tmad.protocols.snmp.values import OID, Counter32, encode_oid

# What is counted, and the instance that a report names (RFC 3412, 5; 3413, 4.1.2; 3414, 5).
REPORTED: Final[dict[str, OID]] = {
    "snmpUnknownPDUHandlers": (1, 3, 6, 1, 6, 3, 11, 2, 1, 3, 0),
    "snmpUnknownContexts": (1, 3, 6, 1, 6, 3, 12, 1, 5, 0),
    "usmStatsUnsupportedSecLevels": (1, 3, 6, 1, 6, 3, 15, 1, 1, 1, 0),
    "usmStatsNotInTimeWindows": (1, 3, 6, 1, 6, 3, 15, 1, 1, 2, 0),
    "usmStatsUnknownUserNames": (1, 3, 6, 1, 6, 3, 15, 1, 1, 3, 0),
    "usmStatsUnknownEngineIDs": (1, 3, 6, 1, 6, 3, 15, 1, 1, 4, 0),
    "usmStatsWrongDigests": (1, 3, 6, 1, 6, 3, 15, 1, 1, 5, 0),
    "usmStatsDecryptionErrors": (1, 3, 6, 1, 6, 3, 15, 1, 1, 6, 0),
}
COUNTERS: Final = (
    "snmpInPkts",
    "snmpOutPkts",
    "snmpInBadVersions",
    "snmpInBadCommunityNames",
    "snmpInBadCommunityUses",
    "snmpInASNParseErrs",
    "snmpSilentDrops",
    "snmpUnknownSecurityModels",
    "snmpInvalidMsgs",
    *REPORTED,
)
_NAMES: Final = {name: encode_oid(oid) for name, oid in REPORTED.items()}

# Beside the scoped PDU and what varies: tags, lengths and numbers of a message of SNMPv3.
_V3_OVERHEAD: Final = 96
_V1_OVERHEAD: Final = 16
_MOST_STRANGERS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What of the settings holds for every answer."""

    longest: int = 1_472  # octets of an answer to a community, and to any GETBULK
    sha1: bool = False
    rate: float = 20.0  # answers a second to an address that has proved nothing
    burst: int = 100


class Reply(NamedTuple):
    """What is sent, if anything, and a word for the meter."""

    octets: bytes | None
    outcome: str


class _Strangers:
    """How often somebody who has proved nothing is answered (S-08)."""

    def __init__(self, seconds: Callable[[], float], rate: float, burst: int) -> None:
        self._seconds = seconds
        self._rate = rate
        self._burst = float(burst)
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def may(self, address: str) -> bool:
        now = self._seconds()
        level, since = self._levels.get(address, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        may = level >= 1
        self._levels[address] = (level - 1 if may else level, now)
        self._levels.move_to_end(address)
        if len(self._levels) > _MOST_STRANGERS:
            self._levels.popitem(last=False)
        return may


class _Drop(Exception):  # noqa: N818  an outcome, not an error
    """This message gets no answer; ``outcome`` says why."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


# The words of Reply.outcome: bounded, for /metrics. What gets no answer is "dropped-…" there.
OUTCOMES: Final = frozenset(
    {
        "answered",
        "refused",
        "reported",
        "malformed",
        "version",
        "community",
        "unauthenticated",
        "limited",
        "not-reportable",
        "too-big",
        "no-question",
    }
)


class Engine:
    """This node's SNMP engine with its command responder."""

    def __init__(
        self,
        local: LocalEngine,
        snapshot: Callable[[], Snapshot],
        salts: Salts,
        seconds: Callable[[], float],
        policy: Policy,
        counters: dict[str, int],
    ) -> None:
        """``counters`` has a number for each of COUNTERS."""
        self.local = local
        self.counters = counters
        self._snapshot = snapshot
        self._salts = salts
        self._policy = policy
        self._strangers = _Strangers(seconds, self._policy.rate, self._policy.burst)
        self._table: Table | None = None
        self._keys: dict[bytes, Keys] = {}
        self._windows: dict[View, Window] = {}
        self._seen: Snapshot | None = None

    def answer(self, datagram: bytes, address: str, table: Table) -> Reply:
        """Return what to send back to ``address``; it never raises for what a stranger sent."""
        self.counters["snmpInPkts"] += 1
        try:
            reply = self._answer(datagram, address, table)
        except _Drop as drop:
            return Reply(None, drop.outcome)
        except Fault as fault:
            if fault.rule == "snmp.version":
                self.counters["snmpInBadVersions"] += 1
                return Reply(None, "version")
            self.counters["snmpInASNParseErrs"] += 1
            return Reply(None, "malformed")
        self.counters["snmpOutPkts"] += 1
        return reply

    def _answer(self, datagram: bytes, address: str, table: Table) -> Reply:
        message = codec.decode(datagram)
        if isinstance(message, CommunityMessage):
            return self._community(message, address, table)
        if isinstance(message, ForeignModel):
            self.counters["snmpUnknownSecurityModels"] += 1
            raise _Drop("version")
        return self._secure(message, address, table)

    def _window(self, view: View) -> Window:
        snapshot = self._snapshot()
        if snapshot is not self._seen:
            self._windows.clear()
            self._seen = snapshot
        found = self._windows.get(view)
        if found is None:
            found = self._windows[view] = Window(snapshot, view)
        return found

    # -- SNMPv1, SNMPv2c ------------------------------------------------------------------------

    def _community(self, message: CommunityMessage, address: str, table: Table) -> Reply:
        version = message.version
        found = table.community(message.community, address)
        if found is None:
            self.counters["snmpInBadCommunityNames"] += 1
            raise _Drop("community")
        pdu = codec.decode_pdu(message.pdu)
        if pdu.kind not in QUESTIONS or (version == V1 and pdu.kind == Kind.GETBULK):
            self.counters["snmpUnknownPDUHandlers"] += 1
            raise _Drop("no-question")
        if pdu.kind == Kind.SET:
            self.counters["snmpInBadCommunityUses"] += 1
        room = self._policy.longest - _V1_OVERHEAD - len(message.community)
        answer = agent.respond(pdu, version, self._window(found.view), room=room, bulk_room=room)
        if answer is None:
            self.counters["snmpSilentDrops"] += 1
            raise _Drop("too-big")
        octets = codec.encode_community(version, message.community, answer)
        return Reply(octets, "refused" if pdu.kind == Kind.SET else "answered")

    # -- SNMPv3 ---------------------------------------------------------------------------------

    def _secure(self, message: SecureMessage, address: str, table: Table) -> Reply:
        """RFC 3414, 3.2, in its order."""
        level = message.flags & (AUTHENTICATED | ENCRYPTED)
        if level == ENCRYPTED:
            self.counters["snmpInvalidMsgs"] += 1
            raise _Drop("malformed")
        if message.engine_id != self.local.engine_id:
            # That is how a manager discovers the engine, too (RFC 3414, 4).
            return self._report(message, address, "usmStatsUnknownEngineIDs")
        user = table.users.get(message.user)
        if user is None:
            return self._report(message, address, "usmStatsUnknownUserNames")
        if user.authentication == "sha1" and not self._policy.sha1:
            return self._report(message, address, "usmStatsUnsupportedSecLevels")
        if table is not self._table:
            self._keys.clear()
            self._table = table
        keys = self._keys.get(message.user)
        if keys is None:
            keys = self._keys[message.user] = Keys.of(user, self.local.engine_id)
        if level & AUTHENTICATED:
            if not keys.is_authentic(message):
                return self._report(message, address, "usmStatsWrongDigests")
            if not self.local.is_timely(message.boots, message.time):
                # RFC 3414, 3.2.7 a: signed, for the manager takes our time from it.
                return self._report(message, address, "usmStatsNotInTimeWindows", keys)
        return self._scoped(message, address, keys)

    def _scoped(self, message: SecureMessage, address: str, keys: Keys) -> Reply:
        level = message.flags & (AUTHENTICATED | ENCRYPTED)
        data: bytes | None = message.data
        if level & ENCRYPTED:
            data = keys.decrypt(message)
        try:
            scoped = None if data is None else codec.decode_scoped(data)
        except Fault:
            if not level & ENCRYPTED:
                raise
            scoped = None
        if scoped is None:
            # What another key has made of it is no scoped PDU.
            return self._report(message, address, "usmStatsDecryptionErrors", keys)
        pdu = codec.decode_pdu(scoped.pdu)
        if scoped.engine_id != self.local.engine_id or pdu.kind not in QUESTIONS:
            return self._report(message, address, "snmpUnknownPDUHandlers", keys, pdu)
        if scoped.context:
            return self._report(message, address, "snmpUnknownContexts", keys, pdu)
        overhead = self._overhead(message, keys)
        room = min(message.max_size, codec.LONGEST_OUT) - overhead
        if level != AUTHENTICATED | ENCRYPTED:
            # S-01: VACM lets nobody in below authPriv.
            if not level and not self._strangers.may(address):
                raise _Drop("limited")
            answer = agent.refuse(pdu, V3, Status.AUTHORIZATION_ERROR, room)
            return Reply(self._sealed(message, keys, level, answer), "refused")
        window = self._window(keys.user.view)
        bulk_room = self._policy.longest - overhead
        answer = agent.respond(pdu, V3, window, room=room, bulk_room=bulk_room)
        outcome = "refused" if pdu.kind == Kind.SET else "answered"
        return Reply(self._sealed(message, keys, level, answer), outcome)

    def _overhead(self, message: SecureMessage, keys: Keys) -> int:
        return _V3_OVERHEAD + 2 * len(self.local.engine_id) + len(message.user) + keys.digest_octets

    def _report(
        self,
        message: SecureMessage,
        address: str,
        counter: str,
        keys: Keys | None = None,
        pdu: PDU | None = None,
    ) -> Reply:
        """Count what is wrong, and say so if the sender wants to know (RFC 3412, 7.1.3).

        With ``keys`` the sender has proved to hold them, as far as its message was signed.
        """
        self.counters[counter] += 1
        wanted = message.flags & REPORTABLE if pdu is None else pdu.kind in CONFIRMED
        if not wanted:
            raise _Drop("not-reportable")
        level = message.flags & (AUTHENTICATED | ENCRYPTED) if keys is not None else 0
        if pdu is None:
            level &= AUTHENTICATED
        if not level and not self._strangers.may(address):
            raise _Drop("limited")
        binding = codec.encode_binding(_NAMES[counter], Counter32(self.counters[counter]))
        request_id = 0 if pdu is None else pdu.request_id
        report = codec.encode_pdu(Kind.REPORT, request_id, 0, 0, [binding])
        outcome = "unauthenticated" if counter == "usmStatsWrongDigests" else "reported"
        return Reply(self._sealed(message, keys, level, report), outcome)

    def _sealed(
        self, message: SecureMessage, keys: Keys | None, level: int, pdu: bytes | None
    ) -> bytes:
        """Return the message that answers another one, as well secured as ``level`` says."""
        if pdu is None:
            self.counters["snmpSilentDrops"] += 1
            raise _Drop("too-big")
        engine_id = self.local.engine_id
        answer = SecureMessage(
            message_id=message.message_id,
            max_size=codec.LONGEST_IN,
            flags=level,
            engine_id=engine_id,
            boots=self.local.boots,
            time=self.local.time(),
            user=message.user,
            digest=b"",
            salt=b"",
            data=codec.encode_scoped(engine_id, b"", pdu),
        )
        if keys is None:
            return codec.encode_secure(answer)
        return keys.sealed(answer, self._salts)
