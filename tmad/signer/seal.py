"""The master key, and what it seals: AES-256-GCM bound to the row that holds the value.

The master key is random; ``master.json`` in the data directory holds it wrapped by a
passphrase (scrypt, RFC 7914) or by a key in the HSM. Nothing that the database holds can be
opened without it, and a value opened anywhere but where it was sealed fails.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import json
import os
import secrets
import stat
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tmad.errors import Fault, FaultCode
from tmad.events import Secret

# magic, format, algorithm (1 = AES-256-GCM), version of the master key; then nonce and text
_HEADER = struct.Struct(">4sBBH")
_MAGIC = b"tmad"
_FORMAT = 1
_AES_256_GCM = 1
_NONCE = 12
_TAG = 16
_VERSION = 1


class MasterSource(Protocol):
    """What protects the master key while nothing runs."""

    kind: str

    def wrap(self, master: bytes) -> Mapping[str, object]:
        """Return what master.json stores: JSON values, nothing secret."""

    def unwrap(self, stored: Mapping[str, object]) -> bytes:
        """Return the master key; Fault(UNAUTHENTICATED) when this is the wrong protector."""


class Seal:
    """Seals secrets for the database and digests the ones that are only compared.

    ``about`` says what and where the value is, for example ``"key 0123 default p256"``. It is
    authenticated, not stored: the caller must present the same words to open the value.
    """

    def __init__(self, master: bytes) -> None:
        self._cipher = AESGCM(_derive(master, b"tmad seal"))
        # OpenSSL looks its algorithms up for each new one, which takes longer than the digest.
        self._mac = hmac.new(_derive(master, b"tmad digest"), digestmod="sha256")

    @classmethod
    def create(cls, path: Path, source: MasterSource) -> Seal:
        """Make a new master key and write ``path``; Fault(CONFLICT) when it exists."""
        if path.exists():
            raise Fault(FaultCode.CONFLICT, f"{path} exists; it is never overwritten")
        master = secrets.token_bytes(32)
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "kind": source.kind,
            "wrapped": source.wrap(master),
            "check": _check_value(master),
        }
        _write_private(path, json.dumps(document, indent=1).encode() + b"\n")
        return cls(master)

    @classmethod
    def load(cls, path: Path, source: MasterSource) -> Seal:
        """Open the master key; Fault when the file, its mode or the protector is wrong."""
        try:
            document = json.loads(read_private(path))
            kind = document["kind"]
            wrapped = document["wrapped"]
            check = document["check"]
            known = document["format"] == _FORMAT and document["version"] == _VERSION
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(FaultCode.MALFORMED, f"{path} is not a master key file") from error
        if not known:
            raise Fault(FaultCode.UNSUPPORTED, f"{path} was written by a newer tmad")
        if kind != source.kind:
            raise Fault(
                FaultCode.REJECTED,
                f"{path} is protected by {kind}, but the settings say {source.kind}",
                rule="seal.kind",
                values={"file": str(kind), "settings": source.kind},
            )
        master = source.unwrap(wrapped)
        if not hmac.compare_digest(_check_value(master), str(check)):
            raise Fault(FaultCode.BAD_INTEGRITY, f"{path} does not hold the key it says it does")
        return cls(master)

    def seal(self, plaintext: bytes, *, about: str) -> bytes:
        """Encrypt ``plaintext`` so that only ``about`` opens it."""
        header = _HEADER.pack(_MAGIC, _FORMAT, _AES_256_GCM, _VERSION)
        nonce = os.urandom(_NONCE)
        return header + nonce + self._cipher.encrypt(nonce, plaintext, header + about.encode())

    def open(self, sealed: bytes, *, about: str) -> Secret:
        """Decrypt; Fault(BAD_INTEGRITY) for an altered, swapped or foreign value."""
        if len(sealed) < _HEADER.size + _NONCE + _TAG:
            raise _not_ours(about)
        header = sealed[: _HEADER.size]
        if _HEADER.unpack(header) != (_MAGIC, _FORMAT, _AES_256_GCM, _VERSION):
            raise _not_ours(about)  # an unknown format is refused, never guessed
        nonce = sealed[_HEADER.size : _HEADER.size + _NONCE]
        try:
            return Secret(
                self._cipher.decrypt(
                    nonce, sealed[_HEADER.size + _NONCE :], header + about.encode()
                )
            )
        except InvalidTag as error:
            raise _not_ours(about) from error

    def digest(self, about: str, secret: Secret) -> bytes:
        """Return HMAC-SHA-256 of a secret under a key that never leaves this object.

        Equal secrets with equal ``about`` have equal digests; without the master key a digest
        does not help to guess a weak secret.
        """
        words = about.encode()
        mac = self._mac.copy()
        mac.update(len(words).to_bytes(4, "big") + words + secret.reveal())
        return mac.digest()

    def __repr__(self) -> str:
        return "Seal()"

    def __reduce__(self) -> str:
        raise TypeError("a Seal is never pickled")


class PassphraseFile:
    """A passphrase in a file of its own, stretched by scrypt.

    ``work`` is scrypt's N for a new master key; a file keeps the one it was made with. The
    default suits a passphrase that a person chose; a random one of 32 characters needs no
    stretching.
    """

    kind = "passphrase"

    def __init__(self, path: Path, *, work: int = 1 << 17, group_readable: bool = False) -> None:
        self._path = path
        self._work = work
        self._group_readable = group_readable

    def wrap(self, master: bytes) -> Mapping[str, object]:
        salt, nonce = os.urandom(16), os.urandom(_NONCE)
        key = self._stretch(salt, self._work, 8, 1)
        return {
            "kdf": "scrypt",
            "n": self._work,
            "r": 8,
            "p": 1,
            "salt": _text(salt),
            "nonce": _text(nonce),
            "key": _text(AESGCM(key).encrypt(nonce, master, self._bound(self._work, 8, 1))),
        }

    def unwrap(self, stored: Mapping[str, object]) -> bytes:
        try:
            if stored["kdf"] != "scrypt":
                raise ValueError("unknown key derivation")
            n, r, p = (int(str(stored[name])) for name in ("n", "r", "p"))
            # The file is ours, yet a damaged one must not take all memory (128 * N * r octets).
            if not (2 <= n <= 1 << 20 and n & (n - 1) == 0 and r == 8 and 1 <= p <= 16):
                raise ValueError("scrypt parameters out of range")
            salt, nonce, key = (_octets(stored[name]) for name in ("salt", "nonce", "key"))
        except (KeyError, TypeError, ValueError) as error:
            raise Fault(FaultCode.MALFORMED, "the master key file is damaged") from error
        try:
            return AESGCM(self._stretch(salt, n, r, p)).decrypt(nonce, key, self._bound(n, r, p))
        except InvalidTag as error:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                f"the passphrase in {self._path} does not open the master key",
                rule="seal.passphrase",
            ) from error

    def _stretch(self, salt: bytes, n: int, r: int, p: int) -> bytes:
        # An editor's newline at the end is not part of the passphrase.
        passphrase = read_private(self._path, group_readable=self._group_readable).rstrip(b"\r\n")
        if not passphrase:
            raise Fault(FaultCode.REJECTED, f"{self._path} is empty", rule="seal.passphrase")
        return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase)

    @staticmethod
    def _bound(n: int, r: int, p: int) -> bytes:
        return f"tmad master scrypt {n} {r} {p}".encode()


def systemd_credential(name: str, *, work: int = 1 << 17) -> PassphraseFile:
    """Return the passphrase that systemd handed over as credential ``name``."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise Fault(
            FaultCode.REJECTED,
            "CREDENTIALS_DIRECTORY is not set: the unit needs LoadCredential= or"
            f" LoadCredentialEncrypted= for {name}",
            rule="seal.credential",
        )
    if "/" in name or name in ("", ".", ".."):
        raise Fault(FaultCode.REJECTED, f"{name!r} is not the name of a credential")
    # systemd gives the service user access by an ACL; its mask shows as group bits.
    return PassphraseFile(Path(directory) / name, work=work, group_readable=True)


