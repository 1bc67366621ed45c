"""Portable Symmetric Key Containers (RFC 6030): the seeds of hardware tokens, plain or sealed.

Sealed by a key that maker and buyer share (RFC 6030, 6.1) or by a passphrase (6.2, PBKDF2 of
RFC 8018). Where the cipher does not protect itself, the ValueMAC is checked before anything is
decrypted. A signature is not verified: whoever needs one verifies it with pskctool.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import xmltree
from tmad.identity.tokenseed import TokenSeed, decode_base64, token_seed, whole_number
from tmad.identity.xmltree import Element

MOST_TOKENS: Final = 100_000
_MOST_ITERATIONS: Final = 2_000_000  # about a second; the file chooses the number
_LONGEST_VALUE: Final = 4_096  # octets of one encrypted value

# RFC 6030, 10.1 and 10.2 and the names of its drafts, which devices' makers still write.
_ALGORITHM: Final = re.compile(
    r"(?:urn:ietf:params:xml:ns:keyprov:pskc[:#]|http://www\.ietf\.org/keyprov/pskc#)?(hotp|totp)",
    re.IGNORECASE,
)
_CIPHER: Final = re.compile(r"http://www\.w3\.org/2001/04/xmlenc#(aes|kw-aes)(128|192|256)(-cbc)?")
_HMAC: Final = re.compile(
    r"http://www\.w3\.org/(?:2000/09/xmldsig#hmac-(sha1)"
    r"|2001/04/xmldsig-more#hmac-(sha256|sha384|sha512))"
)
_PBKDF2: Final = frozenset(
    {
        "http://www.rsasecurity.com/rsalabs/pkcs/schemas/pkcs-5v2-0#pbkdf2",
        "http://www.rsasecurity.com/rsalabs/pkcs/schemas/pkcs-5#pbkdf2",
        "http://www.w3.org/2009/xmlenc11#pbkdf2",
    }
)
_PRF: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_POLICY: Final = frozenset({"StartDate", "ExpiryDate", "KeyUsage", "PINPolicy"})

Found = Callable[[TokenSeed], None]
Wrong = Callable[[int, str, str], None]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Openers:
    """What the importer brought along to open a container."""

    key: Secret | None = None
    passphrase: Secret | None = None


class Container:
    """Reads one container; each token goes to ``found``, each one that is wrong to ``wrong``."""

    def __init__(
        self,
        openers: Openers,
        now: datetime,
        *,
        found: Found,
        wrong: Wrong,
        note: Note,
        expired_too: bool = False,
    ) -> None:
        self._openers = openers
        self._now = now
        self._found = found
        self._wrong = wrong
        self._note = note
        self._expired_too = expired_too
        self._sealed = _Sealed()
        self._serials: set[str] = set()
        self._packages = 0

    def read(self, data: bytes) -> None:
        """Read all of it; Fault for a container that as a whole cannot be read or trusted."""
        xmltree.read(data, self._begin, self._piece)

    def _begin(self, root: Element) -> None:
        if root.name != "KeyContainer":
            _malformed(f"a PSKC file begins with KeyContainer, not {root.name[:40]}")
        version = root.attributes.get("Version", "1.0")
        if version.partition(".")[0] != "1":
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"PSKC version {version[:20]!r} is not known; 1.0 is",
                rule="otp.pskc.version",
            )

    def _piece(self, element: Element) -> None:
        match element.name:
            case "EncryptionKey":
                self._sealed.key = _encryption_key(element, self._openers)
            case "MACMethod":
                self._sealed.read_mac(element)
            case "KeyPackage":
                self._package(element)
            case "Signature":
                self._note("the file is signed; the signature was not verified (pskctool does it)")
            case "Extensions":
                self._note("extensions of the container were ignored")
            case other:
                _malformed(f"line {element.line}: {other[:40]} does not belong into a container")

    def _package(self, package: Element) -> None:
        self._packages += 1
        if self._packages > MOST_TOKENS:
            raise Fault(
                FaultCode.REJECTED,
                f"more than {MOST_TOKENS} tokens in one file; divide it",
                rule="otp.file.tokens",
            )
        device = package.value("DeviceInfo", "SerialNo")
        keys = [child for child in package.children if child.name == "Key"]
        if not keys:
            # RFC 6030, 4: a package may describe a device without a key.
            self._note(f"line {package.line}: a device without a key was ignored")
        for key in keys:
            serial = self._distinct(device, key)
            try:
                self._found(self._token(serial, key))
            except ValueError as error:
                self._wrong(key.line, serial, str(error))

    def _distinct(self, serial: str, key: Element) -> str:
        """Return a name for a key; a device that has several is told apart by the keys' ids."""
        key_id = key.attributes.get("Id", "")
        name = serial or key_id
        if name.upper() in self._serials:
            self._note(f"device {name} has several keys; one is called {name}-{key_id}")
            name = f"{name}-{key_id}"
        self._serials.add(name.upper())
        return name

    def _token(self, serial: str, key: Element) -> TokenSeed:
        algorithm = _ALGORITHM.fullmatch(key.attributes.get("Algorithm", "").strip())
        if algorithm is None:
            raise ValueError("its algorithm is neither HOTP nor TOTP")
        self._check_policy(serial, key.find("Policy"))
        secret = key.find("Data", "Secret")
        if secret is None:
            raise ValueError("it has no secret; keys that are derived elsewhere are not supported")
        return token_seed(
            serial=serial,
            kind=algorithm[1],
            seed=self._octets(secret, "secret"),
            algorithm=key.value("AlgorithmParameters", "Suite"),
            digits=_digits(key.find("AlgorithmParameters", "ResponseFormat")),
            period=self._number(key.find("Data", "TimeInterval"), "TimeInterval"),
            counter=self._number(key.find("Data", "Counter"), "Counter"),
            person=_person(key.value("UserId")),
        )

    def _octets(self, value: Element, what: str) -> bytes:
        plain = value.find("PlainValue")
        if plain is not None:
            try:
                return decode_base64(plain.text)
            except ValueError:
                raise ValueError(f"its {what} is not base64") from None
        return self._sealed.open(value, what)

    def _number(self, value: Element | None, what: str) -> int | None:
        if value is None:
            return None
        plain = value.find("PlainValue")
        if plain is not None:
            return whole_number(plain.text, what)
        octets = self._sealed.open(value, what)
        if not 1 <= len(octets) <= 8:
            raise ValueError(f"its {what} is not a number of 1 to 8 octets")
        return int.from_bytes(octets)

    def _check_policy(self, serial: str, policy: Element | None) -> None:
        if policy is None:
            return
        for child in policy.children:
            if child.name not in _POLICY:
                # RFC 6030, 5: what is not understood forbids every use of the key.
                raise ValueError(f"its policy says {child.name[:40]}, which is not supported")
        usages = [child.text for child in policy.children if child.name == "KeyUsage"]
        if usages and "OTP" not in usages:
            raise ValueError(f"its policy allows {', '.join(usages)[:60]}, not OTP")
        begin, end = (_instant(policy.value(name)) for name in ("StartDate", "ExpiryDate"))
        if end is not None and end <= self._now and not self._expired_too:
            raise ValueError(f"its policy ended on {end:%Y-%m-%d}")
        if begin is not None and begin > self._now:
            raise ValueError(f"its policy begins on {begin:%Y-%m-%d}")
        pin = policy.find("PINPolicy")
        mode = "" if pin is None else pin.attributes.get("PINUsageMode", "Local")
        if mode == "Algorithmic":
            raise ValueError("its codes depend on a PIN, which is not supported")
        if mode in ("Prepend", "Append"):
            self._note(f"token {serial} comes with a PIN of its own; it is imported without one")


