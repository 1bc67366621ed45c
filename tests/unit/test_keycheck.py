"""Weak, odd and foreign keys are refused, each with its rule (KEY-01 to KEY-03, T-CA-02)."""

from __future__ import annotations

import hashlib
import importlib
import math
import random

import gmpy2
import pytest
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    mldsa,
    mlkem,
    rsa,
    x25519,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca import keycheck
from tmad.ca.keycheck import Blocklist, KeyRules
from tmad.errors import Fault, FaultCode

GOOD = rsa.generate_private_key(65537, 2048)
PRIMES = GOOD.private_numbers()
EVERYTHING = KeyRules(algorithms=tuple(sorted(keycheck.ALGORITHMS)))


def public(n: int, e: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def refused(key, rules=None, **options) -> Fault:
    with pytest.raises(Fault) as caught:
        keycheck.check(key, rules or KeyRules(), **options)
    return caught.value


def next_prime(start: int) -> int:
    return int(gmpy2.next_prime(start))


def test_a_good_key_passes_and_is_described():
    key = keycheck.check(GOOD.public_key(), KeyRules())
    assert (key.algorithm, key.bits) == ("rsa", 2048)
    assert key.spki_sha256 == hashlib.sha256(key.spki_der).digest()


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "p256"),
        (ec.generate_private_key(ec.SECP521R1()), "p521"),
        (ec.generate_private_key(ec.BrainpoolP256R1()), "brainpool-p256"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (ed448.Ed448PrivateKey.generate(), "ed448"),
        (x25519.X25519PrivateKey.generate(), "x25519"),
        (mldsa.MLDSA65PrivateKey.generate(), "ml-dsa-65"),
        (mlkem.MLKEM768PrivateKey.generate(), "ml-kem-768"),
    ],
)
def test_key_02_every_kind_is_known_by_name_and_needs_to_be_allowed(key, algorithm):
    assert keycheck.check(key.public_key(), EVERYTHING).algorithm == algorithm
    fault = refused(key.public_key(), KeyRules(algorithms=("rsa",)))
    assert (fault.code, fault.rule) == (FaultCode.BAD_ALGORITHM, "key.algorithm")
    assert fault.values["algorithm"] == algorithm


def test_t_ca_02_dsa_and_small_curves_are_never_certified():
    weak = dsa.generate_private_key(2048).public_key()
    assert refused(weak, EVERYTHING).rule == "key.algorithm"
    small = ec.generate_private_key(ec.SECP224R1()).public_key()
    assert refused(small, EVERYTHING).rule == "key.curve"


@pytest.mark.parametrize("bits", [1024, 1536, 4608])
def test_key_01_the_modulus_has_a_size_in_range(bits):
    n = (1 << (bits - 1)) | (1 << 20) | 1
    fault = refused(public(n))
    assert (fault.code, fault.rule) == (FaultCode.BAD_ALGORITHM, "key.rsa.size")
    assert fault.values["bits"] == str(bits)


def test_key_01_a_huge_modulus_is_refused_before_anything_is_computed():
    assert refused(public((1 << 18000) | 1)).rule == "key.rsa.size"


def test_key_01_the_modulus_is_whole_octets():
    assert refused(public((1 << 2050) | 1)).rule == "key.rsa.multiple-of-8"


@pytest.mark.parametrize("exponent", [3, 65536 + 2, 2**256 + 1, 17])
def test_key_01_the_exponent_is_odd_and_in_range(exponent):
    if exponent % 2 == 0:
        with pytest.raises((Fault, ValueError)):
            keycheck.check(public(PRIMES.p * PRIMES.q, exponent), KeyRules())
        return
    assert refused(public(PRIMES.p * PRIMES.q, exponent)).rule == "key.rsa.exponent"


def test_key_01_a_profile_for_old_devices_may_allow_3():
    rules = KeyRules(exponent_min=3)
    assert keycheck.check(public(PRIMES.p * PRIMES.q, 3), rules).bits == 2048