def read_private(path: Path, *, group_readable: bool = False) -> bytes:
    """Read a secret file; Fault when it is missing or others may read or change it."""
    refused = 0o027 if group_readable else 0o077
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & refused:
                raise Fault(
                    FaultCode.REJECTED,
                    f"{path} can be read or changed by others; chmod 600 it",
                    rule="seal.file-mode",
                    values={"mode": f"{stat.S_IMODE(status.st_mode):04o}"},
                )
            if status.st_uid not in (os.geteuid(), 0):
                raise Fault(
                    FaultCode.REJECTED,
                    f"{path} belongs to another user",
                    rule="seal.file-owner",
                    values={"owner": str(status.st_uid)},
                )
            return file.read(65_536)
    except OSError as error:
        raise Fault(
            FaultCode.NOT_FOUND, f"{path} cannot be read: {error.strerror}", rule="seal.file"
        ) from error


def _write_private(path: Path, content: bytes) -> None:
    """Write a new 0600 file that is whole or not there at all."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # link, unlike rename, does not replace a file that appeared meanwhile
            os.link(scratch, path)
        except FileExistsError as error:
            raise Fault(FaultCode.CONFLICT, f"{path} exists; it is never overwritten") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _derive(master: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(master)


def _check_value(master: bytes) -> str:
    return sha256(_derive(master, b"tmad check value")).hexdigest()


def _not_ours(about: str) -> Fault:
    return Fault(
        FaultCode.BAD_INTEGRITY,
        "a stored secret cannot be opened",
        private=f"altered, moved from another row or sealed by another master key: {about}",
        rule="seal.integrity",
    )


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _octets(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
