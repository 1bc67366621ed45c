"""RADIUS doors: which packets are answered at all, and that each is answered once.

RFC 2865, 3; RFC 5080, 2.2; RFC 5997. What cannot be trusted is dropped without a word and
counted by its reason; a log line a minute and client says so.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from tmad import coroutines
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.network.client import Client
from tmad.network.clients import RADSEC_SECRET, RadiusClients
from tmad.plugin import Meter, Relay
from tmad.protocols.radius import codec, workers
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.conversations import worker_of
from tmad.protocols.radius.duplicates import Duplicates, Entry
from tmad.protocols.radius.responder import Asked, Reply, Responder, spoiled

log = Logger()

Kind: TypeAlias = Literal["auth", "accounting", "radsec"]

SERVED: Final[dict[str, frozenset[int]]] = {
    "auth": frozenset({Code.ACCESS_REQUEST, Code.STATUS_SERVER}),
    "accounting": frozenset({Code.ACCOUNTING_REQUEST, Code.STATUS_SERVER}),
    "radsec": frozenset({Code.ACCESS_REQUEST, Code.ACCOUNTING_REQUEST, Code.STATUS_SERVER}),
}
# Why a packet gets no answer; these words are the outcomes in /metrics.
REASONS: Final = frozenset(
    {
        "malformed",
        "code",
        "unknown-client",
        "certificate",
        "no-secret",
        "unsigned",
        "unsigned-eap",
        "unsigned-proxied",
        "forged",
        "repeated",
        "silent",
        "unasked",
        "unavailable",
        "failed",
    }
)
OUTCOMES: Final[dict[int, str]] = {
    Code.ACCESS_ACCEPT: "accept",
    Code.ACCESS_REJECT: "reject",
    Code.ACCESS_CHALLENGE: "challenge",
    Code.ACCOUNTING_RESPONSE: "stored",
    Code.PROTOCOL_ERROR: "protocol-error",
}
_RADSEC: Final = (Secret(RADSEC_SECRET),)
# A member of an enumeration takes ten times as long to look up.
_ACCESS_REQUEST: Final = int(Code.ACCESS_REQUEST)
_ACCOUNTING_REQUEST: Final = int(Code.ACCOUNTING_REQUEST)
_STATUS_SERVER: Final = int(Code.STATUS_SERVER)
_ACCESS_REJECT: Final = int(Code.ACCESS_REJECT)
_LINE_SECONDS: Final = 60.0
_REMEMBERED_LINES: Final = 1_024
# Is it RadSec (0 or 1); octets of tenant, name, address.
_QUESTION: Final = struct.Struct(">BBBB")

Account = Callable[[Packet, Client, str], Awaitable[list[Attribute]]]


class Dropped(Exception):  # noqa: N818  an outcome, not an error
    """This packet gets no answer; ``reason`` is one of REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Salts(Protocol):
    """Where random bits come from."""

    def __call__(self, bits: int, /) -> int: ...


@dataclass(slots=True, kw_only=True)
class Policy:
    """What of the settings holds for every door."""

    reject_delay: float = 1.0
    delayed: int = 5_000
    window: float = 10.0
    table: int = 20_000


