"""Passwords and PINs: argon2id (RFC 9106), in threads of their own, never in the reactor.

A hash is bound to its row by a pepper that only the master key gives: neither a stolen database
nor a hash copied from one row to another is of use. What nobody has costs as much to try as what
somebody has.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tmad.config import PasswordSection
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.signer.seal import Seal
from tmad.signer.workers import Reactor, Workers
from tmad.wire.md4 import md4

T = TypeVar("T")

_LONGEST: Final = 128  # octets; what User-Password of RADIUS carries (RFC 2865, 5.2)
_SHORTEST_PIN: Final = 4
_LONGEST_PIN: Final = 16
_PATIENCE: Final = 5.0  # seconds
_LETTERS: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # nobody misreads these
_PHC: Final = re.compile(r"\$argon2id\$v=19\$m=(\d{1,8}),t=(\d{1,3}),p=(\d{1,2})\$")
_MOST_MEMORY: Final = 1 << 20  # KiB


class Passwords:
    """Makes and checks hashes. Without a reactor everything happens in the calling thread."""

    def __init__(self, seal: Seal, settings: PasswordSection, reactor: Reactor | None) -> None:
        self._seal = seal
        self._settings = settings
        self._workers = Workers(
            "the password check", threads=settings.threads, queue=settings.queue, reactor=reactor
        )
        self._nobodys = ""

    async def hash(self, about: str, password: Secret) -> str:
        """Return the PHC string of a password. ``about`` names the row: "person t/bob"."""
        return await self._run(lambda: self._hash(about, canonical(password)))

    async def is_right(self, about: str, password: Secret, stored: str | None) -> bool:
        """Tell whether this is the password; without a stored one that costs the same."""
        return await self._run(lambda: self._is_right(about, canonical(password), stored))

    def is_outdated(self, stored: str) -> bool:
        """Tell whether the hash was made at another cost than is set now."""
        match = _PHC.match(stored)
        wanted = self._settings
        return match is None or tuple(map(int, match.groups())) != (
            wanted.memory_kib,
            wanted.iterations,
            wanted.lanes,
        )

    def check_new(self, password: Secret, *names: str) -> None:
        """Raise Fault(REJECTED) for a password that nobody should have."""
        text = _text(password)
        if len(text) < self._settings.shortest:
            raise _weak(f"a password has at least {self._settings.shortest} characters")
        if len(password.reveal()) > _LONGEST:
            raise _weak(f"a password has at most {_LONGEST} octets")
        if text.casefold() in {name.casefold() for name in names} or len(set(text)) < 3:
            raise _weak("a password is not the name, nor the same characters again and again")

    def close(self) -> None:
        """Refuse what waits."""
        self._workers.stop()

    async def _run(self, function: Callable[[], T]) -> T:
        return await self._workers.run(function, patience=_PATIENCE)

    def _hash(self, about: str, password: bytes) -> str:
        cost = self._settings
        return Argon2id(
            salt=os.urandom(16),
            length=32,
            iterations=cost.iterations,
            lanes=cost.lanes,
            memory_cost=cost.memory_kib,
            secret=self._pepper(about),
        ).derive_phc_encoded(password)

    def _is_right(self, about: str, password: bytes, stored: str | None) -> bool:
        if not self._nobodys:
            self._nobodys = self._hash("nobody", os.urandom(16))
        try:
            Argon2id.verify_phc_encoded(
                password, _checked(stored or self._nobodys), self._pepper(about)
            )
        except InvalidKey:
            return False
        # RFC 4513, 5.1.2: an empty password proves nothing, whatever is stored.
        return stored is not None and bool(password)

    def _pepper(self, about: str) -> bytes:
        return self._seal.digest("pepper", Secret(about))


def canonical(password: Secret) -> bytes:
    """Return a password as RFC 8265, 4.2 compares it; what is not UTF-8 stays as it is."""
    try:
        text = password.reveal().decode()
    except UnicodeDecodeError:
        return password.reveal()
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    return unicodedata.normalize("NFC", spaced).encode()


def generate() -> Secret:
    """Return a random password of 99 bits in groups that can be read out."""
    letters = [secrets.choice(_LETTERS) for _ in range(20)]
    return Secret("-".join("".join(letters[at : at + 5]) for at in range(0, 20, 5)))


def check_new_pin(pin: Secret) -> None:
    """Raise Fault(REJECTED) for a PIN that is too short, too long or too simple."""
    text = _text(pin)
    if not _SHORTEST_PIN <= len(text) <= _LONGEST_PIN or any(c.isspace() for c in text):
        raise _weak(f"a PIN has {_SHORTEST_PIN} to {_LONGEST_PIN} characters, none of them a space")
    steps = {ord(b) - ord(a) for a, b in itertools.pairwise(text)}
    if steps <= {0} or steps in ({1}, {-1}):
        raise _weak("a PIN is not one character repeated, nor a sequence")


def nt_hash(password: Secret) -> Secret:
    """Return the NT hash, MD4 of the UTF-16 password, that MSCHAPv2 needs (RFC 2759, 8.3)."""
    return Secret(md4(canonical(password).decode().encode("utf-16-le")))


def _checked(stored: str) -> str:
    # A hash that somebody put into the database must not take all memory.
    match = _PHC.match(stored)
    if match is None or int(match[1]) > _MOST_MEMORY or int(match[2]) > 100:
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "a stored password cannot be checked",
            private="not an argon2id hash of a bearable cost",
            rule="password.hash",
        )
    return stored


def _text(secret: Secret) -> str:
    try:
        text = canonical(secret).decode()
    except UnicodeDecodeError:
        raise _weak("it must be UTF-8") from None
    if any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") for c in text):
        raise _weak("it must have no control characters")
    return text


def _weak(what: str) -> Fault:
    return Fault(FaultCode.REJECTED, what, rule="password.weak")
