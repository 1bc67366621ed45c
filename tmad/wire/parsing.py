"""Certificates, requests, CRLs and public keys of strangers (RFC 5280, 2986).

The library tells what cannot be read by nine kinds of exception, and much of it only when a part
is asked for. The readers here know one, ValueError, and have asked for whatever every caller asks
for. Extensions they leave alone: who looks into them expects UNREADABLE, or NO_EXTENSION.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificatePublicKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

UNREADABLE: Final = (
    ValueError,
    TypeError,  # a BIT STRING where a name is text
    KeyError,  # a TLS feature without a name
    OverflowError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
    InternalError,  # what OpenSSL has no words for, such as scrypt's N that is no power of 2
)
NO_EXTENSION: Final = (x509.ExtensionNotFound, *UNREADABLE)  # missing, or broken like its neighbour

_ARMOUR = b"-----BEGIN "

P = TypeVar("P")
T = TypeVar("T")


def _only_value_error(read: Callable[[P], T]) -> Callable[[P], T]:
    @wraps(read)
    def reader(given: P) -> T:
        try:
            return read(given)
        except ValueError:
            raise
        except UNREADABLE as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error

    return reader


@_only_value_error
def certificate(certificate_der: bytes) -> x509.Certificate:
    """Read a certificate in DER whose names, dates and algorithm can be asked for; ValueError."""
    return _looked_at(x509.load_der_x509_certificate(certificate_der))


@_only_value_error
def certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read one certificate or more in PEM, each as :func:`certificate` does; ValueError."""
    return tuple(map(_looked_at, x509.load_pem_x509_certificates(pem)))


@_only_value_error
def key_of(holder: x509.Certificate | x509.CertificateSigningRequest) -> CertificatePublicKeyTypes:
    """Return the public key in it; ValueError for one that is broken or of an unknown kind."""
    return holder.public_key()


@_only_value_error
def request(data: bytes) -> x509.CertificateSigningRequest:
    """Read a certification request in DER or PEM, whose subject can be asked for; ValueError."""
    load = x509.load_pem_x509_csr if _ARMOUR in data else x509.load_der_x509_csr
    found = load(data)
    _ = found.subject
    return found


@_only_value_error
def crl(crl_der: bytes) -> x509.CertificateRevocationList:
    """Read a CRL in DER whose issuer, dates and number of entries can be asked for; ValueError."""
    found = x509.load_der_x509_crl(crl_der)
    _ = found.issuer, found.last_update_utc, found.next_update_utc, len(found)
    return found


@_only_value_error
def public_key(data: bytes) -> PublicKeyTypes:
    """Read a SubjectPublicKeyInfo in DER or PEM; ValueError."""
    load: Any = load_pem_public_key if _ARMOUR in data else load_der_public_key
    return load(data)  # type: ignore[no-any-return]


def _looked_at(found: x509.Certificate) -> x509.Certificate:
    _ = found.subject, found.issuer, found.signature_algorithm_oid
    _ = found.not_valid_before_utc, found.not_valid_after_utc
    return found