class _Sealed:
    """Opens encrypted values, once the container has said how (RFC 6030, 6)."""

    def __init__(self) -> None:
        self.key: Secret | None = None
        self._hash = ""
        self._mac_key: Secret | None = None

    def read_mac(self, method: Element) -> None:
        match = _HMAC.fullmatch(method.attributes.get("Algorithm", "").strip())
        if match is None:
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"line {method.line}: the MAC algorithm is not one of HMAC-SHA-1, -256, -384, -512",
                rule="otp.pskc.algorithm",
            )
        self._hash = match[1] or match[2]
        sealed = method.find("MACKey")
        # RFC 6030, 6.1.1: without a key of its own, the MAC uses the encryption key.
        self._mac_key = self.key if sealed is None else Secret(self._decrypt(sealed))

    def open(self, value: Element, what: str) -> bytes:
        encrypted = value.find("EncryptedValue")
        if encrypted is None:
            raise ValueError(f"its {what} is empty")
        if _is_cbc(encrypted):
            # RFC 6030, 6.1: the MAC is over the octets as they are, initialisation vector first.
            self._check_mac(value, encrypted, what)
        return self._decrypt(encrypted)

    def _check_mac(self, value: Element, encrypted: Element, what: str) -> None:
        mac = value.find("ValueMAC")
        if mac is None or self._mac_key is None or not self._hash:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                f"line {value.line}: the encrypted {what} has no ValueMAC, or the container no"
                " MACMethod: it could have been altered",
                rule="otp.pskc.mac-missing",
            )
        expected = hmac.digest(self._mac_key.reveal(), _cipher_value(encrypted), self._hash)
        if not hmac.compare_digest(expected, _base64(mac)):
            raise _cannot_open(value.line)

    def _decrypt(self, encrypted: Element) -> bytes:
        if self.key is None:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the container is encrypted; bring its key (--key-file)",
                rule="otp.pskc.key",
            )
        key = self.key.reveal()
        octets = _cipher_value(encrypted)
        match = _method(encrypted)
        if len(key) * 8 != int(match[2]):
            raise Fault(
                FaultCode.REJECTED,
                f"line {encrypted.line}: a key of {match[2]} bits is needed, this one has"
                f" {len(key) * 8}",
                rule="otp.pskc.key-size",
            )
        if match[3] is None:
            try:
                return aes_key_unwrap(key, octets)
            except (InvalidUnwrap, ValueError):
                raise _cannot_open(encrypted.line) from None
        if len(octets) < 32 or len(octets) % 16:
            raise _cannot_open(encrypted.line)
        decryptor = Cipher(algorithms.AES(key), modes.CBC(octets[:16])).decryptor()
        padded = decryptor.update(octets[16:]) + decryptor.finalize()
        # XML Encryption 5.2: the last octet counts the padding; the others may be anything.
        if not 1 <= padded[-1] <= 16:
            raise _cannot_open(encrypted.line)
        return padded[: -padded[-1]]


