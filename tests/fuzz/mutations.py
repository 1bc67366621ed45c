"""What fuzzing needs: mutations that know TLV, and a judge of one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tmad.errors import Fault

SLOWEST = 0.050  # seconds of processor time, spec/security.md G-BAD-3


def judge(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call; return the value, or the Fault. Any other exception, and a slow call, is a finding."""
    taken = 0.0
    for _ in range(3):  # a shared machine may lose a time slice; a slow input is slow thrice
        started = time.process_time()
        try:
            result = function(*arguments)
        except Fault as fault:
            result = fault
        taken = time.process_time() - started
        if taken < SLOWEST:
            return result
    raise AssertionError(f"took {taken * 1000:.0f} ms")


def headers(data: bytes, limit: int = 400) -> list[tuple[int, int, int]]:
    """Return (start, content, end) of the elements in ``data``, as far as it is readable."""
    found: list[tuple[int, int, int]] = []
    todo = [(0, len(data))]
    while todo and len(found) < limit:
        position, end = todo.pop()
        while position + 2 <= end:
            start, tag, length = position, data[position], data[position + 1]
            body = position + 2
            if length > 0x80:
                octets = length - 0x80
                length = int.from_bytes(data[body : body + octets])
                body += octets
            elif length == 0x80:
                break
            if body + length > end:
                break
            found.append((start, body, body + length))
            # OCTET STRINGs often hold structures of their own.
            if tag & 0x20 or tag == 0x04:
                todo.append((body, body + length))
            position = body + length
    return found or [(0, 0, len(data))]


@st.composite
def one_octet_wrong(draw: st.DrawFn, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Return a seed with one octet replaced or inserted, or cut off anywhere."""
    data = draw(seeds)
    at = draw(st.integers(0, 400)) % (len(data) + 1)
    kind = draw(st.integers(0, 2))
    if kind == 2:
        return data[:at]
    return data[:at] + bytes((draw(st.integers(0, 255)),)) + data[at + (kind == 0) :]


@st.composite
def mutated(draw: st.DrawFn, seeds: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    """Return a seed after a few mutations, most of which keep the lengths around consistent."""
    data = draw(seeds)
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(_KINDS))
        data = kind(draw, data, seeds)
    return data


def _at(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, max(0, len(data) - 1)))


def _flip(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    at = _at(draw, data)
    return (
        data[:at] + bytes((data[at] ^ 1 << draw(st.integers(0, 7)),)) + data[at + 1 :]
        if data
        else data
    )


def _octet(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    at = _at(draw, data)
    return data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 3)) :]


def _truncate(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    return data[: _at(draw, data)]


def _header(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    """Change a tag or a length octet."""
    start, body, _ = draw(st.sampled_from(headers(data)))
    at = draw(st.integers(start, max(start, body - 1)))
    return data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]


def _replace(draw: st.DrawFn, data: bytes, seeds: st.SearchStrategy[bytes]) -> bytes:
    """Put an element of some seed, or a small made one, in the place of another."""
    start, _, end = draw(st.sampled_from(headers(data)))
    if draw(st.booleans()):
        other = draw(seeds)
        a, _, b = draw(st.sampled_from(headers(other)))
        new = other[a:b]
    else:
        content = draw(st.binary(max_size=12) | st.binary(min_size=126, max_size=300))
        tag = draw(
            st.sampled_from([data[start] if data else 0, 0x30, 0x31, 0x04, 0x24, 0x02, 0x06, 0xA0])
        )
        new = bytes((tag,)) + _length(len(content)) + content
    return _splice(data, start, end, new)


def _remove(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    start, _, end = draw(st.sampled_from(headers(data)))
    return _splice(data, start, end, b"")


def _repeat(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    start, _, end = draw(st.sampled_from(headers(data)))
    times = draw(st.integers(2, 5) | st.just(200))
    new = data[start:end] * times
    return _splice(data, start, end, new if len(new) < 60_000 else data[start:end])


def _indefinite(draw: st.DrawFn, data: bytes, seeds: object) -> bytes:
    """Write a constructed element with indefinite length."""
    start, body, end = draw(st.sampled_from(headers(data)))
    if not data or not data[start] & 0x20:
        return data
    return _splice(data, start, end, data[start : start + 1] + b"\x80" + data[body:end] + b"\0\0")


def _splice(data: bytes, start: int, end: int, new: bytes) -> bytes:
    """Replace an element and correct the lengths of those around it."""
    around = [(a, b, c) for a, b, c in headers(data) if a < start and end <= c and b <= start]
    for a, b, c in sorted(around, reverse=True):
        content = data[b:start] + new + data[end:c]
        new = data[a : a + 1] + _length(len(content)) + content
        start, end = a, c
    return data[:start] + new + data[end:]


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes((size,))
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((0x80 | len(octets),)) + octets


_KINDS = (_flip, _octet, _truncate, _header, _replace, _remove, _repeat, _indefinite)
