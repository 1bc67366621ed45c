"""An HTTP/1.1 answer of a server that nobody trusts, taken in pieces (RFC 9112).

As much as is needed and no more: status, Location, and a body of bounded size.
"""

from __future__ import annotations

import re
from typing import Final

from tmad.errors import Fault, FaultCode

_HEAD: Final = 16_384  # octets
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*")
_SIZE: Final = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?")
_LENGTH: Final = re.compile(rb"\d{1,15}")


def malformed(what: str) -> Fault:
    """Return the Fault for octets that are no HTTP answer."""
    return Fault(FaultCode.MALFORMED, what, rule="wire.answer")


class Answer:
    """One answer; of the body, ``largest`` octets and one more are kept.

    ``is_whole`` tells that nothing more is needed: the body ended, or is too long already.
    """

    def __init__(self, largest: int) -> None:
        self.status = 0
        self.location = ""
        self.body = bytearray()
        self.is_whole = False
        self._largest = largest
        self._waiting = bytearray()
        self._left: int | None = None  # octets of the body, or of its chunk, that are to come
        self._is_chunked = False

    @property
    def is_too_long(self) -> bool:
        """Whether the body has more octets than were wanted."""
        return len(self.body) > self._largest

    def receive(self, data: bytes) -> None:
        """Take octets; Fault(MALFORMED) when they are no answer."""
        if self.is_whole:
            return
        self._waiting += data
        if not self.status and not self._read_head():
            return
        if self._is_chunked:
            self._read_chunks()
        else:
            self._read_body()
        self.is_whole = self.is_whole or self.is_too_long

    def end(self) -> None:
        """Note that the server has hung up; Fault(MALFORMED) when it did so in the middle."""
        if self.is_whole:
            return
        if not self.status or self._is_chunked or self._left is not None:
            raise malformed("the connection ended in the middle of the answer")
        self.is_whole = True

    def _read_head(self) -> bool:
        while True:
            end = self._waiting.find(b"\r\n\r\n")
            if end > _HEAD or (end < 0 and len(self._waiting) > _HEAD):
                raise malformed(f"more than {_HEAD} octets before the body")
            if end < 0:
                return False
            first, *lines = bytes(self._waiting[:end]).split(b"\r\n")
            del self._waiting[: end + 4]
            found = _STATUS.fullmatch(first)
            if found is None:
                raise malformed("not an HTTP answer")
            # 100 and 103 come before the answer itself.
            if found[1][0:1] != b"1":
                self._note(int(found[1]), lines)
                return True

    def _note(self, status: int, lines: list[bytes]) -> None:
        fields: dict[bytes, bytes] = {}
        for line in lines:
            found = _FIELD.fullmatch(line)
            if found is None:
                raise malformed("a header line that is none")
            name = found[1].lower()
            if name in (b"content-length", b"transfer-encoding") and name in fields:
                raise malformed("two lengths of one body")
            fields[name] = found[2]
        self.status = status
        self.location = fields.get(b"location", b"").decode("latin-1")
        coding = fields.get(b"transfer-encoding", b"").lower()
        if coding not in (b"", b"chunked"):
            raise malformed("a transfer coding other than chunked")
        self._is_chunked = bool(coding)
        length = fields.get(b"content-length")
        if length is not None and not coding:
            if not _LENGTH.fullmatch(length):
                raise malformed("a Content-Length that is no number")
            self._left = int(length)
        if status in (204, 304):
            self._left, self._is_chunked = 0, False

    def _read_body(self) -> None:
        room = self._largest + 1 - len(self.body)
        self.body += self._waiting[: room if self._left is None else min(room, self._left)]
        if self._left is not None:
            self._left -= min(self._left, len(self._waiting))
            self.is_whole = self._left == 0
        self._waiting.clear()

    def _read_chunks(self) -> None:
        while not self.is_whole and not self.is_too_long:
            if self._left is None:
                if (line := self._line()) is None:
                    return
                found = _SIZE.fullmatch(line)
                if found is None:
                    raise malformed("a chunk without a size")
                self._left = int(found[1], 16)
                # Trailers tell nothing that is asked for here.
                self.is_whole = self._left == 0
            elif self._left:
                taken = self._waiting[: self._left]
                if not taken:
                    return
                del self._waiting[: len(taken)]
                self._left -= len(taken)
                self.body += taken[: self._largest + 1 - len(self.body)]
            else:
                if (line := self._line()) is None:
                    return
                if line:
                    raise malformed("a chunk that does not end where its size says")
                self._left = None

    def _line(self) -> bytes | None:
        end = self._waiting.find(b"\r\n")
        if end > 256 or (end < 0 and len(self._waiting) > 256):
            raise malformed("a chunk without a size")
        if end < 0:
            return None
        line = bytes(self._waiting[:end])
        del self._waiting[: end + 2]
        return line
