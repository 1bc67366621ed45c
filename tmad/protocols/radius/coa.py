"""Disconnect-Request and CoA-Request: telling a NAS to end a session (RFC 5176).

Here tmad is the client. A request is sent three times with the same identifier (R-82); an answer
counts only when it is authentic and comes from where the request went.
"""

from __future__ import annotations

import ipaddress
import re
import secrets as randomness
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol

from tmad.errors import Fault
from tmad.events import Clock
from tmad.network.disconnects import Order, Outcome
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.reverse import ABSENT, ANSWERS, Reverse
from tmad.storage.disconnects import NOT_SENT
from tmad.storage.radius_sessions import SessionRow

TRIES: Final = 3
_WAIT: Final = 3.0  # seconds before a request is sent again
_JITTER: Final = 0.1  # RFC 5080, 2.2.1
# Of each the next identifier: strongSwan takes the one that it heard last for a repetition.
_REMEMBERED: Final = 10_000
# Of one NAS; identifiers tell 256 apart, and a small device need not be flooded.
_AT_ONCE: Final = 32

EVENT_TIMESTAMP: Final = 55
CISCO, CISCO_AVPAIR = 9, 1
_LEGACY_PORT: Final = 1700
# Who listens on the port that Cisco had chosen before RFC 3576 did.
_LEGACY: Final = frozenset({"cisco", "airespace", "meraki"})
# What ends a session otherwise than Disconnect-Request, by the vendor that understands it.
_COMMANDS: Final[dict[str, dict[str, Attribute]]] = {
    "reauthenticate": dict.fromkeys(
        ("cisco", "meraki"),
        codec.vendor_attribute(CISCO, CISCO_AVPAIR, b"subscriber:command=reauthenticate"),
    ),
    "bounce-port": {
        **dict.fromkeys(
            ("cisco", "meraki"),
            codec.vendor_attribute(CISCO, CISCO_AVPAIR, b"subscriber:command=bounce-host-port"),
        ),
        # Seconds for which the port is down.
        "aruba": codec.vendor_attribute(14823, 40, (12).to_bytes(4)),
        "hp": codec.vendor_attribute(11, 23, (12).to_bytes(4)),
    },
}

Verdict: TypeAlias = Literal["done", "gone", "narrower", "later"]


class Cause(NamedTuple):
    """What an Error-Cause means for the end of a session."""

    name: str
    verdict: Verdict


# RFC 5176, 3.5. "narrower": the NAS may know the session by fewer attributes.
ERROR_CAUSES: Final = {
    201: Cause("residual session removed", "done"),
    202: Cause("invalid EAP packet", "later"),
    401: Cause("unsupported attribute", "narrower"),
    402: Cause("missing attribute", "narrower"),
    403: Cause("NAS identification mismatch", "narrower"),
    404: Cause("invalid request", "narrower"),
    405: Cause("unsupported service", "later"),
    406: Cause("unsupported extension", "later"),
    407: Cause("invalid attribute value", "narrower"),
    501: Cause("administratively prohibited", "later"),
    502: Cause("request not routable", "later"),
    503: Cause("session context not found", "gone"),
    504: Cause("session context not removable", "later"),
    505: Cause("other proxy processing error", "later"),
    506: Cause("resources unavailable", "later"),
    507: Cause("request initiated", "done"),
    508: Cause("multiple session selection unsupported", "narrower"),
}
_UNKNOWN_CAUSE: Final = Cause("no cause given", "narrower")
_NAS_MISMATCH: Final = 403
_MAC: Final = re.compile(r"[0-9a-f]{12}")

Place: TypeAlias = tuple[str, int]


class Road(NamedTuple):
    """How a NAS is asked; ``where`` is for people."""

    ask: Callable[[Code, Sequence[Attribute]], Awaitable[Packet | None]]
    where: str


@dataclass(slots=True)
class _Exchange:
    octets: bytes
    secret: bytes
    answers: tuple[int, ...]
    deferred: Deferred[Packet | None] = field(default_factory=Deferred)
    tries: int = 0
    timer: Any = None


@dataclass(slots=True)
class _Peer:
    """What is under way with one NAS."""

    next_identifier: int
    open: dict[int, _Exchange] = field(default_factory=dict)
    waiting: deque[Callable[[bool], object]] = field(default_factory=deque)


