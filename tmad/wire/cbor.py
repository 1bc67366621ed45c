"""CBOR, as attestation statements use it (RFC 8949; WebAuthn wants the CTAP2 canonical form).

Only what such statements hold: integers, byte and text strings, arrays, maps with text keys,
true, false and null, all of definite length. Reading raises Fault(MALFORMED) and nothing else.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from tmad.errors import Fault, FaultCode

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str, Value] | None"

_ITEMS: Final = 500
_DEPTH: Final = 8
_SIMPLE: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


def malformed(what: str) -> Fault:
    """Return the Fault for octets that are not this CBOR."""
    return Fault(FaultCode.MALFORMED, what, rule="wire.cbor")


def decode(data: bytes) -> Value:
    """Return the one item that these octets are."""
    reader = _Reader(data)
    value = reader.item(_DEPTH)
    if reader.at != len(data):
        raise malformed("octets behind the CBOR item")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = _ITEMS
        self.at = 0

    def item(self, depth: int) -> Value:
        self._items -= 1
        if self._items < 0 or depth == 0:
            raise malformed("CBOR with too many or too deep items")
        first = self._take(1)[0]
        kind, low = first >> 5, first & 0x1F
        if kind == 7:
            if low not in _SIMPLE:
                raise malformed(f"CBOR of a kind that is not read here: 0x{first:02x}")
            return _SIMPLE[low]
        number = self._number(low)
        if kind == 0:
            return number
        if kind == 1:
            return -1 - number
        if kind == 2:
            return self._take(number)
        if kind == 3:
            return self._text(number)
        if kind == 4:
            return [self.item(depth - 1) for _ in range(self._count(number))]
        if kind == 5:
            return self._map(number, depth)
        raise malformed("CBOR with a tag")

    def _map(self, number: int, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(self._count(number)):
            key = self.item(depth - 1)
            if not isinstance(key, str) or key in found:
                raise malformed("a CBOR map with a key that is no text, or twice the same")
            found[key] = self.item(depth - 1)
        return found

    def _number(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise malformed("CBOR of indefinite length")
        return int.from_bytes(self._take(1 << (low - 24)))

    def _count(self, number: int) -> int:
        # Each item has at least one octet: what is not there is not made room for.
        if number > self._items:
            raise malformed("CBOR with too many or too deep items")
        return number

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise malformed("CBOR text that is not UTF-8") from None

    def _take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise malformed("CBOR that ends too early")
        piece = self._data[self.at : end]
        self.at = end
        return piece
