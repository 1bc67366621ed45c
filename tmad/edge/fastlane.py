"""One HTTP/1.1 connection: octets in, answers out in order, within limits (RFC 9112).

Every door is served from here; a hot one answers in the same turn of the reactor, with one
write for everything that is ready (docs/decisions/0010-one-http-channel.md).
"""

from __future__ import annotations

from socket import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ITransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.edge.http1 import (
    Body,
    ChunkedBody,
    Head,
    Refused,
    decode_head,
    encode_answer,
    head_end,
)
from tmad.edge.tcp import Connection
from tmad.plugin import Limits
from tmad.wire.http import Response, TLSSession

if TYPE_CHECKING:
    from tmad.edge.http import Door, Site

# What is read ahead of the request that is being answered.
_READ_AHEAD = 65_536
# A peer that pipelines gets this many answers before others have their turn.
_IN_A_ROW = 64
# A body above this is written in pieces as the peer takes them: slow readers share one copy.
_PIECE = 65_536
_NEVER = float("inf")
# After an answer that closes, the peer may still be sending: what it sends is read and thrown
# away for a moment, or the kernel's reset would destroy the answer (RFC 9112, 9.6).
_LINGER = 2.0
_LINGER_OCTETS = 1 << 20
# For the last octets of an answer when the connection is closed.
_FLUSH = 5.0

# Heads up to this length are remembered by their site, so many of them.
_REPEATED = 1_024
_REMEMBERED = 512
# What a path that is nobody's may send, since it is read before it is refused.
_UNKNOWN = Limits()

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Transport(Protocol):
    """What the channel needs of a TCP or TLS transport."""

    def getPeer(self) -> Any: ...  # noqa: N802  Twisted's name
    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...  # noqa: N802  Twisted's name
    def loseWriteConnection(self) -> None: ...  # noqa: N802  Twisted's name
    def connectionLost(self, reason: Failure) -> None: ...  # noqa: N802  Twisted's name
    def abortConnection(self) -> None: ...  # noqa: N802  Twisted's name
    def pauseProducing(self) -> None: ...  # noqa: N802  Twisted's name
    def resumeProducing(self) -> None: ...  # noqa: N802  Twisted's name
    def registerProducer(self, producer: Any, streaming: bool) -> None: ...  # noqa: N802
    def unregisterProducer(self) -> None: ...  # noqa: N802  Twisted's name


def peer_of(transport: Transport) -> str:
    """Return the peer's address as text."""
    address: IAddress = transport.getPeer()
    return getattr(address, "host", "")