class CoA:
    """The client of RFC 5176, on one socket for each version of IP.

    ``reactor`` gives the time-outs, ``now`` the Event-Timestamp. ``reverse`` are the connections
    of RadSec clients, where there is a door for them.
    """

    def __init__(self, reactor: Any, now: Clock, reverse: Reverse | None = None) -> None:
        self._reverse = reverse
        self._reactor = reactor
        self._now = now
        self._peers: dict[Place, _Peer] = {}
        self._sockets: dict[int, Socket] = {}
        self.dropped = 0

    def socket(self, version: Literal[4, 6]) -> Socket:
        """Return what the edge opens to send to addresses of this version."""
        return self._sockets.setdefault(version, Socket(self))

    async def ask(self, order: Order) -> Outcome:
        """Ask for the end of a session, and with fewer attributes when it is not known so."""
        road = self._road(order)
        if isinstance(road, Outcome):
            return road
        try:
            return await self._ask(order, road)
        except Fault as fault:
            if fault.rule != ABSENT:
                raise
            return Outcome(word=NOT_SENT, detail=fault.detail, may_be_elsewhere=True)

    async def _ask(self, order: Order, road: Road) -> Outcome:
        session = order.session
        code, command = _command(order)
        cause: Cause = _UNKNOWN_CAUSE
        number: int | None = None
        is_gone = False
        rungs = _rungs(order)
        if not rungs:
            return Outcome(word="no-keys", is_final=True)
        for rung in rungs:
            names = [] if number == _NAS_MISMATCH else _nas(session)
            attributes = [*names, *rung, *command, self._stamp()]
            packet = await road.ask(code, attributes)
            if packet is None:
                return Outcome(word="silent", detail=road.where)
            if packet.code in (Code.DISCONNECT_ACK, Code.COA_ACK):
                is_over = code is Code.DISCONNECT_REQUEST
                return Outcome(word="acknowledged", is_done=True, is_over=is_over)
            number = packet.number(codec.ERROR_CAUSE)
            cause = ERROR_CAUSES.get(number or 0, _UNKNOWN_CAUSE)
            if cause.verdict == "done":
                return Outcome(word="acknowledged", is_done=True, error_cause=number)
            if cause.verdict == "later":
                break
            # Not known by its user name may only mean that the NAS has another one for it.
            is_blamed_on_name = rung[0][0] == codec.USER_NAME
            is_gone |= cause.verdict == "gone" and not is_blamed_on_name
        if is_gone:
            # whoever is to go is gone already.
            return Outcome(word="session-gone", is_done=True, is_over=True, error_cause=503)
        return Outcome(word="refused", error_cause=number, detail=cause.name)

    def _road(self, order: Order) -> Road | Outcome:
        """Return how the NAS is asked, or why it cannot be."""
        client, session = order.client, order.session
        if client.coa.via == "radsec":
            if self._reverse is None:
                why = "[protocols.radius] radsec is not set at this node"
                return Outcome(word=NOT_SENT, detail=why, may_be_elsewhere=True)
            return Road(partial(self._reverse.ask, client.key, session.nas_address), "over RadSec")
        secrets = [each.secret for each in client.shared]
        if not secrets:
            return Outcome(word="no-secret", is_final=True)
        place = _place(order)
        if place is None or ipaddress.ip_address(place[0]).version not in self._sockets:
            return Outcome(word="no-address", detail=client.coa.address or session.nas_address)
        # During the overlap of two secrets the NAS may have either.
        secret = secrets[order.attempt % len(secrets)].reveal()
        return Road(partial(self._exchange, place, secret), f"{place[0]} port {place[1]}")

    def _stamp(self) -> Attribute:
        # RFC 5176, 3.3: against replay; a NAS ignores what is older than five minutes.
        return EVENT_TIMESTAMP, int(self._now().timestamp()).to_bytes(4)

    # -- one request ------------------------------------------------------------------------

    async def _exchange(
        self, place: Place, secret: bytes, code: Code, attributes: Sequence[Attribute]
    ) -> Packet | None:
        """Send a request until it is answered; None when the NAS is silent."""
        peer = self._peers.setdefault(place, _Peer(randomness.randbelow(256)))
        if len(peer.open) >= _AT_ONCE:
            turn: Deferred[bool] = Deferred()
            peer.waiting.append(turn.callback)
            if not await turn:
                return None
        identifier = _free(peer)
        exchange = _Exchange(
            codec.encode_request(code, identifier, attributes, secret), secret, ANSWERS[code]
        )
        peer.open[identifier] = exchange
        self._transmit(place, identifier)
        return await exchange.deferred

    def _transmit(self, place: Place, identifier: int) -> None:
        exchange = self._peers[place].open[identifier]
        exchange.timer = None
        if exchange.tries == TRIES:
            self._finish(place, identifier, None)
            return
        exchange.tries += 1
        wavers = (randomness.randbelow(2001) - 1000) / 1000 * _JITTER
        exchange.timer = self._reactor.callLater(
            _WAIT * (1 + wavers), self._transmit, place, identifier
        )
        # The same octets: to a NAS that has answered already it is the same request.
        self._sockets[ipaddress.ip_address(place[0]).version].send(exchange.octets, place)

    def _finish(self, place: Place, identifier: int, packet: Packet | None) -> None:
        peer = self._peers[place]
        exchange = peer.open.pop(identifier)
        if exchange.timer is not None:
            exchange.timer.cancel()
        exchange.deferred.callback(packet)
        if packet is None:
            # Who does not answer one question does not answer the next: the rest comes later.
            waiting, peer.waiting = peer.waiting, deque()
            for turn in waiting:
                turn(False)
        elif peer.waiting and len(peer.open) < _AT_ONCE:
            peer.waiting.popleft()(True)
        if not peer.open and not peer.waiting and len(self._peers) > _REMEMBERED:
            self._peers.pop(place)

    def received(self, datagram: bytes, place: Place) -> None:
        """Take an answer; what nobody waits for, or nobody signed, is dropped."""
        peer = self._peers.get(place)
        try:
            packet = codec.decode(datagram)
        except Fault:
            self.dropped += 1
            return
        exchange = None if peer is None else peer.open.get(packet.identifier)
        if (
            exchange is None
            or packet.code not in exchange.answers
            or not codec.is_reply(packet, exchange.octets, exchange.secret)
        ):
            self.dropped += 1
            return
        self._finish(place, packet.identifier, packet)


