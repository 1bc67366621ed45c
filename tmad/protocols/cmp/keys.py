"""Key pairs that are made here, and what a client hashes to confirm (RFC 9483, 4.1.6 and 4.1.1)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tmad.ca.requests import Issued, KeyWish
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmp import protection
from tmad.protocols.cmp.bodies import CertStatus
from tmad.protocols.cmp.requests import Wish
from tmad.protocols.cmp.sender import MACSender, Sender
from tmad.wire import agreement, cms, envelopes, keypackage
from tmad.wire.cms import Random
from tmad.wire.signatures import SHA256

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.answers import Answers
    from tmad.protocols.cmp.visit import Visit
    from tmad.storage.certificates import CertificateRow

_CIPHER: Final = envelopes.AES256


def check_receiver(wish: Wish, sender: Sender) -> None:
    """Refuse a sender to whom no private key can be sent, before one is made (RFC 9483, 4.1.6)."""
    if not isinstance(wish.public_key, KeyWish) or isinstance(sender, MACSender):
        return
    key = sender.certificate.public_key()
    usage = _usage_of(sender.certificate)
    is_able = isinstance(key, rsa.RSAPublicKey) and (usage is None or usage.key_encipherment)
    if isinstance(key, ec.EllipticCurvePublicKey):
        is_able = usage is None or usage.key_agreement
    if not is_able:
        raise Fault(
            FaultCode.FORBIDDEN,
            "no private key can be sent to this certificate: it needs RSA with keyEncipherment "
            "or an elliptic curve with keyAgreement",
            rule="cmp.key.receiver",
        )


def _usage_of(certificate: x509.Certificate) -> x509.KeyUsage | None:
    # The extensions of whoever signed have been read once already.
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


async def seal(
    services: Services,
    replies: Answers,
    visit: Visit,
    sender: Sender,
    issued: Issued,
    random: Random,
) -> bytes:
    """Return the content of the EnvelopedData with a private key, for its owner alone."""
    assert issued.private_key is not None
    signer = await replies.signer(visit)
    sign = partial(_sign, signer.certificate_der, issued.private_key.pkcs8(), signer.chain)
    package: Secret = await services.keyring.use(signer.key_id, sign)
    if isinstance(sender, MACSender):
        envelope = envelopes.seal_with_password(
            package.reveal(),
            sender.secret.reveal(),
            cipher=_CIPHER,
            random=random,
            content_type=cms.SIGNED_DATA,
        )
    else:
        envelope = agreement.seal_to_holder(
            package.reveal(),
            sender.certificate,
            sender.certificate_der,
            cipher=_CIPHER,
            random=random,
            content_type=cms.SIGNED_DATA,
        )
    enveloped = cms.unwrap(envelope, cms.ENVELOPED_DATA)
    return enveloped.content(0x30)


def _sign(
    certificate_der: bytes, pkcs8: Secret, chain: tuple[bytes, ...], key: PrivateKeyTypes
) -> Secret:
    return keypackage.sign(
        key, certificate_der, pkcs8, digest=protection.digest_for(key), certificates=chain
    )


def confirmation_hash(row: CertificateRow, status: CertStatus) -> bytes:
    """Return what certHash must be for a certificate that was sent."""
    assert row.certificate_der is not None, "it was sent"
    certificate = x509.load_der_x509_certificate(row.certificate_der)
    digest = protection.confirmation_digest(
        certificate.signature_hash_algorithm,
        certificate.signature_algorithm_oid.dotted_string,
        status.hash_algorithm,
    )
    if digest is SHA256 and row.sha256 is not None:
        return row.sha256
    return digest.of(row.certificate_der)