def _encryption_key(element: Element, openers: Openers) -> Secret | None:
    derived = element.find("DerivedKey")
    if derived is None:
        if element.find("KeyName") is None and element.children:
            raise Fault(
                FaultCode.UNSUPPORTED,
                f"line {element.line}: the container is not encrypted for a shared key or a"
                " passphrase",
                rule="otp.pskc.algorithm",
            )
        return openers.key
    if openers.passphrase is None:
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the container is encrypted with a passphrase; bring it (--passphrase-file)",
            rule="otp.pskc.key",
        )
    return _derive(derived, openers.passphrase)


def _derive(derived: Element, passphrase: Secret) -> Secret:
    method = derived.find("KeyDerivationMethod")
    parameters = None if method is None else method.find("PBKDF2-params")
    if method is None or method.attributes.get("Algorithm") not in _PBKDF2 or parameters is None:
        raise Fault(
            FaultCode.UNSUPPORTED,
            f"line {derived.line}: the key is derived by something else than PBKDF2",
            rule="otp.pskc.algorithm",
        )
    salt = _base64(parameters.find("Salt", "Specified") or parameters)
    iterations = _count(parameters, "IterationCount")
    length = _count(parameters, "KeyLength")
    prf = parameters.find("PRF")
    name = "" if prf is None else prf.attributes.get("Algorithm", "")
    match = _HMAC.fullmatch(name.strip()) if name else None
    if name and match is None:
        _malformed(f"line {parameters.line}: the PRF of PBKDF2 is not known")
    # RFC 8018, A.2: HMAC-SHA-1 where nothing is said.
    hashed = "sha1" if match is None else (match[1] or match[2])
    if not (1 <= iterations <= _MOST_ITERATIONS and length in (16, 24, 32) and salt):
        raise Fault(
            FaultCode.REJECTED,
            f"line {parameters.line}: PBKDF2 needs a salt, 1 to {_MOST_ITERATIONS} iterations and a"
            " key of 16, 24 or 32 octets",
            rule="otp.pskc.pbkdf2",
            values={"iterations": str(iterations), "key_length": str(length)},
        )
    derivation = PBKDF2HMAC(
        algorithm=_PRF[hashed](), length=length, salt=salt, iterations=iterations
    )
    return Secret(derivation.derive(passphrase.reveal()))


