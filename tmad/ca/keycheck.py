"""Is this public key fit to be certified? KEY-01 to KEY-03: what the key alone tells.

Sizes and curves first, since they bound the cost of every later check and of any signature
verification. The number theory is badkeys' (ROCA, CVE-2017-15361; Fermat, CVE-2022-26320;
shared primes), which works without a network; known bad keys (Debian, CVE-2008-0166, and leaked
ones) are looked up in a blocklist file of badkeys' format that the operator provides. Whose key
it already is, is the database's question (``tmad/ca/issuing.py``).
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed448,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    x448,
    x25519,
)
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel, ConfigDict, Field

from tmad.errors import Fault, FaultCode

CURVES: Mapping[str, str] = {
    "secp256r1": "p256",
    "secp384r1": "p384",
    "secp521r1": "p521",
    "brainpoolP256r1": "brainpool-p256",
    "brainpoolP384r1": "brainpool-p384",
    "brainpoolP512r1": "brainpool-p512",
    "secp256k1": "secp256k1",
}
_OTHERS: Mapping[type, str] = {
    ed25519.Ed25519PublicKey: "ed25519",
    ed448.Ed448PublicKey: "ed448",
    x25519.X25519PublicKey: "x25519",
    x448.X448PublicKey: "x448",
    mldsa.MLDSA44PublicKey: "ml-dsa-44",
    mldsa.MLDSA65PublicKey: "ml-dsa-65",
    mldsa.MLDSA87PublicKey: "ml-dsa-87",
    mlkem.MLKEM768PublicKey: "ml-kem-768",
    mlkem.MLKEM1024PublicKey: "ml-kem-1024",
}
ALGORITHMS = frozenset({"rsa", *CURVES.values(), *_OTHERS.values()})
# BR 6.1.6: a modulus has no factor smaller than 752.
_SMALL_PRIMES = math.prod(
    n for n in range(3, 752, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))
)
# Above this size OpenSSL takes public exponents of 64 bits at the most.
_FREE_EXPONENT_BITS = 3_072
_RECORD = 16  # octets of a blocklist record: 15 of the hash, 1 that names the list


class KeyRules(BaseModel):
    """Which public keys a profile certifies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    algorithms: tuple[str, ...] = Field(
        default=(
            "rsa",
            "p256",
            "p384",
            "p521",
            "ed25519",
            "ed448",
            "ml-dsa-44",
            "ml-dsa-65",
            "ml-dsa-87",
        ),
        min_length=1,
        description="Allowed key algorithms and curves: " + ", ".join(sorted(ALGORITHMS)),
    )
    rsa_min: int = Field(
        default=2048, ge=2048, le=8192, description="Smallest RSA modulus, in bits"
    )
    rsa_max: int = Field(default=4096, ge=2048, le=8192, description="Largest RSA modulus, in bits")
    exponent_min: int = Field(
        default=65537, ge=3, description="Smallest RSA exponent; 3 is for old devices"
    )
    compressed_points: bool = Field(default=False, description="Accept compressed curve points")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key, as the pipeline passes it on."""

    algorithm: str  # one of ALGORITHMS
    bits: int
    spki_der: bytes
    spki_sha256: bytes

    @property
    def may_sign(self) -> bool:
        """Whether the key can make signatures."""
        return not self.algorithm.startswith(("x25519", "x448", "ml-kem"))


class Blocklist:
    """A sorted file of truncated SHA-256 hashes of keys that are known to be bad.

    The format is badkeys' ``blocklist.dat``, 16 octets a record; the file is mapped, not read.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) % _RECORD:
            raise Fault(
                FaultCode.MALFORMED,
                f"{path} is not a blocklist: its size is no multiple of {_RECORD}",
            )

    def __contains__(self, key: CertificatePublicKeyTypes) -> bool:
        wanted = hashlib.sha256(_distinctive(key)).digest()[: _RECORD - 1]
        low, high = 0, len(self._map) // _RECORD
        while low < high:
            middle = (low + high) // 2
            found = self._map[middle * _RECORD : (middle + 1) * _RECORD - 1]
            if found == wanted:
                return True
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return False


def describe(public_key: CertificatePublicKeyTypes) -> Key:
    """Name the key's algorithm and size; Fault(BAD_ALGORITHM) for a kind we never certify."""
    bits = 0
    if isinstance(public_key, rsa.RSAPublicKey):
        algorithm, bits = "rsa", public_key.key_size
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        algorithm, bits = CURVES.get(public_key.curve.name, ""), public_key.curve.key_size
        if not algorithm:
            raise _bad("key.curve", "this curve is not allowed", curve=public_key.curve.name)
    else:
        algorithm = next((n for t, n in _OTHERS.items() if isinstance(public_key, t)), "")
        if not algorithm:
            # DSA, DH and whatever the library learns to load later
            raise _bad("key.algorithm", "this kind of key is not allowed")
    if bits > 16384:
        # Encoding and hashing stay cheap even for a hostile size.
        raise _bad("key.rsa.size", "the RSA key is too large", bits=str(bits))
    spki_der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(
        algorithm=algorithm,
        bits=bits,
        spki_der=spki_der,
        spki_sha256=hashlib.sha256(spki_der).digest(),
    )


