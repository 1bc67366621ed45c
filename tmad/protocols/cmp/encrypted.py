"""Certificates that leave encrypted: only whoever has the key can read and confirm them.

RFC 9810, 5.2.8.3 and 7; RFC 4211, 4.2. That is how possession of a key is shown that cannot sign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca import record
from tmad.ca.requests import Issued, KeyWish, Proof
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp.requests import Wish
from tmad.storage import requests
from tmad.wire import cms, crmf, der, recipients
from tmad.wire.cms import Random

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.storage.certificates import CertificateRow
    from tmad.storage.exchanges import Exchange

ENVELOPED: Final = 3  # the pvno from which on EnvelopedData is known


def check(wish: Wish, version: int, *, is_allowed: bool, random: Random) -> None:
    """Refuse, before it is issued, a certificate that would have to be encrypted and cannot be."""
    if wish.proof is not Proof.ENCRYPTED_CERTIFICATE:
        return
    if not is_allowed:
        raise crmf.bad_proof("no encrypted certificates are sent here; sign the request")
    assert not isinstance(wish.public_key, KeyWish), "who asks for a key proves nothing"
    seal(b"", wish.public_key, number=wish.number, version=version, random=random)


async def certificate_of(
    services: Services,
    exchange: Exchange,
    issued: Issued,
    wish: Wish | None,
    version: int,
    random: Random,
) -> bytes | None:
    """Return an EncryptedKey with a certificate, None for one that need not be encrypted.

    ``wish`` is None for a request that has waited; then the record says how it was proved.
    """
    if wish is not None:
        proof = wish.proof
    else:
        proof = await _proof_of(services, exchange.tenant, issued.request_id)
    if proof is not Proof.ENCRYPTED_CERTIFICATE:
        return None
    return seal(
        issued.certificate.public_bytes(Encoding.DER),
        issued.certificate.public_key(),
        number=exchange.number,
        version=version,
        random=random,
    )


async def is_held(services: Services, row: CertificateRow) -> bool:
    """Tell whether a certificate is on hold because nobody has confirmed it yet.

    Not one that somebody has put on hold meanwhile: that is not over with a confirmation.
    """
    if row.reason != Reason.CERTIFICATE_HOLD or row.request_id is None:
        return False
    proof = await _proof_of(services, row.tenant, row.request_id)
    return proof is Proof.ENCRYPTED_CERTIFICATE


async def _proof_of(services: Services, tenant: str, request_id: str) -> Proof:
    row = await services.database.lookup(requests.by_id, tenant, request_id)
    assert row is not None, "requests are never deleted"
    return record.proof_of(row)


def seal(
    certificate_der: bytes,
    key: CertificatePublicKeyTypes,
    *,
    number: int,
    version: int,
    random: Random,
) -> bytes:
    """Return an EncryptedKey; ``number`` is the certReqId, ``version`` the client's pvno.

    Fault(BAD_ALGORITHM) for a key that nothing can be encrypted to.
    """
    if version >= ENVELOPED:
        # envelopedData is [0] IMPLICIT (RFC 4211, 2.1)
        envelope = envelop(certificate_der, key, number=number, random=random)
        return der.explicit(0, der.content(envelope, der.SEQUENCE))
    if not isinstance(key, rsa.RSAPublicKey):
        raise too_old()
    return crmf.encrypted_value(certificate_der, key, random)


def envelop(
    content: bytes, key: CertificatePublicKeyTypes, *, number: int, random: Random
) -> bytes:
    """Return an EnvelopedData for the key of the request with the certReqId ``number``."""
    envelope = recipients.seal_to_key(
        content, key, key_identifier=None, number=number, random=random
    )
    return cms.unwrap(envelope, cms.ENVELOPED_DATA).raw(der.SEQUENCE)


def too_old() -> Fault:
    """Return the Fault for a key that nothing can be encrypted to in messages of pvno 2."""
    return Fault(
        FaultCode.UNSUPPORTED,
        "to encrypt to this kind of key needs pvno 3",
        rule="cmp.version.key",
    )
