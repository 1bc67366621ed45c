"""Disconnect- and CoA-Requests down the connections that RadSec clients have made.

RFC 6614, 2.5 lets every kind of packet through; draft-ietf-radext-reverse-coa turns the
direction round, for a NAS to which nobody can connect. Nothing is sent twice.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults, succeed

from tmad.errors import Fault, FaultCode
from tmad.network.clients import RADSEC_SECRET
from tmad.plugin import Relay
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.server import Dropped
from tmad.storage.disconnects import ClientKey

ANSWERS: Final = {
    Code.DISCONNECT_REQUEST: (Code.DISCONNECT_ACK, Code.DISCONNECT_NAK),
    Code.COA_REQUEST: (Code.COA_ACK, Code.COA_NAK),
}
ANSWER_CODES: Final = frozenset(code for codes in ANSWERS.values() for code in codes)
_WAIT: Final = 4.0  # seconds; another worker that asks waits for five
_MOST_WAITING: Final = 256
_MOST_LINES: Final = 4  # that are asked for one session
_QUESTION: Final = struct.Struct(">BBB")  # octets of tenant, name, address
_SILENCE: Final = b"\0"  # of a worker that has a connection, on which nobody answered
_AGREED: Final = 3

ABSENT: Final = "radius.radsec.absent"


@dataclass(slots=True)
class _Question:
    code: Code
    attributes: Sequence[Attribute]
    deferred: Deferred[Packet | None] = field(default_factory=Deferred)
    octets: bytes = b""


class Line:
    """What is asked down one connection, one question at a time; ``write`` sends a packet.

    FreeRADIUS reads one packet each time that octets arrive, and leaves those behind it lying.
    """

    def __init__(self, address: str, write: Callable[[bytes], object], reactor: Any) -> None:
        self.address = address
        self._write = write
        self._reactor = reactor
        self._asked: _Question | None = None
        self._waiting: deque[_Question] = deque()
        self._identifier = 0

    def ask(self, code: Code, attributes: Sequence[Attribute]) -> Deferred[Packet | None]:
        """Fire with the answer, or with None when there is none in time."""
        question = _Question(code, attributes)
        if len(self._waiting) >= _MOST_WAITING:
            return succeed(None)
        self._waiting.append(question)
        self._go_on()
        return question.deferred

    def received(self, packet: Packet) -> None:
        """Take an answer; Dropped when nobody waits for it, or it is not one."""
        question = self._asked
        if (
            question is None
            or packet.identifier != self._identifier
            or packet.code not in ANSWERS[question.code]
        ):
            raise Dropped("unasked")
        if not codec.is_reply(packet, question.octets, RADSEC_SECRET):
            raise Dropped("forged", "an answer to another request")
        question.deferred.callback(packet)

    def close(self) -> None:
        """Answer nothing to everybody who waits."""
        waiting, self._waiting = self._waiting, deque()
        for question in [self._asked, *waiting]:
            if question is not None:
                question.deferred.callback(None)

    def _go_on(self) -> None:
        if self._asked is not None or not self._waiting:
            return
        question = self._asked = self._waiting.popleft()
        # Another each time: an answer that comes late must find nobody.
        self._identifier = (self._identifier + 1) % 256
        question.octets = codec.encode_request(
            question.code, self._identifier, question.attributes, RADSEC_SECRET
        )
        question.deferred.addTimeout(_WAIT, self._reactor, lambda _, __: None)
        question.deferred.addCallback(self._answered)
        self._write(question.octets)

    def _answered(self, packet: Packet | None) -> Packet | None:
        self._asked = None
        if packet is None:
            # Who does not answer one question does not answer the next: the rest comes later.
            self.close()
        self._go_on()
        return packet


class Reverse:
    """The connections of this worker and, through ``relay``, those of the others."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self._lines: dict[ClientKey, list[Line]] = {}
        self._listeners: list[Callable[[], object]] = []

    def listen(self, callback: Callable[[], object]) -> None:
        """Call back when a client has made a connection to this worker."""
        self._listeners.append(callback)

    @property
    def clients(self) -> Set[ClientKey]:
        """Whoever is connected to this worker."""
        return self._lines.keys()

    def add(self, client: ClientKey, line: Line) -> None:
        """Take a connection whose client is known by now."""
        self._lines.setdefault(client, []).append(line)
        for callback in self._listeners:
            callback()

    def remove(self, client: ClientKey, line: Line) -> None:
        """Forget a connection."""
        line.close()
        lines = self._lines.get(client, [])
        if line in lines:
            lines.remove(line)
        if not lines:
            self._lines.pop(client, None)

    async def ask(
        self, client: ClientKey, address: str, code: Code, attributes: Sequence[Attribute]
    ) -> Packet | None:
        """Ask a client's connections, in this worker or another, until one agrees.

        Those from ``address`` come first. Return a refusal when nobody agrees, None for silence;
        Fault(UNAVAILABLE) when the client has no connection to this node.
        """
        found = await self._ask_own(client, address, code, attributes)
        question = _encode(client, address, code, attributes)
        for worker in self._others():
            if _worth(found) < _AGREED:
                found = max(found, await self._ask_worker(worker, question), key=_worth)
        if not found:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the client has no RadSec connection to this node",
                rule=ABSENT,
                values={"client": client[1]},
            )
        return None if found == _SILENCE else codec.decode(found)

    async def answer_worker(self, question: bytes) -> bytes | None:
        """Answer what another worker asks; nothing when the client is not connected here."""
        try:
            lengths = _QUESTION.unpack_from(question)
            at, texts = _QUESTION.size, []
            for length in lengths:
                texts.append(question[at : at + length].decode())
                at += length
            packet = codec.decode(question[at:])
            code = next(code for code in ANSWERS if code == packet.code)
        except (struct.error, ValueError, StopIteration) as error:
            raise Fault(
                FaultCode.MALFORMED, "not a question", rule="radius.malformed.relay"
            ) from error
        tenant, name, address = texts
        attributes = [each for each in packet.attributes if each[0] != codec.MESSAGE_AUTHENTICATOR]
        return await self._ask_own((tenant, name), address, code, attributes)

    async def _ask_own(
        self, client: ClientKey, address: str, code: Code, attributes: Sequence[Attribute]
    ) -> bytes:
        lines = sorted(self._lines.get(client, ()), key=lambda line: line.address != address)
        asked = [line.ask(code, attributes) for line in lines[:_MOST_LINES]]
        answers: list[Packet | None] = await gatherResults(asked)
        found = [_SILENCE if answer is None else answer.octets for answer in answers]
        return max(found, key=_worth, default=b"")

    def _others(self) -> list[int]:
        if self.relay is None:
            return []
        return [worker for worker in range(self.relay.count) if worker != self.relay.index]

    async def _ask_worker(self, worker: int, question: bytes) -> bytes:
        assert self.relay is not None
        try:
            return await self.relay.ask(worker, question)
        except Fault:
            return b""  # it has ended, and its connections with it


def _worth(answer: bytes) -> int:
    """Compare answers: of several connections, one has the session."""
    if len(answer) < codec.HEADER:
        return len(answer)
    return _AGREED if answer[0] in (Code.DISCONNECT_ACK, Code.COA_ACK) else 2


def _encode(client: ClientKey, address: str, code: Code, attributes: Sequence[Attribute]) -> bytes:
    texts = [text.encode() for text in (*client, address)]
    packet = codec.encode_request(code, 0, attributes, RADSEC_SECRET)
    return _QUESTION.pack(*map(len, texts)) + b"".join(texts) + packet