def check(
    public_key: CertificatePublicKeyTypes,
    rules: KeyRules,
    *,
    evidence: bytes = b"",
    blocklist: Blocklist | None = None,
    and_factors: bool = True,
) -> Key:
    """Return what the key is, or refuse it with the rule and the values compared.

    ``evidence`` is the signed request as received; it shows a compressed point, which the
    loaded key no longer does. Without ``and_factors`` the caller has ``check_factors`` run where a
    millisecond or twenty matter less.
    """
    key = describe(public_key)
    if key.algorithm not in rules.algorithms:
        raise _bad(
            "key.algorithm",
            "the profile does not allow this kind of key",
            algorithm=key.algorithm,
            allowed=", ".join(rules.algorithms),
        )
    if isinstance(public_key, rsa.RSAPublicKey):
        _check_rsa(public_key, rules)
        if and_factors:
            check_factors(public_key)
    elif isinstance(public_key, ec.EllipticCurvePublicKey) and not rules.compressed_points:
        _check_point_form(public_key, evidence)
    if blocklist is not None and public_key in blocklist:
        raise _weak("key.blocklist", "the key is publicly known", sha256=key.spki_sha256.hex())
    return key


def check_factors(public_key: CertificatePublicKeyTypes) -> None:
    """Refuse an RSA key whose modulus is a prime, or has one that badkeys knows.

    The longest part of all checks, and most of it without the interpreter's lock: run it in a
    thread where others wait.
    """
    if not isinstance(public_key, rsa.RSAPublicKey):
        return
    n = public_key.public_numbers().n
    weakness = "shared-prime" if _has_known_prime(n) else "prime" if _is_prime(n) else ""
    if weakness:
        raise _weak(f"key.rsa.{weakness}", "the RSA key is weak", weakness=weakness)


def _bad(rule: str, detail: str, **values: str) -> Fault:
    return Fault(FaultCode.BAD_ALGORITHM, detail, rule=rule, values=values)


def _weak(rule: str, detail: str, **values: str) -> Fault:
    return Fault(FaultCode.REJECTED, detail, rule=rule, values=values)


def _check_rsa(public_key: rsa.RSAPublicKey, rules: KeyRules) -> None:
    bits = public_key.key_size
    if not rules.rsa_min <= bits <= rules.rsa_max:
        raise _bad(
            "key.rsa.size",
            "the RSA key has the wrong size",
            bits=str(bits),
            minimum=str(rules.rsa_min),
            maximum=str(rules.rsa_max),
        )
    if bits % 8:
        raise _bad("key.rsa.multiple-of-8", "the RSA modulus is no whole octets", bits=str(bits))
    numbers = public_key.public_numbers()
    n, e = numbers.n, numbers.e
    if e % 2 == 0 or e < rules.exponent_min or e.bit_length() > 256:
        # BR 6.1.6 (NIST SP 800-89): odd, 2^16+1 to 2^256-1
        raise _bad(
            "key.rsa.exponent",
            "the RSA exponent is not allowed",
            exponent=str(e)[:80],
            minimum=str(rules.exponent_min),
        )
    if n % 2 == 0:
        raise _weak("key.rsa.even", "the RSA modulus is even")
    weakness = _rsa_weakness(n, e)
    if weakness:
        raise _weak(f"key.rsa.{weakness}", "the RSA key is weak", weakness=weakness)


def _rsa_weakness(n: int, e: int) -> str:
    if math.gcd(n, _SMALL_PRIMES) != 1:
        return "small-factor"
    badkeys = _badkeys()
    for name, test in (
        ("roca", badkeys.roca),
        ("fermat", badkeys.fermat),  # 100 rounds, as BR 6.1.1.3 asks
        ("small-private-exponent", badkeys.smalld),
        ("polynomial", badkeys.rsapoly),
    ):
        if test(n, e=e) is not False:
            return name
    return ""


@cache
def _badkeys() -> ModuleType:
    # Only the arithmetic: badkeys' own blocklist reader ends the process when it has no file.
    return import_module("badkeys.rsakeys")


def _has_known_prime(n: int) -> bool:
    # One division of a number of 630,000 bits, in which nobody need wait for the lock.
    gmpy2 = _gmpy2()
    with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
        return _badkeys().sharedprimes(n) is not False


@cache
def _gmpy2() -> ModuleType:
    # What badkeys computes with.
    return import_module("gmpy2")


def _is_prime(n: int) -> bool:
    """Tell whether an odd modulus is, with near certainty, a prime and so no secret at all.

    Fermat's test with a random base: for a prime n, b^(n-1) = 1. The power is OpenSSL's, which
    is two times faster at it than gmpy2 and twenty times faster than Python: an encryption
    with the odd part of n-1 as the public exponent.
    """
    exponent, squarings = n - 1, 0
    while exponent & 1 == 0:
        exponent, squarings = exponent >> 1, squarings + 1
    if n.bit_length() <= _FREE_EXPONENT_BITS and exponent > 1:
        public_key = rsa.RSAPublicNumbers(exponent, n).public_key()
        power = int.from_bytes(public_key.encrypt(b"base", padding.PKCS1v15()))
        return pow(power, 1 << squarings, n) == 1
    # Every prime passes; further rounds would only be for the sake of a composite that somebody
    # made to pass, and cost 50 ms more at 4 096 bits, in the reactor.
    return bool(_gmpy2().is_strong_prp(n, 2))


def _check_point_form(public_key: ec.EllipticCurvePublicKey, evidence: bytes) -> None:
    point = public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    # The content of subjectPublicKey: a BIT STRING without unused bits.
    if bytes((0x03, len(point) + 1, 0x00)) + point in evidence:
        raise _bad("key.ec.compressed", "compressed curve points are not allowed")


def _distinctive(public_key: CertificatePublicKeyTypes) -> bytes:
    # What badkeys hashes: modulus, x coordinate, or the raw key without leading zeros.
    if isinstance(public_key, rsa.RSAPublicKey):
        number = public_key.public_numbers().n
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        number = public_key.public_numbers().x
    else:
        raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if isinstance(public_key, tuple(_OTHERS)[4:]):
            return raw
        number = int.from_bytes(raw)
    return number.to_bytes((number.bit_length() + 7) // 8)