class Exchange:
    """Octets of an authentic request to octets of its answer, whatever door it came through."""

    def __init__(
        self,
        clients: RadiusClients,
        responder: Responder,
        now: Clock,
        salts: Salts,
        *,
        alive: Callable[[], Awaitable[object]],
        account: Account | None = None,
    ) -> None:
        """``alive`` raises a Fault while the database cannot be asked."""
        self._clients = clients
        self._responder = responder
        self._now = now
        self._salts = salts
        self._alive = alive
        self._account = account
        self.relay: Relay | None = None

    async def answer(
        self, kind: Kind, packet: Packet, client: Client, secret: Secret, address: str
    ) -> bytes:
        """Return the answer; raise Dropped where there is none."""
        if packet.code == _STATUS_SERVER:
            return await self._status(kind, packet, secret)
        if packet.code == _ACCOUNTING_REQUEST:
            return await self._accounting(packet, client, secret, address)
        state = packet.first(codec.STATE)
        if state is not None and self.relay is not None:
            owner = worker_of(state)
            if owner is not None and owner != self.relay.index:
                return await self._ask_owner(owner, kind, packet, client, address)
        return await self._access(packet, client, secret, address)

    async def _access(self, packet: Packet, client: Client, secret: Secret, address: str) -> bytes:
        asked = Asked(packet=packet, client=client, secret=secret, address=address)
        reply = await self._responder.respond(asked)
        if reply is None:
            raise Dropped("silent")
        try:
            return self._encode(packet, reply, secret)
        except Fault as fault:
            log.error("an answer to {name} was withheld: {why}", name=client.name, why=fault.detail)
            return self._encode(packet, spoiled(reply), secret)

    def _encode(self, packet: Packet, reply: Reply, secret: Secret) -> bytes:
        own = reply.attributes
        clear = secret.reveal()
        if reply.msk is not None:
            salt = self._salts(14)
            own = own + codec.mppe_keys(reply.msk.reveal(), salt, packet.authenticator, clear)
        return codec.encode_reply(packet, reply.code, own, clear)

    async def _status(self, kind: Kind, packet: Packet, secret: Secret) -> bytes:
        """RFC 5997, 3: an answer says that this server can answer."""
        await self._alive()
        code = Code.ACCOUNTING_RESPONSE if kind == "accounting" else Code.ACCESS_ACCEPT
        return codec.encode_reply(packet, code, (), secret.reveal())

    async def _accounting(
        self, packet: Packet, client: Client, secret: Secret, address: str
    ) -> bytes:
        if self._account is None:
            raise Dropped("code")
        own = await self._account(packet, client, address)
        return codec.encode_reply(packet, Code.ACCOUNTING_RESPONSE, own, secret.reveal())

    # -- who asks -----------------------------------------------------------------------------

    def secret_of(self, kind: Kind, packet: Packet, client: Client) -> Secret:
        """Return the secret that a packet was made with; raise Dropped for one that was not."""
        good = _RADSEC if kind == "radsec" else client.good_secrets(self._now)
        if not good:
            raise Dropped("no-secret", f"tmad radius-client secret {client.name} sets one")
        if packet.code == _ACCOUNTING_REQUEST:
            # RFC 2866, 3: there the authenticator is the proof.
            for secret in good:
                if codec.is_digested(packet, secret.reveal()):
                    return secret
            raise Dropped("forged", "another shared secret")
        if packet.is_signed:
            for secret in good:
                if codec.is_authentic(packet, secret.reveal()):
                    return secret
            raise Dropped("forged", "another shared secret")
        self._check_unsigned(kind, packet, client)
        return _likely_secret(packet, good)

    def _check_unsigned(self, kind: Kind, packet: Packet, client: Client) -> None:
        if packet.code == Code.STATUS_SERVER:
            raise Dropped("unsigned", "a Status-Server needs a Message-Authenticator")
        if packet.eap is not None:
            # RFC 3579, 3.2
            raise Dropped("unsigned-eap", "EAP without Message-Authenticator")
        if kind == "radsec":
            return  # TLS has signed it
        self._clients.note_seen(client, is_unsigned=True)
        # CVE-2024-3596: an answer to it could be forged into an Access-Accept.
        if client.must_sign:
            raise Dropped("unsigned", "no Message-Authenticator; update the client")
        if client.document.limit_proxy_state and packet.first(codec.PROXY_STATE) is not None:
            raise Dropped("unsigned-proxied", "Proxy-State without Message-Authenticator")

    # -- other workers ------------------------------------------------------------------------

    async def _ask_owner(
        self, owner: int, kind: Kind, packet: Packet, client: Client, address: str
    ) -> bytes:
        """Let the worker answer that holds the conversation."""
        assert self.relay is not None
        texts = [text.encode() for text in (client.tenant, client.name, address)]
        head = _QUESTION.pack(kind == "radsec", *map(len, texts))
        try:
            reply = await self.relay.ask(owner, head + b"".join(texts) + packet.octets)
        except Fault as fault:
            log.debug("{why}", why=fault.private)
            # It has ended, and the conversation with it; ours says so to the client.
            secret = self.secret_of(kind, packet, client)
            return await self._access(packet, client, secret, address)
        if not reply:
            raise Dropped("silent")
        return reply

    async def answer_worker(self, question: bytes) -> bytes | None:
        """Answer what another worker asks; None for silence."""
        if question[:1] == bytes((workers.GREETING,)):
            return await self._take_over(workers.decode(question))
        if len(question) < _QUESTION.size:
            raise Fault(FaultCode.MALFORMED, "not a question", rule="radius.malformed.relay")
        is_radsec, *lengths = _QUESTION.unpack_from(question)
        at, texts = _QUESTION.size, []
        for length in lengths:
            texts.append(question[at : at + length].decode("utf-8", "replace"))
            at += length
        tenant, name, address = texts
        packet = codec.decode(question[at:])
        client = await self._clients.named(tenant, name)
        if client is None:
            return None
        try:
            secret = self.secret_of("radsec" if is_radsec else "auth", packet, client)
            return await self._access(packet, client, secret, address)
        except Dropped:
            return None

    async def _take_over(self, question: workers.Question) -> bytes | None:
        client = await self._clients.named(question.tenant, question.client)
        if client is None:
            return None
        taken = await self._responder.take_over(client, question.visit, question.greeting)
        return None if taken is None else taken.state + taken.data