class Socket(DatagramProtocol):
    """One outgoing socket of the client."""

    noisy = False

    def __init__(self, client: CoA) -> None:
        self._client = client

    def send(self, octets: bytes, place: Place) -> None:
        """Send once; what the network refuses counts as lost."""
        try:
            self.transport.write(octets, place)  # type: ignore[union-attr]  # it is open
        except OSError:
            return

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802  Twisted's name
        self._client.received(datagram, (addr[0], addr[1]))


def _free(peer: _Peer) -> int:
    while peer.next_identifier in peer.open:
        peer.next_identifier = (peer.next_identifier + 1) % 256
    found = peer.next_identifier
    # Not at once again: an answer that comes late must find nobody.
    peer.next_identifier = (found + 1) % 256
    return found


def _place(order: Order) -> Place | None:
    """Return where the NAS listens; a silent Cisco is asked on its old port every other time."""
    options = order.client.coa
    try:
        address = ipaddress.ip_address(options.address or order.session.nas_address)
    except ValueError:
        return None
    port = options.port
    if order.client.vendor in _LEGACY and order.attempt % 2:
        port = _LEGACY_PORT if port != _LEGACY_PORT else 3799
    return str(address), port


def _command(order: Order) -> tuple[Code, list[Attribute]]:
    """Return what is asked for; a vendor that has no such command is asked to disconnect."""
    attribute = _COMMANDS.get(order.client.coa.how, {}).get(order.client.vendor)
    if attribute is None:
        return Code.DISCONNECT_REQUEST, []
    return Code.COA_REQUEST, [attribute]


def _nas(session: SessionRow) -> list[Attribute]:
    """Return what names the NAS (RFC 5176, 3), as it named itself."""
    identifier = session.nas_identifier
    if not identifier:
        return []
    try:
        address = ipaddress.ip_address(identifier)
    except ValueError:
        return [_text(codec.NAS_IDENTIFIER, identifier)]
    kind = codec.NAS_IP_ADDRESS if address.version == 4 else codec.NAS_IPV6_ADDRESS
    return [(kind, address.packed)]


def _rungs(order: Order) -> list[list[Attribute]]:
    """Return what names the session, each time a little less: all must match (RFC 5176, 3).

    Never the user name alone: that would end what the same person has elsewhere. It comes as the
    NAS last wrote it: strongSwan looks at nothing else, and would end another tunnel of whoever
    Access-Accept named. Class is left out, since hostapd refuses it as unsupported.
    """
    session = order.session
    keys = []
    if session.session_key:
        keys.append(_text(codec.ACCT_SESSION_ID, session.session_key))
    if session.calling_sent:
        keys.append(_text(codec.CALLING_STATION_ID, session.calling_sent))
    if not keys:
        return []
    names = dict.fromkeys(name for name in (session.user_sent, session.user_name) if name)
    rungs = [[_text(codec.USER_NAME, name), *keys] for name in names]
    rungs.append(keys)
    # A telephone number may have many sessions; a station with a newer one would lose that.
    if len(keys) == 2 and order.is_alone and _MAC.fullmatch(session.calling_station):
        rungs.append(keys[1:])
    return rungs


def _text(kind: int, text: str) -> Attribute:
    return kind, text.encode("utf-8", "replace")[: codec.LONGEST_VALUE]
