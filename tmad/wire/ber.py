"""BER to DER: what Apple's and OpenSSL's streaming writers send, made definite (X.690, 8).

Only the framing is normalised: indefinite and padded lengths, OCTET STRINGs and BIT STRINGs
sent in pieces. The content of a primitive element and the order of a SET are left as received.
An IMPLICIT string in pieces (EnvelopedData's ``[0] encryptedContent``) looks exactly like an
EXPLICIT one; only who knows the structure can tell them apart, and calls :func:`pieces`.
"""

from __future__ import annotations

from tmad.wire import der
from tmad.wire.der import malformed

_CONSTRUCTED_OCTETS = der.OCTET_STRING | 0x20
_CONSTRUCTED_BITS = der.BIT_STRING | 0x20
_CONSTRUCTED = frozenset({der.SEQUENCE, der.SET, _CONSTRUCTED_OCTETS, _CONSTRUCTED_BITS})
_IMPOSSIBLE = frozenset({0x00, 0x10, 0x11})  # end-of-contents, and primitive SEQUENCE and SET


class _Frame:
    """A constructed element whose end has not been reached."""

    __slots__ = ("end", "limit", "parts", "tag")

    def __init__(self, tag: int, end: int, limit: int) -> None:
        self.tag = tag
        self.end = end  # -1: ended by end-of-contents octets
        self.limit = limit  # where the nearest element of definite length ends
        self.parts: list[bytes] = []

    def close(self) -> bytes:
        """Return the element as DER."""
        if self.tag == _CONSTRUCTED_OCTETS:
            return der.tlv(der.OCTET_STRING, *map(_octets_of_piece, self.parts))
        if self.tag == _CONSTRUCTED_BITS:
            return _join_bits(self.parts)
        return der.tlv(self.tag, *self.parts)


def normalise(data: bytes, *, elements: int, depth: int) -> bytes:
    """Return one BER element as DER framing; return DER itself unchanged.

    Raise Fault(MALFORMED) for broken, too deep or too many elements and for trailing bytes.
    Iterative; each octet is copied at most ``depth`` times.
    """
    if der.find_ber(data, elements=elements, depth=depth) < 0:
        return data
    try:
        return _rewrite(data, elements, depth)
    except IndexError:
        raise malformed("the structure is cut off") from None


def _rewrite(data: bytes, elements: int, depth: int) -> bytes:
    position = 0
    frames: list[_Frame] = []
    while True:
        end, limit = (frames[-1].end, frames[-1].limit) if frames else (len(data), len(data))
        if end < 0 and data[position : position + 2] == b"\0\0":
            position += 2
            if position > limit:
                raise malformed("an element reaches beyond its end")
            done = frames.pop().close()
        else:
            elements -= 1
            if elements < 0:
                raise malformed("too many elements", "wire.der.elements")
            tag = data[position]
            if tag & 0x1F == 0x1F or tag in _IMPOSSIBLE:
                raise malformed(f"impossible tag at octet {position}")
            length, body = _length(data, position + 1)
            stop = body + length if length >= 0 else -1
            if max(body, stop) > limit:
                raise malformed(f"an element reaches beyond its end at octet {position}")
            position = body
            if tag & 0x20:
                if tag < 0x40 and tag not in _CONSTRUCTED:
                    raise malformed(f"impossible tag at octet {position}")
                if len(frames) >= depth:
                    raise malformed("nested too deeply", "wire.der.depth")
                frames.append(_Frame(tag, stop, limit if stop < 0 else stop))
                if position != stop:
                    continue
                done = frames.pop().close()
            else:
                if stop < 0:
                    raise malformed("a primitive element of indefinite length")
                position = stop
                done = der.tlv(tag, data[body:stop])
        # What is complete may have been the last element of those around it.
        while frames:
            frames[-1].parts.append(done)
            if frames[-1].end != position:
                break
            done = frames.pop().close()
        else:
            if position != len(data):
                raise malformed("bytes follow the structure", "wire.der.trailing")
            return done


def _length(data: bytes, position: int) -> tuple[int, int]:
    """Return the length that is written at ``position`` (-1: indefinite) and what follows it."""
    length = data[position]
    position += 1
    if length < 0x80:
        return length, position
    octets = length - 0x80
    if octets == 0:
        return -1, position
    if octets > 4 or position + octets > len(data):
        raise malformed("impossible length")
    return int.from_bytes(data[position : position + octets]), position + octets


def _octets_of_piece(piece: bytes) -> bytes:
    return der.content(piece, der.OCTET_STRING)


def _join_bits(parts: list[bytes]) -> bytes:
    """Join the pieces of a BIT STRING; only the last may end inside an octet (X.690, 8.6.4)."""
    bodies = [der.content(part, der.BIT_STRING) for part in parts]
    if not bodies or not all(bodies) or any(body[0] for body in bodies[:-1]):
        raise malformed("the pieces of a BIT STRING do not fit together")
    return der.tlv(der.BIT_STRING, bodies[-1][:1], *(body[1:] for body in bodies))


def pieces(reader: der.Reader, number: int) -> bytes:
    """Read ``[number] IMPLICIT OCTET STRING``, primitive or in pieces; return its octets."""
    if reader.peek() == 0x80 | number:
        return reader.content(0x80 | number)
    inside = reader.enter(0xA0 | number)
    return b"".join([inside.content(der.OCTET_STRING) for _ in inside.each()])
