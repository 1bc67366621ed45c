"""HTTP/1.1 heads, bodies and answers as octets, without sockets (RFC 9112).

Strict on purpose: whatever two parsers could read in two ways is refused (request smuggling).
One regular expression is the whole grammar of a head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from tmad.wire.http import Response

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# No obs-fold, no bare CR or LF, no space before the colon, no control characters. A proxy's
# absolute form is accepted (RFC 9112, 3.2.2); "#" never belongs into a request target.
_HEAD = re.compile(
    rb"(" + _TOKEN + rb"{1,20}) (?:http://[!-\"$-.0-~]+)?(/[!-\"$-~]*) HTTP/1\.([01])\r\n"
    rb"((?:" + _TOKEN + rb"{1,64}:[\t -~\x80-\xff]*+\r\n){0,100}+)\r\n"
)
_VERSION = re.compile(rb"[^\r\n]* HTTP/(?:0|[2-9]|1\.[2-9])[0-9.]*\r\n")
_FIELD = re.compile(r"([^:]+):[\t ]*([^\r]*)\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}")
_ONCE = frozenset({"content-length", "host", "transfer-encoding", "expect"})


class Refused(Exception):  # noqa: N818  an answer to the peer
    """A request that is not served; the connection is closed after the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Head:
    """The request line and what the header fields say about the connection."""

    method: str
    path: bytes
    query: bytes
    headers: dict[str, str]
    length: int
    is_chunked: bool
    keeps_alive: bool
    is_old: bool  # HTTP/1.0: it waits for "Connection: keep-alive" before it sends more
    expects_continue: bool


def head_end(data: bytes, scanned: int, limit: int) -> int:
    """Return where the head ends, 0 while it is incomplete; raise Refused for what never ends.

    ``scanned`` octets were looked at before.
    """
    end = data.find(b"\r\n\r\n", max(0, scanned - 3))
    if end >= 0:
        if end + 4 > limit:
            raise _too_long(data)
        return end + 4
    if (data[0] <= 0x20 or data[0] >= 0x7F) and data != b"\r":
        raise Refused(400, "this is not HTTP")
    if _BARE_LF.search(data, max(0, scanned - 1)):
        raise Refused(400, "a line must end with CR LF")
    if len(data) > limit:
        raise _too_long(data)
    return 0


def _too_long(data: bytes) -> Refused:
    if b"\r\n" not in data[:16_384]:
        return Refused(414, "the address is too long")
    return Refused(431, "the header fields are too long")


def decode_head(data: bytes) -> Head:
    """Read a complete head, its last empty line included; raise Refused."""
    match = _HEAD.fullmatch(data)
    if match is None:
        if _VERSION.match(data):
            raise Refused(505, "this server speaks HTTP/1.0 and HTTP/1.1")
        raise Refused(400, "malformed request")
    method, target, minor, fields = match.groups()
    headers: dict[str, str] = {}
    for name, value in _FIELD.findall(fields.decode("latin-1")):
        name = name.lower()
        value = value.rstrip("\t ")
        if name in headers:
            if name in _ONCE:
                raise Refused(400, f"more than one {name}")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    is_old = minor == b"0"
    if not is_old and "host" not in headers:
        raise Refused(400, "no host")  # RFC 9112, 3.2
    length, is_chunked = _framing(headers, is_old)
    connection = headers.get("connection", "").lower()
    expects = headers.get("expect")
    if expects is not None and expects.lower() != "100-continue":
        raise Refused(417, "unknown expectation")
    path, _, query = target.partition(b"?")
    return Head(
        method.decode(),
        path,
        query,
        headers,
        length,
        is_chunked,
        "keep-alive" in connection if is_old else "close" not in connection,
        is_old,
        expects is not None and not is_old,
    )


def _framing(headers: dict[str, str], is_old: bool) -> tuple[int, bool]:
    """Return the body's length and whether it comes in chunks."""
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        # RFC 9112, 6.1 and 6.3: both together are how requests are smuggled.
        if length is not None:
            raise Refused(400, "content-length and transfer-encoding")
        if is_old:
            raise Refused(400, "transfer-encoding in HTTP/1.0")
        if coding.lower() != "chunked":
            raise Refused(501, "unknown transfer-encoding")
        return 0, True
    if length is None:
        return 0, False
    if _LENGTH.fullmatch(length) is None:
        raise Refused(400, "malformed content-length")
    return int(length), False


class Body:
    """Collects a body of known length; ``take`` returns what lies behind its end."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._data = bytearray()

    def take(self, data: bytes) -> bytes | None:
        """Add octets; return the surplus once the body is whole, None before."""
        missing = self._length - len(self._data)
        if len(data) < missing:
            self._data += data
            return None
        self._data += data[:missing]
        return data[missing:]

    def octets(self) -> bytes:
        """Return the whole body."""
        return bytes(self._data)


class ChunkedBody:
    """Decodes chunks; extensions and trailers are refused (nobody sends them honestly)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._input = bytearray()
        self._missing = 0  # octets of the running chunk, its CR LF included

    def take(self, data: bytes) -> bytes | None:
        """Add octets; return the surplus once the body is whole, None before."""
        rest = self._input
        rest += data
        while True:
            if self._missing > 2:
                piece = rest[: self._missing - 2]
                self._data += piece
                self._missing -= len(piece)
                del rest[: len(piece)]
            if self._missing:
                if self._missing > 2 or len(rest) < 2:
                    return None
                if rest[:2] != b"\r\n":
                    raise Refused(400, "malformed chunk")
                del rest[:2]
                self._missing = 0
            end = rest.find(b"\r\n", 0, 12)
            if end < 0:
                if len(rest) > 10:
                    raise Refused(400, "malformed chunk")
                return None
            if _CHUNK_SIZE.fullmatch(rest, 0, end) is None:
                raise Refused(400, "malformed chunk")
            size = int(rest[:end], 16)
            if size == 0:
                if len(rest) < end + 4:
                    return None
                if rest[end + 2 : end + 4] != b"\r\n":
                    raise Refused(400, "trailers are not accepted")
                return bytes(rest[end + 4 :])
            if len(self._data) + size > self._limit:
                raise Refused(413, "the body is too long")
            del rest[: end + 2]
            self._missing = size + 2

    def octets(self) -> bytes:
        """Return the whole body."""
        return bytes(self._data)


_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def encode_answer(response: Response, date: bytes, head: Head | None, *, closes: bool) -> bytes:
    """Return status line and header fields; the body follows unless the method was HEAD.

    ``head`` is None when the request could not be read.
    """
    if closes:
        connection = b"Connection: close\r\n"
    elif head is not None and head.is_old:
        connection = b"Connection: keep-alive\r\n"
    else:
        connection = b""
    fields = f"Content-Type: {response.content_type}\r\n" if response.content_type else ""
    for name, value in response.headers:
        fields += f"{name}: {value}\r\n"
    if fields.count("\n") != len(response.headers) + bool(response.content_type):
        raise ValueError("a line break in a header field")
    # RFC 9110, 8.6: a 204 has no length.
    length = b"" if response.status == 204 else b"Content-Length: %d\r\n" % len(response.body)
    return b"%bDate: %b\r\n%b%b%b\r\n" % (
        _STATUS_LINES[response.status],
        date,
        fields.encode("latin-1"),
        length,
        connection,
    )