def _method(encrypted: Element) -> re.Match[str]:
    method = encrypted.find("EncryptionMethod")
    name = "" if method is None else method.attributes.get("Algorithm", "").strip()
    match = _CIPHER.fullmatch(name)
    if match is None or (match[1] == "aes") != (match[3] is not None):
        raise Fault(
            FaultCode.UNSUPPORTED,
            f"line {encrypted.line}: the encryption is not AES-CBC or AES key wrap",
            rule="otp.pskc.algorithm",
        )
    return match


def _is_cbc(encrypted: Element) -> bool:
    return _method(encrypted)[3] is not None


def _cipher_value(encrypted: Element) -> bytes:
    value = encrypted.find("CipherData", "CipherValue")
    if value is None:
        _malformed(f"line {encrypted.line}: an encrypted value without CipherValue")
    octets = _base64(value)
    if len(octets) > _LONGEST_VALUE:
        _malformed(f"line {encrypted.line}: an encrypted value of {len(octets)} octets")
    return octets


def _base64(element: Element) -> bytes:
    try:
        return decode_base64(element.text)
    except ValueError:
        _malformed(f"line {element.line}: {element.name[:40]} is not base64")


def _count(parameters: Element, name: str) -> int:
    try:
        return whole_number(parameters.value(name), name)
    except ValueError as error:
        _malformed(f"line {parameters.line}: {error}")


def _digits(response: Element | None) -> int | None:
    if response is None:
        return None
    encoding = response.attributes.get("Encoding", "DECIMAL")
    if encoding.upper() != "DECIMAL":
        raise ValueError(f"its codes are {encoding[:20]}, not decimal")
    if response.attributes.get("CheckDigits", "false").lower() in ("true", "1"):
        raise ValueError("its codes have a check digit, which is not supported")
    length = response.attributes.get("Length", "")
    return whole_number(length, "number of digits") if length else None


def _person(user_id: str) -> str:
    """Return the login name of a UserId, which may be a distinguished name (RFC 6030, 4.2)."""
    if "=" not in user_id:
        return user_id
    match = re.search(r"(?:^|,)\s*UID=([^,=+]+)", user_id, re.IGNORECASE)
    return "" if match is None else match[1]


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a date of its policy cannot be read") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _cannot_open(line: int) -> Fault:
    return Fault(
        FaultCode.BAD_INTEGRITY,
        f"line {line}: the value cannot be opened: another key or passphrase, or an altered file",
        rule="otp.pskc.mac",
    )


def _malformed(what: str) -> NoReturn:
    raise Fault(FaultCode.MALFORMED, what, rule="otp.pskc.structure")
