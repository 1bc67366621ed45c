"""Traps and informs as messages, and who is authoritative for them (RFC 3416, 4.2.6; RFC 3414).

Pure. For a trap our own engine is authoritative: it needs no answer. For an inform it is the
receiver's engine, which has to be discovered first, and whose clock is followed from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.identity.snmp_managers import User
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import (
    AUTHENTICATED,
    ENCRYPTED,
    PDU,
    REPORTABLE,
    V2C,
    CommunityMessage,
    Kind,
    SecureMessage,
)
from tmad.protocols.snmp.engine import REPORTED
from tmad.protocols.snmp.usm import MOST_BOOTS, WINDOW, Keys, LocalEngine, Salts
from tmad.protocols.snmp.values import OID, Value, decode_oid, dotted, encode_oid

Binding = tuple[OID, Value]

# T-SNMP-03: what we send is not cut in pieces on its way.
LONGEST: Final = 1_472
_MASK: Final = 0x7FFF_FFFF
_REPORTS: Final = {encode_oid(oid): name for name, oid in REPORTED.items()}
_REASONS: Final = {
    "usmStatsUnsupportedSecLevels": "does not take authPriv of this user",
    "usmStatsUnknownUserNames": "does not know the user",
    "usmStatsWrongDigests": "has another authentication passphrase or hash for the user",
    "usmStatsDecryptionErrors": "has another privacy passphrase or cipher for the user",
    "snmpUnknownContexts": "does not know the context",
    "snmpUnknownPDUHandlers": "takes no informs",
}


class Outcome(Enum):
    """What a datagram from the receiver of an inform means."""

    ACKNOWLEDGED = "acknowledged"
    AGAIN = "again"  # the engine is known better now: send the inform anew, at once
    IGNORED = "ignored"


def _pdu(kind: Kind, request_id: int, bindings: Sequence[Binding]) -> bytes:
    encoded = [codec.encode_binding(encode_oid(oid), value) for oid, value in bindings]
    return codec.encode_pdu(kind, request_id & _MASK, 0, 0, encoded)


def _bounded(octets: bytes) -> bytes:
    if len(octets) > LONGEST:
        raise Fault(
            FaultCode.REJECTED,
            f"a notification of {len(octets)} octets does not fit into {LONGEST}",
            rule="snmp.notification.long",
        )
    return octets


def community_message(
    community: bytes, kind: Kind, request_id: int, bindings: Sequence[Binding]
) -> bytes:
    """Return a trap or an inform of SNMPv2c; Fault(REJECTED) for one that is too long."""
    return _bounded(codec.encode_community(V2C, community, _pdu(kind, request_id, bindings)))


def acknowledges(datagram: bytes, community: bytes, request_id: int) -> bool:
    """Whether a datagram is the answer to an inform of SNMPv2c."""
    try:
        message = codec.decode(datagram)
        if not isinstance(message, CommunityMessage) or message.version != V2C:
            return False
        pdu = codec.decode_pdu(message.pdu)
    except Fault:
        return False
    return message.community == community and _is_answer(pdu, request_id)


def _is_answer(pdu: PDU, request_id: int) -> bool:
    return pdu.kind == Kind.RESPONSE and pdu.request_id == request_id & _MASK


def trap_message(
    local: LocalEngine, user: User, request_id: int, bindings: Sequence[Binding], salts: Salts
) -> bytes:
    """Return a trap of SNMPv3, authPriv, with our own engine; Fault(REJECTED) if too long."""
    keys = Keys.of(user, local.engine_id)
    message = SecureMessage(
        message_id=request_id & _MASK,
        max_size=codec.LONGEST_IN,
        flags=AUTHENTICATED | ENCRYPTED,
        engine_id=local.engine_id,
        boots=local.boots,
        time=local.time(),
        user=user.name.encode(),
        digest=b"",
        salt=b"",
        data=codec.encode_scoped(local.engine_id, b"", _pdu(Kind.TRAP, request_id, bindings)),
    )
    return _bounded(keys.sealed(message, salts))


class InformSession:
    """Informs of SNMPv3 to one receiver: its engine is learned, and its clock followed.

    Send ``datagram()``; give what comes back to ``receive``; after AGAIN send ``datagram()``
    once more. Nothing is believed of the clock that was not signed (RFC 3414, 3.2.7 b).
    """

    def __init__(self, user: User, salts: Salts, seconds: Callable[[], float]) -> None:
        """``seconds`` counts evenly, whatever becomes of the wall clock."""
        self._user = user
        self._salts = salts
        self._seconds = seconds
        self._keys: Keys | None = None
        self._engine_id = b""
        self._boots = 0
        self._latest = 0  # RFC 3414, 2.3: latestReceivedEngineTime
        self._origin = 0.0
        self._sent = 0

    def forget(self) -> None:
        """Discover the receiver anew: it does not answer as whom it was."""
        self._keys = None
        self._engine_id = b""
        self._boots = self._latest = 0

    def datagram(self, request_id: int, bindings: Sequence[Binding]) -> bytes:
        """Return what to send now: a discovery, or the inform. Fault(REJECTED) if too long."""
        if self._keys is None:
            scoped = codec.encode_scoped(b"", b"", _pdu(Kind.GET, request_id, ()))
            return codec.encode_secure(self._message(request_id, REPORTABLE, b"", scoped))
        pdu = _pdu(Kind.INFORM, request_id, bindings)
        scoped = codec.encode_scoped(self._engine_id, b"", pdu)
        flags = AUTHENTICATED | ENCRYPTED | REPORTABLE
        message = self._message(request_id, flags, self._user.name.encode(), scoped)
        return _bounded(self._keys.sealed(message, self._salts))

    def _message(self, request_id: int, flags: int, user: bytes, scoped: bytes) -> SecureMessage:
        # A new number each time: a late answer to the discovery is none to the inform.
        self._sent = (self._sent + 1) & 0xFF
        return SecureMessage(
            message_id=self._number(request_id),
            max_size=codec.LONGEST_IN,
            flags=flags,
            engine_id=self._engine_id,
            boots=self._boots,
            time=self._time(),
            user=user,
            digest=b"",
            salt=b"",
            data=scoped,
        )

    def _number(self, request_id: int) -> int:
        return (request_id << 8 | self._sent) & _MASK

    def _time(self) -> int:
        """Return what the receiver's clock must show now; 0 while nothing is known."""
        if not self._boots:
            return 0
        return min(int(self._seconds() - self._origin), MOST_BOOTS)

    def receive(self, datagram: bytes, request_id: int) -> Outcome:
        """Take a datagram from the receiver.

        Fault(UNAUTHENTICATED) when the receiver says that it will not take the inform.
        """
        try:
            message = codec.decode(datagram)
            if not isinstance(message, SecureMessage):
                return Outcome.IGNORED
            if message.message_id != self._number(request_id):
                return Outcome.IGNORED
            if self._keys is None:
                return self._discovered(message)
            return self._answered(message, request_id)
        except Fault as fault:
            if fault.code is FaultCode.MALFORMED:
                return Outcome.IGNORED
            raise

    def _discovered(self, message: SecureMessage) -> Outcome:
        """RFC 3414, 4: the id is all that an unsigned report is good for."""
        if not 5 <= len(message.engine_id) <= 32:
            return Outcome.IGNORED
        self._engine_id = message.engine_id
        self._keys = Keys.of(self._user, message.engine_id)
        return Outcome.AGAIN

    def _answered(self, message: SecureMessage, request_id: int) -> Outcome:
        assert self._keys is not None
        if not message.flags & AUTHENTICATED:
            return self._reported(message)
        if message.engine_id != self._engine_id or not self._keys.is_authentic(message):
            return Outcome.IGNORED
        if not self._follow(message):
            return Outcome.IGNORED
        data = self._keys.decrypt(message) if message.flags & ENCRYPTED else message.data
        if data is None:
            return Outcome.IGNORED
        pdu = codec.decode_pdu(codec.decode_scoped(data).pdu)
        if pdu.kind == Kind.REPORT:
            if _report_of(pdu) == "usmStatsNotInTimeWindows":
                return Outcome.AGAIN
            raise self._refusal(pdu)
        # What was told in secret is not acknowledged in clear.
        if message.flags & ENCRYPTED and _is_answer(pdu, request_id):
            return Outcome.ACKNOWLEDGED
        return Outcome.IGNORED

    def _follow(self, message: SecureMessage) -> bool:
        """Take the time from a signed message; tell whether the message is not old."""
        newer = message.boots > self._boots or (
            message.boots == self._boots and message.time > self._latest
        )
        if newer:
            self._boots, self._latest = message.boots, message.time
            self._origin = self._seconds() - message.time
            return True
        return message.boots == self._boots and message.time >= self._time() - WINDOW

    def _reported(self, message: SecureMessage) -> Outcome:
        """Read an unsigned report: anybody may have written it who saw our message."""
        pdu = codec.decode_pdu(codec.decode_scoped(message.data).pdu)
        if pdu.kind != Kind.REPORT:
            return Outcome.IGNORED
        if _report_of(pdu) == "usmStatsUnknownEngineIDs":
            self.forget()
            return self._discovered(message)
        raise self._refusal(pdu)

    def _refusal(self, pdu: PDU) -> Fault:
        name = _report_of(pdu)
        first = dotted(decode_oid(pdu.bindings[0].name)) if pdu.bindings else "nothing"
        return Fault(
            FaultCode.UNAUTHENTICATED,
            f"the receiver {_REASONS.get(name, 'refuses the inform')}",
            rule="snmp.inform.refused",
            values={"report": name or first, "user": self._user.name},
        )


def _report_of(pdu: PDU) -> str:
    return _REPORTS.get(pdu.bindings[0].name, "") if pdu.bindings else ""
