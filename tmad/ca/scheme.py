"""How a key signs: hash and padding (RFC 5280, 4.1.1.2; RFC 4055, 3.1; RFC 9881)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from pydantic import BaseModel, ConfigDict, Field

from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm

Hash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_HASHES: dict[str, Hash] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class SignaturePolicy(BaseModel):
    """How an authority signs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hash: Literal["sha256", "sha384", "sha512"] | None = Field(
        default=None,
        description="For RSA and EC keys; empty: SHA-256, or as strong as the curve.",
    )
    pss: bool = Field(default=False, description="RSA keys sign with PSS, not PKCS#1 v1.5.")


@dataclass(frozen=True, slots=True)
class SignatureScheme:
    """The arguments of cryptography's builders: ``sign(key, hash, rsa_padding=padding)``."""

    hash: Hash | None
    padding: padding.PKCS1v15 | padding.PSS | None


def scheme_for(public_key: CertificatePublicKeyTypes, policy: SignaturePolicy) -> SignatureScheme:
    """Return how this key signs; what the policy says about other kinds of key is left out."""
    if isinstance(public_key, rsa.RSAPublicKey):
        chosen = _HASHES[policy.hash or "sha256"]
        if policy.pss:
            # The one form that profiles agree on: MGF1 with the same hash, and a salt as long.
            return SignatureScheme(
                chosen, padding.PSS(padding.MGF1(chosen), padding.PSS.DIGEST_LENGTH)
            )
        return SignatureScheme(chosen, padding.PKCS1v15())
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        natural = {256: "sha256", 384: "sha384", 521: "sha512"}[public_key.curve.key_size]
        return SignatureScheme(_HASHES[policy.hash or natural], None)
    return SignatureScheme(None, None)


def check_policy(public_key: CertificatePublicKeyTypes, policy: SignaturePolicy) -> None:
    """Raise Fault(REJECTED) for a wish that this key cannot fulfil."""
    if policy.pss and not isinstance(public_key, rsa.RSAPublicKey):
        raise Fault(
            FaultCode.REJECTED,
            "signature.pss: only RSA keys sign with PSS",
            rule="authority.signature.pss",
        )
    if policy.hash and scheme_for(public_key, policy).hash is None:
        raise Fault(
            FaultCode.REJECTED,
            "signature.hash: this kind of key has its hash built in",
            rule="authority.signature.hash",
        )


# NIST SP 800-57 part 1, table 2, and FIPS 204: bits of security, in its categories.
STRENGTH: dict[KeyAlgorithm, int] = {
    KeyAlgorithm.RSA_2048: 112,
    KeyAlgorithm.RSA_3072: 128,
    KeyAlgorithm.RSA_4096: 128,
    KeyAlgorithm.P256: 128,
    KeyAlgorithm.P384: 192,
    KeyAlgorithm.P521: 256,
    KeyAlgorithm.ED25519: 128,
    KeyAlgorithm.ED448: 224,
    KeyAlgorithm.ML_DSA_44: 128,
    KeyAlgorithm.ML_DSA_65: 192,
    KeyAlgorithm.ML_DSA_87: 256,
}


def fitting_algorithm(algorithm: KeyAlgorithm) -> KeyAlgorithm:
    """Return the cheapest key of the same family that is not weaker."""
    if algorithm is KeyAlgorithm.RSA_4096:
        return KeyAlgorithm.RSA_3072
    return algorithm
