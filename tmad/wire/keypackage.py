"""Private keys on their way to their owner: asymmetric key packages (RFC 5958), signed."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from tmad.events import Secret
from tmad.wire import cms, der
from tmad.wire.signatures import Digest

KEY_PACKAGE = der.oid("2.16.840.1.101.2.1.2.78.5")  # id-ct-KP-aKeyPackage


def sign(
    key: PrivateKeyTypes,
    certificate_der: bytes,
    pkcs8: Secret,
    *,
    digest: Digest,
    certificates: Sequence[bytes] = (),
) -> Secret:
    """Return SignedData over a package with one key, as it goes into an envelope.

    ``key`` is that of ``certificate_der``, who vouches for having made the key (RFC 7030,
    4.4.2). The octets hold the private key in clear.
    """
    package = der.sequence(pkcs8.reveal())
    signed = cms.sign(
        key,
        certificate_der,
        package,
        digest=digest,
        certificates=certificates,
        content_type=KEY_PACKAGE,
    )
    return Secret(cms.inner(signed, cms.SIGNED_DATA))
