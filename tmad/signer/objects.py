"""Key pairs in a token: made, listed and destroyed (PKCS#11 v2.40, section 10; v3.0 EdDSA)."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, cast

import pkcs11.exceptions as errors
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import CURVES, RSA_BITS, KeyAlgorithm, PublicKey
from tmad.signer.calls import TokenError, calling, code_of
from tmad.signer.grip import DATA_ERRORS, Grip, unsupported
from tmad.signer.hsm_keys import challenge, key_for
from tmad.signer.token import Connection

# What a token must offer for a key of each kind: making it, and signing with it.
MECHANISMS: dict[KeyAlgorithm, tuple[Mechanism, Mechanism]] = {
    **dict.fromkeys(RSA_BITS, (Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS)),
    **dict.fromkeys(CURVES, (Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA)),
    KeyAlgorithm.ED25519: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
    KeyAlgorithm.ED448: (Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
}
_ML_DSA = frozenset({KeyAlgorithm.ML_DSA_44, KeyAlgorithm.ML_DSA_65, KeyAlgorithm.ML_DSA_87})

# CKA_EC_PARAMS: the DER of the curve's object identifier.
_EC_PARAMS = {
    KeyAlgorithm.P256: bytes.fromhex("06082a8648ce3d030107"),
    KeyAlgorithm.P384: bytes.fromhex("06052b81040022"),
    KeyAlgorithm.P521: bytes.fromhex("06052b81040023"),
    KeyAlgorithm.ED25519: bytes.fromhex("06032b6570"),
    KeyAlgorithm.ED448: bytes.fromhex("06032b6571"),
}
_EDWARDS_SIZES = {KeyAlgorithm.ED25519: 32, KeyAlgorithm.ED448: 57}
_SIGNING = MechanismFlag.SIGN | MechanismFlag.VERIFY
_DECRYPTING = MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT
_PRIVATE = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenObject:
    """A private key in the token, for ``tmad hsm list``."""

    cka_id: bytes
    label: str
    kind: str
    is_extractable: bool
    was_ever_extractable: bool


def offered(mechanisms: frozenset[int]) -> frozenset[KeyAlgorithm]:
    """Return the algorithms that a token with these mechanisms can serve."""
    return frozenset(a for a in MECHANISMS if not missing(a, mechanisms))


def missing(algorithm: KeyAlgorithm, mechanisms: frozenset[int]) -> list[str]:
    """Name the mechanisms that a token lacks for an algorithm."""
    if algorithm in _ML_DSA:
        # No module that offers it could be tried yet; docs/hsm.md says so.
        return ["CKM_ML_DSA_KEY_PAIR_GEN", "CKM_ML_DSA"]
    return [f"CKM_{m.name}" for m in MECHANISMS[algorithm] if m not in mechanisms]


def generate(connection: Connection, algorithm: KeyAlgorithm, label: str) -> tuple[bytes, bytes]:
    """Make a non-extractable key pair and try it; return its SubjectPublicKeyInfo and CKA_ID."""
    lacking = missing(algorithm, connection.mechanisms)
    if lacking:
        raise unsupported(f"{' and '.join(lacking)}, which {algorithm} needs")
    # SoftHSM learns what other processes stored when it searches, but never again once it has
    # stored something itself without having searched before.
    connection.objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: label})
    public, private = _generate(connection.session(), algorithm, label)
    try:
        if not private[Attribute.SENSITIVE] or private[Attribute.EXTRACTABLE]:
            raise unsupported(f"{algorithm} keys that cannot be extracted")
        public_key = public_key_of(public, algorithm)
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        cka_id = sha256(spki).digest()[:20]
        try:
            public[Attribute.ID] = cka_id
            private[Attribute.ID] = cka_id
        except (errors.AttributeReadOnly, errors.FunctionNotSupported):
            # The random one that it was made with serves as well.
            cka_id = private[Attribute.ID]
        challenge(key_for(Grip(connection, private), public_key))
    except BaseException as error:
        for thing in (private, public):
            with contextlib.suppress(errors.PKCS11Error):
                thing.destroy()
        if isinstance(error, errors.PKCS11Error):
            raise TokenError("C_GetAttributeValue", code_of(error)) from error
        raise
    return spki, cka_id


def destroy(connection: Connection, cka_id: bytes) -> int:
    """Destroy a key pair; return how many objects there were."""
    found = connection.objects({Attribute.ID: cka_id})
    for thing in found:
        with calling("C_DestroyObject"):
            thing.destroy()
    return len(found)


def find(connection: Connection) -> list[TokenObject]:
    """Return every private key in the token, tmad's or not."""
    result = []
    for key in connection.objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}):
        with calling("C_GetAttributeValue"):
            result.append(
                TokenObject(
                    cka_id=key[Attribute.ID],
                    label=key[Attribute.LABEL],
                    kind=KeyType(key[Attribute.KEY_TYPE]).name,
                    is_extractable=bool(key[Attribute.EXTRACTABLE]),
                    was_ever_extractable=not key[Attribute.NEVER_EXTRACTABLE],
                )
            )
    return sorted(result, key=lambda key: (key.label, key.cka_id))


def public_key_of(public: Any, algorithm: KeyAlgorithm) -> PublicKey:
    """Read a public key object of the token."""
    if algorithm in RSA_BITS:
        return rsa.RSAPublicNumbers(
            e=int.from_bytes(public[Attribute.PUBLIC_EXPONENT], "big"),
            n=int.from_bytes(public[Attribute.MODULUS], "big"),
        ).public_key()
    point = cast("bytes", public[Attribute.EC_POINT])
    if algorithm in CURVES:
        curve = CURVES[algorithm]
        octets = _point(point, 1 + 2 * ((curve.key_size + 7) // 8))
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, octets)
    octets = _point(point, _EDWARDS_SIZES[algorithm])
    if algorithm is KeyAlgorithm.ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(octets)
    return ed448.Ed448PublicKey.from_public_bytes(octets)


def _generate(session: Any, algorithm: KeyAlgorithm, label: str) -> tuple[Any, Any]:
    mechanism = MECHANISMS[algorithm][0]
    bits = RSA_BITS.get(algorithm)
    try:
        pair: tuple[Any, Any] = session.generate_keypair(
            {
                Mechanism.RSA_PKCS_KEY_PAIR_GEN: KeyType.RSA,
                Mechanism.EC_KEY_PAIR_GEN: KeyType.EC,
                Mechanism.EC_EDWARDS_KEY_PAIR_GEN: KeyType.EC_EDWARDS,
            }[mechanism],
            bits,
            id=secrets.token_bytes(20),
            label=label,
            store=True,
            # A SCEP RA decrypts with its key; nothing else of RSA is ever allowed.
            capabilities=_SIGNING | _DECRYPTING if bits else _SIGNING,
            public_template={} if bits else {Attribute.EC_PARAMS: _EC_PARAMS[algorithm]},
            private_template=_PRIVATE,
        )
    except (*DATA_ERRORS, errors.DomainParamsInvalid) as error:
        raise unsupported(f"{algorithm} with CKM_{mechanism.name}", code_of(error)) from error
    except errors.PKCS11Error as error:
        raise TokenError("C_GenerateKeyPair", code_of(error)) from error
    return pair


def _point(value: bytes, size: int) -> bytes:
    """Return the point itself: some tokens wrap it in an OCTET STRING, as v2.40 says."""
    if len(value) == size:
        return value
    if len(value) > size + 1 and value[0] == 0x04 and value.endswith(value[-size:]):
        return value[-size:]
    raise Fault(FaultCode.UNSUPPORTED, "the HSM encodes a public key in an unknown way")