def _likely_secret(packet: Packet, good: Sequence[Secret]) -> Secret:
    """Return the secret that makes text of the password: an unsigned request proves nothing."""
    hidden = packet.first(codec.USER_PASSWORD)
    if hidden is not None and len(good) > 1:
        for secret in good:
            try:
                clear = codec.reveal_password(hidden, packet.authenticator, secret.reveal())
                if clear.decode().isprintable():
                    return secret
            except (Fault, UnicodeDecodeError):
                continue
    return good[0]


class Voice:
    """Log lines about dropped packets: one a minute for each reason and source."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last: OrderedDict[Hashable, float] = OrderedDict()

    def say(self, door: str, reason: str, who: str, detail: str) -> None:
        """Write a line unless there was one just now."""
        now = self._seconds()
        key = (door, reason, who)
        last = self._last.get(key)
        if last is not None and now - last < _LINE_SECONDS:
            return
        self._last[key] = now
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED_LINES:
            self._last.popitem(last=False)
        log.warn(
            "RADIUS {door}: dropped a packet of {who}: {reason} {detail}",
            door=door,
            who=who,
            reason=reason,
            detail=detail,
        )


class UDPDoor(DatagramProtocol):
    """One UDP port (RFC 2865, 3; RFC 2866, 3)."""

    noisy = False

    def __init__(
        self,
        kind: Kind,
        exchange: Exchange,
        clients: RadiusClients,
        meter: Meter,
        reactor: Any,
        policy: Policy,
        voice: Voice,
    ) -> None:
        self._kind = kind
        self._exchange = exchange
        self._clients = clients
        self._meter = meter
        self._reactor = reactor
        self._policy = policy
        self._voice = voice
        self._duplicates = Duplicates(reactor.seconds, window=policy.window, maximum=policy.table)
        self._delayed = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802  Twisted's name
        coroutines.run(self._serve(datagram, addr))

    async def _serve(self, datagram: bytes, addr: Any) -> None:
        address = addr[0]
        began = self._reactor.seconds()
        try:
            packet = self._read(datagram)
            client = self._clients.known(address) or await self._clients.find(address)
            if client is None:
                raise Dropped("unknown-client", "tmad radius-client create NAME --prefix ADDRESS")
            secret = self._exchange.secret_of(self._kind, packet, client)
            await self._answer(packet, client, secret, addr)
        except Dropped as dropped:
            self._meter.count(f"dropped-{dropped.reason}")
            if dropped.reason not in ("repeated", "silent"):
                self._voice.say(self._kind, dropped.reason, address, dropped.detail)
        except Fault as fault:
            self._meter.count("dropped-unavailable")
            self._voice.say(self._kind, "unavailable", address, f"{fault.detail} {fault.private}")
        except Exception:
            self._meter.count("dropped-failed")
            log.failure("RADIUS {door}: a packet failed", door=self._kind)
        else:
            self._meter.time(self._reactor.seconds() - began)

    def _read(self, datagram: bytes) -> Packet:
        """Return what arrived; raise Dropped."""
        try:
            packet = codec.decode(datagram)
        except Fault as fault:
            raise Dropped("malformed", fault.detail) from None
        if packet.code not in SERVED[self._kind]:
            raise Dropped("code", f"code {packet.code}")
        return packet

    async def _answer(self, packet: Packet, client: Client, secret: Secret, addr: Any) -> None:
        key = (addr, packet.code, packet.identifier)
        entry, is_new = self._duplicates.note(key, packet.authenticator)
        if not is_new:
            if entry.reply is None:
                raise Dropped("repeated")
            self._meter.count("repeated")
            self._send(entry.reply, addr)
            return
        try:
            self._clients.note_seen(client)
            if client.is_learning and packet.is_signed and packet.code == _ACCESS_REQUEST:
                await self._clients.learn(client)
            reply = await self._exchange.answer(self._kind, packet, client, secret, addr[0])
        except BaseException:
            self._duplicates.forget(key, entry)
            raise
        is_status = packet.code == _STATUS_SERVER
        self._meter.count("status" if is_status else OUTCOMES.get(reply[0], "other"))
        if reply[0] == _ACCESS_REJECT:
            delay = self._policy.reject_delay
            if delay and self._delayed < self._policy.delayed:
                # guessing takes its time.
                self._delayed += 1
                self._reactor.callLater(delay, self._send_late, key, entry, reply, addr)
                return
        self._finish(key, entry, reply, addr)

    def _send_late(self, key: Hashable, entry: Entry, reply: bytes, addr: Any) -> None:
        self._delayed -= 1
        self._finish(key, entry, reply, addr)

    def _finish(self, key: Hashable, entry: Entry, reply: bytes, addr: Any) -> None:
        if self._duplicates.finish(key, entry, reply):
            self._send(reply, addr)

    def _send(self, reply: bytes, addr: Any) -> None:
        # The port may be closed by now: the daemon stops.
        if self.transport is not None:
            self.transport.write(reply, addr)
