"""The extensions of a certificate, encoded: RFC 5280, 4.2; RFC 7093; RFC 9608."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from tmad.ca import names
from tmad.ca.extensions import (
    EXTENDED_USAGES,
    MS_SID,
    MS_TEMPLATE_V1,
    MS_TEMPLATE_V2,
    NO_REV_AVAIL,
    Extensions,
    MSTemplate,
    usage_oid,
)
from tmad.ca.keycheck import Key
from tmad.ca.x509 import extension
from tmad.errors import Fault, FaultCode
from tmad.wire import der

_SIGNING = frozenset({"digital_signature", "content_commitment", "key_cert_sign", "crl_sign"})
_AGREEING = frozenset({"key_agreement", "encipher_only", "decipher_only"})
_ENCIPHERING = frozenset({"key_encipherment", "data_encipherment"})
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerFacts:
    """What of the issuer enters a certificate; empty addresses are left out."""

    not_before: datetime
    not_after: datetime
    key_identifier: bytes  # the issuer's own SKI, or empty for a self-signed certificate
    path_length: int | None  # None: unlimited
    crl_url: str = ""
    ocsp_url: str = ""
    ca_issuers_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What an authority's certificate says beyond its profile; for sub-CAs only."""

    path_length: int | None = None
    permitted: tuple[x509.GeneralName, ...] = ()
    excluded: tuple[x509.GeneralName, ...] = ()


def usages_of(key: Key) -> frozenset[str]:
    """Return the key usages that this kind of key can have at all.

    RFC 8410, 5 (EdDSA, X25519); RFC 9881, 5 (ML-DSA); RFC 9935, 5 (ML-KEM); RFC 5480, 3 (EC).
    """
    if key.algorithm == "rsa":
        return _SIGNING | _ENCIPHERING
    if key.algorithm.startswith(("ed", "ml-dsa")):
        return _SIGNING
    if key.algorithm.startswith("ml-kem"):
        return frozenset({"key_encipherment"})
    if key.algorithm.startswith("x"):
        return _AGREEING
    return _SIGNING | _AGREEING