def test_key_01_small_factors_are_found():
    cofactor = next_prime((1 << 2048) // 751 - (1 << 1000))
    assert refused(public(751 * cofactor)).rule == "key.rsa.small-factor"


def test_key_01_a_prime_modulus_is_refused():
    assert refused(public(next_prime((1 << 2047) + (1 << 1500)))).rule == "key.rsa.prime"


def test_key_03_a_prime_that_is_known_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert keycheck.check(GOOD.public_key(), KeyRules()).bits == 2048  # badkeys has read its list
    known = importlib.import_module("badkeys.rsakeys.sharedprimes")._moduli
    monkeypatch.setitem(known, 2048, known[2048] * PRIMES.q)
    assert refused(GOOD.public_key()).rule == "key.rsa.shared-prime"
    # Not by the quick part alone, which does not look.
    assert keycheck.check(GOOD.public_key(), KeyRules(), and_factors=False).bits == 2048


def test_key_03_fermat_close_primes():
    p = next_prime(PRIMES.p + 2**500)
    q = next_prime(p + 2)
    n = p * q
    assert n.bit_length() == 2048
    assert refused(public(n)).rule == "key.rsa.fermat"


def test_key_03_roca_fingerprint():
    # Infineon's primes: k * M + (65537^a mod M), M the product of the first primes.
    generator = random.Random(1)
    m = math.prod(
        (
            2,
            3,
            5,
            7,
            11,
            13,
            17,
            19,
            23,
            29,
            31,
            37,
            41,
            43,
            47,
            53,
            59,
            61,
            67,
            71,
            73,
            79,
            83,
            89,
            97,
            101,
            103,
            107,
            109,
            113,
            127,
            131,
            137,
            139,
            149,
            151,
            157,
            163,
            167,
            173,
        )
    )

    def prime() -> int:
        while True:
            k = generator.getrandbits(1024 - m.bit_length())
            candidate = k * m + pow(65537, generator.getrandbits(60), m)
            if candidate >> 1022 == 3 and gmpy2.is_prime(candidate):
                return candidate

    n = prime() * prime()
    assert n.bit_length() == 2048
    assert refused(public(n)).rule == "key.rsa.roca"


def test_key_03_a_small_private_exponent_is_found():
    d = next_prime(2**200)
    e = pow(d, -1, (PRIMES.p - 1) * (PRIMES.q - 1))
    # An exponent above 2^256 is refused for that alone.
    assert refused(public(PRIMES.p * PRIMES.q, e)).rule == "key.rsa.exponent"


@pytest.mark.parametrize(
    "key",
    [
        GOOD,
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        mldsa.MLDSA44PrivateKey.generate(),
    ],
    ids=["rsa", "p256", "ed25519", "ml-dsa-44"],
)
# badkeys looks at a kind of key that cryptography is giving up.
@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
def test_key_03_known_keys_are_found_in_the_blocklist(key, tmp_path):
    from badkeys.checks import _checkkey

    key = key.public_key()
    told = _checkkey(key, [])  # what badkeys itself hashes
    distinctive = told.get("n") or told.get("x") or told.get("pub")
    if isinstance(distinctive, int):
        distinctive = distinctive.to_bytes((distinctive.bit_length() + 7) // 8)
    records = [hashlib.sha256(b"%d" % n).digest()[:15] + b"\1" for n in range(1000)]
    path = tmp_path / "blocklist.dat"
    path.write_bytes(b"".join(sorted(records)))
    assert keycheck.check(key, EVERYTHING, blocklist=Blocklist(path))
    records.append(hashlib.sha256(distinctive).digest()[:15] + b"\1")
    path.write_bytes(b"".join(sorted(records)))
    fault = refused(key, EVERYTHING, blocklist=Blocklist(path))
    assert (fault.code, fault.rule) == (FaultCode.REJECTED, "key.blocklist")


def test_a_file_that_is_no_blocklist_is_refused(tmp_path):
    path = tmp_path / "blocklist.dat"
    path.write_bytes(b"x" * 17)
    with pytest.raises(Fault):
        Blocklist(path)


def test_key_02_compressed_points_are_refused_unless_allowed():
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    evidence = b"0\x39" + b"\x03\x22\x00" + point + b"rest"
    assert refused(key, evidence=evidence).rule == "key.ec.compressed"
    rules = KeyRules(compressed_points=True)
    assert keycheck.check(key, rules, evidence=evidence).algorithm == "p256"
    whole = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keycheck.check(key, KeyRules(), evidence=whole).algorithm == "p256"