@implementer(IHalfCloseableProtocol)
class Channel(TwistedProtocol):
    """Serves one connection; ``deadline`` is when the site calls ``expire``."""

    # How each connection begins. On the class, because most end after one request.
    deadline = _NEVER
    source = ""
    peer = ""
    tls: TLSSession | None = None  # once somebody has asked
    _unread = b""
    _scanned = 0
    _head: Head | None = None
    _door: Door | None = None
    _body: Body | ChunkedBody | None = None
    _ready_size = 0
    _rest: memoryview | None = None  # of a large body
    _is_busy = False  # an answer is being made
    _is_clogged = False  # the peer does not read
    _is_paused = False  # we do not read
    _is_yielding = False
    _closes = False  # after what is being written
    _is_over = False  # nothing is read or served any more
    _has_ended = False  # the peer sends nothing more
    _discarded = 0
    _socket: socket | None = None  # while nothing is in Twisted's buffer

    def __init__(self, site: Site) -> None:
        self.site = site
        self._ready: list[bytes] = []

    # -- Twisted's side ---------------------------------------------------------------------

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802  Twisted's name
        self._transport = cast("Transport", transport)
        super().makeConnection(transport)  # type: ignore[no-untyped-call]  # Twisted's is untyped

    def connectionMade(self) -> None:  # noqa: N802  Twisted's name
        transport = self._transport
        if isinstance(transport, Connection):
            self.peer = transport.host
            self._socket = transport.direct
        else:
            self.peer = peer_of(transport)
        if not self.site.opened(self):
            self._is_over = True
            self._transport.abortConnection()
            return
        self.deadline = self.site.seconds() + self.site.limits.header_seconds
        if self._socket is None:
            transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        if self._is_over:
            self._discarded += len(data)
            if self._discarded > _LINGER_OCTETS:
                self._transport.abortConnection()
            return
        self._unread = self._unread + data if self._unread else data
        if self._is_held:
            if len(self._unread) > _READ_AHEAD and not self._is_paused:
                self._is_paused = True
                self._transport.pauseProducing()
        else:
            self._serve()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._is_over = True
        self._closes = True
        self._unread = b""
        self._rest = None
        self._ready.clear()
        self.site.closed(self)

    def readConnectionLost(self) -> None:  # noqa: N802  Twisted's name
        """The peer has closed its side; it may still wait for answers."""
        self._has_ended = True
        if self._is_over:
            self._transport.loseConnection()
        elif not self._is_held:
            if self._socket is not None:
                # Nothing is in Twisted's buffer either: what Twisted itself would do.
                self._transport.connectionLost(connectionDone)
            else:
                self._finish()

    def writeConnectionLost(self) -> None:  # noqa: N802  Twisted's name
        """Be told that our side is closed, as was asked for."""

    @property
    def _is_held(self) -> bool:
        """Whether the next request has to wait."""
        return self._is_busy or self._is_clogged or self._is_yielding or self._rest is not None

    def pauseProducing(self) -> None:  # noqa: N802  Twisted's name
        """The peer has not read the last answers."""
        self._is_clogged = True
        if not self._is_over:
            self.deadline = self.site.seconds() + self.site.limits.write_seconds

    def resumeProducing(self) -> None:  # noqa: N802  Twisted's name
        """The peer has read everything."""
        self._is_clogged = False
        if self._is_over:
            return
        self.deadline = _NEVER if self._is_busy else self._idle_end()
        if self._rest is not None:
            self._write_rest()
        if not (self._is_held or self._is_over):
            self._serve()

    def stopProducing(self) -> None:  # noqa: N802  Twisted's name
        """Be told that the connection is going away."""

    # -- the site's side --------------------------------------------------------------------

    def expire(self) -> None:
        """End the connection, because its deadline has passed."""
        if self._is_over or self._is_clogged or self._rest is not None:
            self.site.cut_off += 1
            self.deadline = _NEVER
            self._transport.abortConnection()
        elif self._head is not None:
            self._refuse(Refused(408, "the body did not come in time"))
        elif self._unread:
            self._refuse(Refused(408, "the request did not come in time"))
        else:
            # Nothing was asked, so nothing is said.
            self._finish()

    def drain(self) -> None:
        """Close after the request that is under way, at once when there is none."""
        self._closes = True
        if self._head is None and self._rest is None and not self._is_over:
            self._finish()

    # -- requests ---------------------------------------------------------------------------

    def _serve(self) -> None:
        """Answer what has come, as far as it is complete."""
        try:
            for _ in range(_IN_A_ROW):
                if not self._serve_one() or not self._unread:
                    break
            else:
                self._is_yielding = True
                self.site.later(self._continue)
        except Refused as refused:
            self._refuse(refused)
        self._flush()
        if not self._unread:
            self._resume_reading()
        if self._has_ended and not (self._is_held or self._is_over):
            self._finish()

    def _continue(self) -> None:
        self._is_yielding = False
        if not (self._is_held or self._is_over):
            self._serve()

    def _serve_one(self) -> bool:
        """Take and answer one request; tell whether the next one may be looked at."""
        if self._head is None:
            data = self._unread
            while data.startswith(b"\r\n"):
                data = self._unread = data[2:]  # RFC 9112, 2.2
            if not data:
                self._resume_reading()
                return False
            site = self.site
            end = head_end(data, self._scanned, site.limits.header_octets)
            if not end:
                if not self._scanned:
                    # From the first octet on, however slowly the others come.
                    self.deadline = site.seconds() + site.limits.header_seconds
                self._scanned = len(data)
                self._resume_reading()
                return False
            self._scanned = 0
            raw = data[:end]
            self._unread = data[end:]
            head, door = site.heads.get(raw) or self._decode(raw)
            self._begin(head, door)
        if self._body is not None:
            surplus = self._body.take(self._unread)
            if surplus is None:
                self._unread = b""
                self._resume_reading()
                return False
            self._unread = surplus
        return self._answer()

    def _decode(self, raw: bytes) -> tuple[Head, Door | None]:
        """Read a head that is new here; clients that poll repeat theirs to the octet."""
        site = self.site
        head = decode_head(raw)
        found = (head, site.door(head))
        if len(raw) <= _REPEATED:
            if len(site.heads) >= _REMEMBERED:
                site.heads.clear()
            site.heads[raw] = found
        return found

    def _begin(self, head: Head, door: Door | None) -> None:
        """Decide, before its body is read, whether this request is served at all."""
        site = self.site
        site.waiting.pop(self, None)
        self._head = head
        self._door = door
        limits = _UNKNOWN if door is None else door.limits
        if len(head.path) + len(head.query) >= limits.url:
            raise Refused(414, "the address is too long")
        limit = limits.body
        if head.is_chunked:
            self._body = ChunkedBody(limit)
        elif head.length:
            if head.length > limit:
                raise Refused(413, "the body is too long")
            self._body = Body(head.length)
        else:
            return
        self.deadline = site.seconds() + site.limits.body_seconds
        if head.expects_continue and not self._unread:
            self._put(_CONTINUE)

    def _answer(self) -> bool:
        head, body = self._head, self._body
        assert head is not None
        octets = body.octets() if body is not None else b""
        answer = self.site.answer(self, head, self._door, octets)
        if isinstance(answer, Response):
            self._put_answer(head, answer)
            return not (self._is_over or self._is_clogged or self._rest is not None)
        self._is_busy = True
        self.deadline = _NEVER
        cast("Any", answer).addCallback(self._answered, head)
        return False

    def _answered(self, response: Response, head: Head) -> None:
        self._is_busy = False
        if self._is_over:
            return
        self._put_answer(head, response)
        if not (self._is_over or self._is_clogged or self._rest is not None):
            self._serve()
        else:
            self._flush()

    # -- answers ----------------------------------------------------------------------------

    def _put_answer(self, head: Head, response: Response) -> None:
        closes = self._closes = self._closes or not head.keeps_alive
        self._head = self._body = None
        site = self.site
        try:
            answer = encode_answer(response, site.date(), head, closes=closes)
        except (ValueError, KeyError):
            # UnicodeEncodeError is a ValueError: the handler made what HTTP cannot say.
            response = site.broken(head)
            answer = encode_answer(response, site.date(), head, closes=closes)
        self._put(answer)
        if head.method != "HEAD" and response.body:
            if len(response.body) <= _PIECE:
                self._put(response.body)
            else:
                self._flush()
                self._rest = memoryview(response.body)
                self._write_rest()
                return
        self._answer_put()

    def _answer_put(self) -> None:
        if self._closes:
            self._finish()
        else:
            self.deadline = self._idle_end()
            self.site.waiting[self] = None

    def _idle_end(self) -> float:
        return self.site.seconds() + self.site.limits.idle_seconds

    def _write_rest(self) -> None:
        """Write a large body as fast as the peer reads it."""
        while self._rest is not None and not self._is_clogged:
            piece, rest = self._rest[:_PIECE], self._rest[_PIECE:]
            self._rest = rest if rest else None
            self.deadline = self.site.seconds() + self.site.limits.write_seconds
            if self._socket is not None:
                self._leave_socket()
            self._transport.write(bytes(piece))
        if self._rest is None and not self._is_over:
            self._answer_put()

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that is not served, and close."""
        head, self._head, self._body = self._head, None, None
        response = self.site.refusal(self, refused)
        self._closes = True
        self._put(encode_answer(response, self.site.date(), None, closes=True))
        if head is None or head.method != "HEAD":
            self._put(response.body)
        self._finish(lingers=True)

    def _finish(self, *, lingers: bool = False) -> None:
        """Close once everything has been written."""
        self._flush()
        self._is_over = True
        lingers = lingers or bool(self._unread)
        self._unread = b""
        self.deadline = self.site.seconds() + (_LINGER if lingers else _FLUSH)
        if self._socket is None:
            # A transport with a producer waits for it before it closes.
            self._transport.unregisterProducer()
        if lingers and not self.site.secure:
            self._resume_reading()
            self._transport.loseWriteConnection()
        else:
            self._transport.loseConnection()

    def _resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resumeProducing()

    def _put(self, data: bytes) -> None:
        self._ready.append(data)
        self._ready_size += len(data)
        if self._ready_size > _PIECE:
            self._flush()

    def _flush(self) -> None:
        ready = self._ready
        if not ready:
            return
        data = ready[0] if len(ready) == 1 else b"".join(ready)
        ready.clear()
        self._ready_size = 0
        if self._socket is not None:
            # Straight to the socket: Twisted's buffer costs two epoll calls an answer.
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                # Twisted will find out as well, and call connectionLost.
                self._leave_socket()
                return
            if sent == len(data):
                return
            self._leave_socket()
            data = data[sent:]
        self._transport.write(data)

    def _leave_socket(self) -> None:
        """From now on Twisted buffers, so that nothing is overtaken."""
        self._socket = None
        self._transport.registerProducer(self, True)