class ExtensionWriter:
    """Writes what one profile says about extensions; ``refuse`` makes the profile's Faults."""

    def __init__(self, rules: Extensions, refuse: Callable[..., Fault]) -> None:
        self._rules = rules
        self._refuse = refuse
        self._raw = tuple(
            extension(ObjectIdentifier(raw.oid), bytes.fromhex(raw.der_hex), critical=raw.critical)
            for raw in rules.raw
        )
        self._copied = frozenset(ObjectIdentifier(oid) for oid in rules.copy_from_request)
        self._per_key: dict[str, bytes] = {}
        self._per_issuer: dict[IssuerFacts, tuple[bytes, ...]] = {}
        # Mostly the same again, and all of it would be hashed to see that.
        self._last: tuple[IssuerFacts | None, tuple[bytes, ...]] = None, ()

    def write(
        self,
        *,
        key: Key,
        issuer: IssuerFacts,
        has_subject: bool,
        alternative_names: tuple[x509.GeneralName, ...],
        wanted: Sequence[x509.Extension[x509.ExtensionType]],
        sid: str,
        constraints: Constraints | None,
    ) -> Iterator[bytes]:
        """Yield whole Extension SEQUENCEs, always in the same order."""
        rules = self._rules
        if issuer.key_identifier:
            yield self._issuer_part(issuer)[0]
        if rules.subject_key_identifier:
            yield _encode(x509.SubjectKeyIdentifier(key_identifier(key.spki_der)), critical=False)
        yield self._key_usage(key)
        if self._rules.ca:
            yield from self._ca_extensions(issuer, constraints or Constraints())
        if alternative_names:
            # RFC 5280, 4.2.1.6: critical exactly when the subject is empty
            yield _encode(x509.SubjectAlternativeName(alternative_names), critical=not has_subject)
        yield from self._same_for_all
        yield from self._issuer_part(issuer)[1:]
        yield from self._sid(sid)
        for wish in wanted:
            if wish.oid in self._copied:
                # Never critical: a client must not be able to make others refuse it.
                yield extension(wish.oid, wish.value.public_bytes(), critical=False)

    def _key_usage(self, key: Key) -> bytes:
        encoded = self._per_key.get(key.algorithm)
        if encoded is None:
            usages = usages_of(key) & frozenset(self._rules.key_usage)
            if "key_agreement" not in usages:
                usages -= {"encipher_only", "decipher_only"}
            if not usages:
                raise Fault(
                    FaultCode.BAD_ALGORITHM,
                    "this kind of key cannot do what the profile is for",
                    rule="profile.key.usage",
                    values={
                        "algorithm": key.algorithm,
                        "usages": ", ".join(self._rules.key_usage),
                    },
                )
            usage = x509.KeyUsage(*(name in usages for name in _USAGES))
            encoded = self._per_key[key.algorithm] = _encode(usage, critical=True)
        return encoded

    def _ca_extensions(self, issuer: IssuerFacts, own: Constraints) -> Iterator[bytes]:
        rules = self._rules
        lengths = [n for n in (rules.path_length, own.path_length) if n is not None]
        if issuer.path_length is not None:
            if issuer.path_length == 0:
                raise self._refuse(
                    "ca.path-length", "the issuer may not certify authorities", issuer="0"
                )
            lengths.append(issuer.path_length - 1)
        yield _encode(
            x509.BasicConstraints(ca=True, path_length=min(lengths, default=None)), critical=True
        )
        permitted = [*rules.permitted.general_names(), *own.permitted]
        excluded = [*rules.excluded.general_names(), *own.excluded]
        if permitted or excluded:
            # RFC 5280, 4.2.1.10
            yield _encode(x509.NameConstraints(permitted or None, excluded or None), critical=True)

    @cached_property
    def _same_for_all(self) -> tuple[bytes, ...]:
        rules = self._rules
        found: list[bytes] = []
        usages = [usage_oid(usage) for usage in rules.extended_key_usage]
        if usages:
            # RFC 3161, 2.3: critical for time stamping, and only there
            critical = usages == [EXTENDED_USAGES["time_stamping"]]
            found.append(_encode(x509.ExtendedKeyUsage(usages), critical=critical))
        if rules.policies:
            policies = [
                x509.PolicyInformation(
                    ObjectIdentifier(policy.oid), [policy.cps] if policy.cps else None
                )
                for policy in rules.policies
            ]
            found.append(_encode(x509.CertificatePolicies(policies), critical=False))
        if rules.must_staple:
            feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
            found.append(_encode(feature, critical=False))
        if rules.ocsp_no_check:
            found.append(_encode(x509.OCSPNoCheck(), critical=False))
        if rules.no_rev_avail:
            found.append(extension(NO_REV_AVAIL, b"\x05\x00", critical=False))
        if rules.ms_template_v1:
            text = der.tlv(0x1E, rules.ms_template_v1.encode("utf-16-be"))
            found.append(extension(MS_TEMPLATE_V1, text, critical=False))
        if rules.ms_template_v2:
            found.append(_ms_template(rules.ms_template_v2))
        found += self._raw
        return tuple(found)

    def _issuer_part(self, issuer: IssuerFacts) -> tuple[bytes, ...]:
        if issuer is self._last[0]:
            return self._last[1]
        encoded = self._per_issuer.get(issuer)
        if encoded is None:
            # A profile has few issuers; those of a former generation are not worth keeping.
            if len(self._per_issuer) > 8:
                self._per_issuer.clear()
            encoded = self._per_issuer[issuer] = tuple(self._from_issuer(issuer))
        self._last = issuer, encoded
        return encoded

    def _from_issuer(self, issuer: IssuerFacts) -> Iterator[bytes]:
        rules = self._rules
        # RFC 5280, 4.2.1.1: key identifier alone
        yield _encode(
            x509.AuthorityKeyIdentifier(issuer.key_identifier or None, None, None), critical=False
        )
        places = []
        if rules.aia_ocsp and issuer.ocsp_url:
            places.append(_access(x509.oid.AuthorityInformationAccessOID.OCSP, issuer.ocsp_url))
        if rules.aia_ca_issuers and issuer.ca_issuers_url:
            places.append(
                _access(x509.oid.AuthorityInformationAccessOID.CA_ISSUERS, issuer.ca_issuers_url)
            )
        if places:
            yield _encode(x509.AuthorityInformationAccess(places), critical=False)
        if rules.crl and issuer.crl_url:
            point = x509.DistributionPoint(
                [x509.UniformResourceIdentifier(issuer.crl_url)], None, None, None
            )
            yield _encode(x509.CRLDistributionPoints([point]), critical=False)

    def _sid(self, sid: str) -> Iterator[bytes]:
        wish = self._rules.sid
        if wish == "never" or (wish == "optional" and not sid):
            return
        if not re.fullmatch(r"S-1-5-[0-9]{1,10}(-[0-9]{1,10}){1,14}", sid):
            raise self._refuse("sid", "the directory does not know the account's SID")
        # MS-WCCE 2.2.2.7.7.4: GeneralNames with one otherName, the SID as text
        value = der.explicit(0, der.octets(sid.encode()))
        other_name = der.explicit(0, der.oid(names.NTDS_SECURITY.dotted_string), value)
        yield extension(MS_SID, der.sequence(other_name), critical=False)


def key_identifier(spki_der: bytes) -> bytes:
    """Return the leftmost 160 bits of the key's SHA-256 (RFC 7093, 2, method 1)."""
    return hashlib.sha256(_key_bits(spki_der)).digest()[:20]


def _key_bits(spki_der: bytes) -> bytes:
    info = der.read(spki_der, der.SEQUENCE)
    info.raw(der.SEQUENCE)  # the algorithm
    return info.content(der.BIT_STRING)[1:]


def _encode(value: x509.ExtensionType, *, critical: bool) -> bytes:
    return extension(value.oid, value.public_bytes(), critical=critical)


def _access(method: ObjectIdentifier, url: str) -> x509.AccessDescription:
    return x509.AccessDescription(method, x509.UniformResourceIdentifier(url))


def _ms_template(template: MSTemplate) -> bytes:
    value = x509.MSCertificateTemplate(
        ObjectIdentifier(template.oid), template.major, template.minor
    )
    return extension(MS_TEMPLATE_V2, value.public_bytes(), critical=False)
