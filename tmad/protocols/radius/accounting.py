"""Accounting: what a NAS reports of its sessions (RFC 2866, RFC 2869).

An Accounting-Response means that the record is durable; who gets none sends it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Secret
from tmad.network import attributes
from tmad.network.accounting import INTERIM, OFF, ON, START, STOP, Report
from tmad.network.client import Client
from tmad.network.sessions import Sessions
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Packet
from tmad.protocols.radius.responder import Asked, visit_of

STATUS_TYPE: Final = 40
DELAY_TIME: Final = 41
INPUT_OCTETS, OUTPUT_OCTETS = 42, 43
SESSION_TIME: Final = 46
TERMINATE_CAUSE: Final = 49
INPUT_GIGAWORDS, OUTPUT_GIGAWORDS = 52, 53
EVENT_TIMESTAMP: Final = 55
FRAMED_IP_ADDRESS: Final = 8
FRAMED_IPV6_ADDRESS: Final = 168

_STORED: Final = frozenset({START, STOP, INTERIM, ON, OFF})
# RFC 2866, 5.10; RFC 3580, 3.21.
CAUSES: Final = {
    1: "user-request",
    2: "lost-carrier",
    3: "lost-service",
    4: "idle-timeout",
    5: "session-timeout",
    6: "admin-reset",
    7: "admin-reboot",
    8: "port-error",
    9: "nas-error",
    10: "nas-request",
    11: "nas-reboot",
    12: "port-unneeded",
    13: "port-preempted",
    14: "port-suspended",
    15: "service-unavailable",
    16: "callback",
    17: "user-error",
    18: "host-request",
    19: "supplicant-restart",
    20: "reauthentication-failure",
    21: "port-reinitialized",
    22: "port-disabled",
    23: "lost-power",
}
# What differs from one transmission of a record to the next.
_OF_TRANSMISSION: Final = frozenset({DELAY_TIME, codec.PROXY_STATE, codec.MESSAGE_AUTHENTICATOR})
# What no accounting record may keep, whoever has sent it.
_NOT_KEPT: Final = frozenset(
    {codec.USER_PASSWORD, codec.CHAP_PASSWORD, codec.EAP_MESSAGE}
    | {codec.PROXY_STATE, codec.MESSAGE_AUTHENTICATOR}
)


class Accounting:
    """Answers Accounting-Requests whose authenticator has been found right."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def respond(self, packet: Packet, client: Client, address: str) -> list[Attribute]:
        """Store a record; return the attributes of the response, of which there are none.

        Raise Fault(MALFORMED) for what is no accounting record, and Fault(UNAVAILABLE) when it
        cannot be made durable: neither is answered.
        """
        report = report_of(packet, client, address)
        if report.status in _STORED:
            await self._sessions.account(report)
        return []


def report_of(packet: Packet, client: Client, address: str) -> Report:
    """Return what an Accounting-Request says; Fault(MALFORMED) without Acct-Status-Type."""
    status = packet.number(STATUS_TYPE)
    if status is None:
        # RFC 2866, 5.13: exactly one.
        raise Fault(
            FaultCode.MALFORMED,
            "an accounting record without Acct-Status-Type",
            rule="radius.malformed.accounting",
        )
    # The secret has done its work: nothing in a record is hidden with it.
    visit = visit_of(Asked(packet=packet, client=client, secret=Secret(b""), address=address))
    return Report(
        tenant=client.tenant,
        client=client.name,
        address=address,
        identifier=visit.nas_identifier,
        status=status,
        content=_content(packet.attributes),
        classes=packet.all(codec.CLASS),
        session_key=visit.session_key,
        user_name=visit.user_name,
        nas_port=visit.nas_port,
        calling_station=visit.calling_station,
        calling_sent=visit.calling_station_sent,
        called_station=visit.called_station,
        ssid=visit.ssid,
        framed_address=_framed(packet),
        # RFC 2869, 5.1: how often the 32 bits have run over.
        octets_in=(_number(packet, INPUT_GIGAWORDS) << 32) + _number(packet, INPUT_OCTETS),
        octets_out=(_number(packet, OUTPUT_GIGAWORDS) << 32) + _number(packet, OUTPUT_OCTETS),
        seconds=_number(packet, SESSION_TIME),
        cause=_cause(packet),
        delay=_number(packet, DELAY_TIME),
        at=_time(packet),
        data=_data(packet.attributes),
    )


def _number(packet: Packet, kind: int) -> int:
    return packet.number(kind) or 0


def _cause(packet: Packet) -> str:
    number = packet.number(TERMINATE_CAUSE)
    return "" if number is None else CAUSES.get(number, str(number))


def _time(packet: Packet) -> datetime | None:
    number = packet.number(EVENT_TIMESTAMP)
    return None if number is None else datetime.fromtimestamp(number, UTC)


def _framed(packet: Packet) -> str:
    for kind, length in ((FRAMED_IP_ADDRESS, 4), (FRAMED_IPV6_ADDRESS, 16)):
        value = packet.first(kind)
        if value is not None and len(value) == length:
            return str(ip_address(value))
    return ""


def _content(found: Iterable[Attribute]) -> bytes:
    return b"".join(
        bytes((kind, len(value))) + value for kind, value in found if kind not in _OF_TRANSMISSION
    )


def _data(found: Iterable[Attribute]) -> dict[str, JSON]:
    """Return the record by the names of the dictionary; what stands several times as a list."""
    named: dict[str, list[JSON]] = {}
    kept = [(kind, value) for kind, value in found if kind not in _NOT_KEPT]
    for name, value in attributes.describe(kept):
        named.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in named.items()}
