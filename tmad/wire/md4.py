"""MD4 (RFC 1320), which MSCHAPv2 needs (RFC 2433, 2759) and OpenSSL 3 no longer has.

It is broken as a hash; nothing but the NT password hash and what is derived from it uses it.
"""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFF
# Round constants, the order in which each round takes the words, and its rotations.
_ROUNDS = (
    (0x00000000, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), (3, 7, 11, 19)),
    (0x5A827999, (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), (3, 5, 9, 13)),
    (0x6ED9EBA1, (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15), (3, 9, 11, 15)),
)


def md4(data: bytes) -> bytes:
    """Return the 16 octets of the digest."""
    state = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
    padded = data + b"\x80" + bytes(-(len(data) + 9) % 64) + struct.pack("<Q", len(data) * 8)
    for at in range(0, len(padded), 64):
        state = _compress(state, struct.unpack_from("<16I", padded, at))
    return struct.pack("<4I", *state)


def _compress(
    state: tuple[int, int, int, int], words: tuple[int, ...]
) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for number, (constant, order, rotations) in enumerate(_ROUNDS):
        for step, index in enumerate(order):
            if number == 0:
                mixed = (b & c) | (~b & d)
            elif number == 1:
                mixed = (b & c) | (b & d) | (c & d)
            else:
                mixed = b ^ c ^ d
            total = (a + mixed + words[index] + constant) & _MASK
            by = rotations[step % 4]
            a, b, c, d = d, (total << by | total >> (32 - by)) & _MASK, b, c
    w, x, y, z = state
    return (w + a) & _MASK, (x + b) & _MASK, (y + c) & _MASK, (z + d) & _MASK
