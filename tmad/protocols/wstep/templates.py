"""A profile and its endpoint as Windows sees them: a certificate template (MS-CRTD)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca.extensions import Extensions, MSTemplate, usage_oid
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep.policies import Address, Extension, Template
from tmad.wire import der

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Issuer
    from tmad.ca.profile import ProfileDocument
    from tmad.protocols.wstep.visit import EndpointOptions

_TEMPLATE: Final = "1.3.6.1.4.1.311.21.7"
_DAY: Final = 86_400  # seconds
# The kinds of key that Windows makes: object identifier, Windows' name, bits where they are fixed.
_KEYS: Mapping[str, tuple[str, str, int]] = {
    "rsa": ("1.2.840.113549.1.1.1", "RSA", 0),
    "p256": ("1.2.840.10045.3.1.7", "ECDSA_P256", 256),
    "p384": ("1.3.132.0.34", "ECDSA_P384", 384),
    "p521": ("1.3.132.0.35", "ECDSA_P521", 521),
}
_HASHES: Mapping[str, tuple[str, str]] = {
    "p384": ("2.16.840.1.101.3.4.2.2", "sha384"),
    "p521": ("2.16.840.1.101.3.4.2.3", "sha512"),
}
_SHA256: Final = ("2.16.840.1.101.3.4.2.1", "sha256")
_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip
_OF_RSA: Final = frozenset({"key_encipherment", "data_encipherment"})


def identity_of(profile: ProfileDocument, name: str) -> MSTemplate:
    """Return the template's object identifier and version; Fault(UNSUPPORTED) without one."""
    found = profile.extensions.ms_template_v2
    if found is None:
        raise Fault(
            FaultCode.UNSUPPORTED,
            f"the profile {name} is no template of Windows: its extensions.ms_template_v2 is not"
            " set",
            rule="wstep.no-template",
            values={"profile": name},
        )
    return found


def name_of(options: EndpointOptions, endpoint: Endpoint) -> str:
    """Return the template's name."""
    return options.template or endpoint.document.profile


def template(
    endpoint: Endpoint,
    options: EndpointOptions,
    profile: ProfileDocument,
    issuer: Issuer,
    addresses: tuple[Address, ...],
    *,
    may_enrol: bool,
) -> Template:
    """Return what one endpoint is for Windows."""
    assert issuer.certificate is not None, "an authority that issues has a certificate"
    identity = identity_of(profile, endpoint.document.profile)
    kind = next((each for each in profile.keys.algorithms if each in _KEYS), "rsa")
    key_oid, key_name, bits = _KEYS[kind]
    hash_oid, hash_name = _HASHES.get(kind, _SHA256)
    validity = int(profile.validity.default.total_seconds())
    return Template(
        name=name_of(options, endpoint),
        oid=identity.oid,
        major=identity.major,
        minor=identity.minor,
        validity=validity,
        renewal=min(options.renewal_days * _DAY, validity // 2),
        is_machine=options.subject == "machine",
        is_named_by_client=not endpoint.document.directory,
        may_enrol=may_enrol,
        enrols_by_itself=options.autoenrol,
        key_oid=key_oid,
        key_name=key_name,
        key_bits=bits or profile.keys.rsa_min,
        hash_oid=hash_oid,
        hash_name=hash_name,
        is_exportable=options.exportable,
        providers=options.providers,
        extensions=tuple(_extensions(profile.extensions, identity, is_rsa=kind == "rsa")),
        authority_der=issuer.certificate.public_bytes(Encoding.DER),
        addresses=addresses,
    )


def _extensions(rules: Extensions, identity: MSTemplate, *, is_rsa: bool) -> Iterator[Extension]:
    """Yield what a request should hold; of that, only the template's identity is looked at."""
    value = der.sequence(
        der.oid(identity.oid), der.integer(identity.major), der.integer(identity.minor)
    )
    yield Extension(_TEMPLATE, "Certificate Template Information", False, value)
    usages = set(rules.key_usage) - (set() if is_rsa else _OF_RSA)
    if usages:
        usage = x509.KeyUsage(**{name: name in usages for name in _USAGES})
        yield Extension(usage.oid.dotted_string, "Key Usage", True, usage.public_bytes())
    if rules.extended_key_usage:
        extended = x509.ExtendedKeyUsage([usage_oid(each) for each in rules.extended_key_usage])
        yield Extension(
            extended.oid.dotted_string, "Enhanced Key Usage", False, extended.public_bytes()
        )
