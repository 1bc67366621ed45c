"""Step 3 of the pipeline: what a profile makes of a request.

A template is built up from nothing; only what the profile names enters it (GEN-21). RFC 5280,
4.1 and 4.2.
"""

from __future__ import annotations

import fnmatch
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tmad.ca import names
from tmad.ca.extensions import (
    EXTENDED_USAGES,
    MS_SID,
    MS_TEMPLATE_V1,
    MS_TEMPLATE_V2,
    NO_REV_AVAIL,
    MSTemplate,
    usage_oid,
)
from tmad.ca.keycheck import Key
from tmad.ca.names import NameKind
from tmad.ca.profile import ATTRIBUTES, AttributeRule, NameRule, ProfileDocument, attribute_oid
from tmad.ca.x509 import Template, extension
from tmad.errors import Fault, FaultCode
from tmad.wire import der

_SECOND = timedelta(seconds=1)
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
_NAMES_OF_ATTRIBUTES = {oid: name for name, oid in ATTRIBUTES.items()}


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


class Profile:
    """A compiled profile: immutable, and free of surprises at issue."""

    def __init__(self, name: str, revision: int, document: ProfileDocument) -> None:
        self.name = name
        self.revision = revision
        self.document = document
        self._attributes = {
            attribute_oid(attribute): rule
            for attribute, rule in document.subject.attributes.items()
            if attribute != "*"
        }
        self._other_attributes = document.subject.attributes.get("*")
        self._order = [attribute_oid(attribute) for attribute in document.subject.order]
        self._fixed_extensions = tuple(
            (
                ObjectIdentifier(raw.oid),
                extension(
                    ObjectIdentifier(raw.oid), bytes.fromhex(raw.der_hex), critical=raw.critical
                ),
            )
            for raw in document.extensions.raw
        )
        self._copied = frozenset(
            ObjectIdentifier(oid) for oid in document.extensions.copy_from_request
        )
        self._per_key: dict[str, bytes] = {}
        self._per_issuer: dict[IssuerFacts, tuple[bytes, ...]] = {}

    @property
    def critical(self) -> frozenset[ObjectIdentifier]:
        """Which extensions the profile itself made critical."""
        return frozenset(
            ObjectIdentifier(raw.oid) for raw in self.document.extensions.raw if raw.critical
        )

    @property
    def is_ca(self) -> bool:
        """Whether the subjects are authorities themselves."""
        return self.document.extensions.ca

    def template(
        self,
        *,
        subject: x509.Name,
        alternative_names: Sequence[x509.GeneralName],
        wanted: Sequence[x509.Extension[x509.ExtensionType]],
        key: Key,
        issuer: IssuerFacts,
        now: datetime,
        validity: timedelta | None = None,
        sid: str = "",
        constraints: Constraints | None = None,
    ) -> Template:
        """Return the certificate's content, or refuse with rule and values.

        ``sid`` is an account's SID that the directory vouches for. ``constraints`` come from
        whoever may create authorities, never from a request.
        """
        not_before, not_after = self.period(issuer, now, validity)
        shaped_subject = self.subject(subject)
        shaped_names = self.names(alternative_names, shaped_subject)
        shaped_subject = self._with_fixed(shaped_subject)
        if not list(shaped_subject) and not (self.document.subject.allow_empty and shaped_names):
            # RFC 5280, 4.2.1.6: without a subject there must be an alternative name.
            raise self._refuse("subject.empty", "the subject is empty")
        names.check_subject(shaped_subject)
        return Template(
            subject=shaped_subject,
            names=shaped_names,
            spki_der=key.spki_der,
            not_before=not_before,
            not_after=not_after,
            extensions_der=tuple(
                self._extensions(
                    key=key,
                    issuer=issuer,
                    has_subject=bool(list(shaped_subject)),
                    alternative_names=shaped_names,
                    wanted=wanted,
                    sid=sid,
                    constraints=constraints,
                )
            ),
        )

    # -- validity -----------------------------------------------------------------------------

    def period(
        self, issuer: IssuerFacts, now: datetime, wanted: timedelta | None
    ) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter, whole seconds, inside the issuer's (shell model)."""
        rules = self.document.validity
        length = rules.default if wanted is None else wanted
        if not timedelta(minutes=1) <= length <= rules.max:
            raise self._refuse(
                "validity.max",
                "the profile does not allow this period",
                wanted=str(length),
                maximum=str(rules.max),
            )
        start = max(now.astimezone(UTC).replace(microsecond=0) - rules.backdate, issuer.not_before)
        # Both ends belong to the period (RFC 5280, 4.1.2.5).
        end = start + length - _SECOND
        if end > issuer.not_after:
            if rules.past_issuer == "refuse":
                raise self._refuse(
                    "validity.issuer",
                    "the certificate would outlive its issuer",
                    end=end.isoformat(),
                    issuer=issuer.not_after.isoformat(),
                )
            end = issuer.not_after
        if end <= now:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the issuer's certificate has ended",
                rule="issuer.expired",
                values={"issuer": issuer.not_after.isoformat()},
            )
        return start, end

    # -- subject ------------------------------------------------------------------------------

    def subject(self, requested: x509.Name) -> x509.Name:
        """Return the attributes that the profile takes over, checked.

        The very object that was given when nothing had to change, so that its octets stay
        (SCEP-44).
        """
        if any(len(list(rdn)) > 1 for rdn in requested.rdns):
            raise self._refuse("subject.multi-valued", "a multi-valued RDN is not supported")
        kept = [a for a in requested if self._keeps(a)]
        for oid, count in Counter(a.oid for a in kept).items():
            rule = self._attribute_rule(oid)
            if rule is not None and count > rule.max:
                raise self._refuse(
                    "subject.count",
                    "an attribute occurs too often",
                    attribute=_label(oid),
                    count=str(count),
                    maximum=str(rule.max),
                )
        present = {a.oid for a in kept}
        for oid, rule in self._attributes.items():
            if rule.required and not rule.fixed and oid not in present:
                raise self._refuse(
                    "subject.required", "a required attribute is missing", attribute=_label(oid)
                )
        return requested if len(kept) == len(requested.rdns) else x509.Name(kept)

    def _attribute_rule(self, oid: ObjectIdentifier) -> AttributeRule | None:
        return self._attributes.get(oid, self._other_attributes)

    def _keeps(self, attribute: x509.NameAttribute[str | bytes]) -> bool:
        rule = self._attribute_rule(attribute.oid)
        if rule is None:
            if self.document.subject.unknown == "refuse":
                raise self._refuse(
                    "subject.attribute",
                    "the profile does not allow this attribute",
                    attribute=_label(attribute.oid),
                )
            return False
        value = str(attribute.value)
        if rule.fixed:
            return value == rule.fixed
        if not rule.from_request:
            return False
        if rule.patterns and not _matches(value, rule.patterns):
            raise self._refuse(
                "subject.pattern",
                "an attribute has a value that the profile does not allow",
                attribute=_label(attribute.oid),
                value=value[:200],
                patterns=", ".join(rule.patterns),
            )
        return True

    def _with_fixed(self, subject: x509.Name) -> x509.Name:
        attributes = list(subject)
        present = {a.oid for a in attributes}
        attributes += [
            x509.NameAttribute(oid, rule.fixed)
            for oid, rule in self._attributes.items()
            if rule.fixed and oid not in present
        ]
        if self._order:
            last = len(self._order)
            rank = {oid: index for index, oid in enumerate(self._order)}
            attributes.sort(key=lambda a: rank.get(a.oid, last))
        return subject if attributes == list(subject) else x509.Name(attributes)

    # -- alternative names --------------------------------------------------------------------

    def names(
        self, requested: Iterable[x509.GeneralName], subject: x509.Name
    ) -> tuple[x509.GeneralName, ...]:
        """Return the alternative names that the profile takes over, in canonical spelling."""
        rules = self.document.names
        kept = names.unique(name for name in map(self._name, requested) if name is not None)
        if not kept and self.document.subject.name_from_common_name:
            kept = tuple(
                self._require_name(x509.DNSName(host)) for host in _hosts_in_common_names(subject)
            )
        counts = Counter(names.kind_of(name) for name in kept)
        for kind in NameKind:
            rule = rules.rule(kind)
            if rule is None:
                continue
            if counts[kind] > rule.max:
                raise self._refuse(
                    f"names.{kind.value}.count",
                    "too many alternative names",
                    count=str(counts[kind]),
                    maximum=str(rule.max),
                )
            if rule.required and not counts[kind]:
                raise self._refuse(
                    f"names.{kind.value}.required", f"a {kind.value} name is required"
                )
        if rules.required and not kept:
            raise self._refuse("names.required", "an alternative name is required")
        if self.document.subject.common_name_in_names:
            self._check_common_names(subject, kept)
        return kept

    def _name(self, name: x509.GeneralName) -> x509.GeneralName | None:
        kind = names.kind_of(name)
        rule = self.document.names.rule(kind)
        if rule is None:
            if self.document.names.unknown == "drop":
                return None
            raise self._refuse(
                f"names.{kind.value}",
                "the profile does not allow this kind of name",
                name=names.text_of(name)[:200],
            )
        canonical = names.normalise(name, wildcard=rule.wildcard)
        if rule.patterns and not _name_matches(canonical, kind, rule):
            raise self._refuse(
                f"names.{kind.value}.pattern",
                "the profile does not allow this name",
                name=names.text_of(canonical)[:200],
                patterns=", ".join(rule.patterns),
            )
        return canonical

    def _require_name(self, name: x509.GeneralName) -> x509.GeneralName:
        kept = self._name(name)
        assert kept is not None, "a profile with name_from_common_name allows DNS names"
        return kept

    def _check_common_names(self, subject: x509.Name, kept: tuple[x509.GeneralName, ...]) -> None:
        texts = {names.text_of(name) for name in kept}
        for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            if str(attribute.value).lower() not in texts:
                raise self._refuse(
                    "subject.common-name",
                    "the common name is not among the alternative names",
                    common_name=str(attribute.value),
                )

    # -- extensions ---------------------------------------------------------------------------

    def _extensions(
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
        rules = self.document.extensions
        if issuer.key_identifier:
            yield self._issuer_part(issuer)[0]
        if rules.subject_key_identifier:
            yield _encode(x509.SubjectKeyIdentifier(key_identifier(key.spki_der)), critical=False)
        yield self._key_usage(key)
        if self.is_ca:
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
            usages = usages_of(key) & frozenset(self.document.extensions.key_usage)
            if "key_agreement" not in usages:
                usages -= {"encipher_only", "decipher_only"}
            if not usages:
                raise Fault(
                    FaultCode.BAD_ALGORITHM,
                    "this kind of key cannot do what the profile is for",
                    rule="profile.key.usage",
                    values={
                        "algorithm": key.algorithm,
                        "usages": ", ".join(self.document.extensions.key_usage),
                    },
                )
            usage = x509.KeyUsage(*(name in usages for name in _USAGES))
            encoded = self._per_key[key.algorithm] = _encode(usage, critical=True)
        return encoded

    def _ca_extensions(self, issuer: IssuerFacts, own: Constraints) -> Iterator[bytes]:
        rules = self.document.extensions
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
        rules = self.document.extensions
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
        found += [encoded for _, encoded in self._fixed_extensions]
        return tuple(found)

    def _issuer_part(self, issuer: IssuerFacts) -> tuple[bytes, ...]:
        encoded = self._per_issuer.get(issuer)
        if encoded is None:
            # A profile has few issuers; those of a former generation are not worth keeping.
            if len(self._per_issuer) > 8:
                self._per_issuer.clear()
            encoded = self._per_issuer[issuer] = tuple(self._from_issuer(issuer))
        return encoded

    def _from_issuer(self, issuer: IssuerFacts) -> Iterator[bytes]:
        rules = self.document.extensions
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
        wish = self.document.extensions.sid
        if wish == "never" or (wish == "optional" and not sid):
            return
        if not re.fullmatch(r"S-1-5-[0-9]{1,10}(-[0-9]{1,10}){1,14}", sid):
            raise self._refuse("sid", "the directory does not know the account's SID")
        # MS-WCCE 2.2.2.7.7.4: GeneralNames with one otherName, the SID as text
        value = der.explicit(0, der.octets(sid.encode()))
        other_name = der.explicit(0, der.oid(names.NTDS_SECURITY.dotted_string), value)
        yield extension(MS_SID, der.sequence(other_name), critical=False)

    def _refuse(self, rule: str, detail: str, **values: str) -> Fault:
        values["profile"] = f"{self.name} revision {self.revision}"
        return Fault(FaultCode.REJECTED, detail, rule=f"profile.{rule}", values=values)


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


def _label(oid: ObjectIdentifier) -> str:
    return _NAMES_OF_ATTRIBUTES.get(oid, oid.dotted_string)


def _hosts_in_common_names(subject: x509.Name) -> list[str]:
    texts = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return [text.lower() for text in texts if names.looks_like_host(text)]


def _matches(text: str, patterns: Iterable[str]) -> bool:
    # fnmatch's translation has no backtracking that a long value could abuse.
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _in_network(name: x509.GeneralName, pattern: str) -> bool:
    return isinstance(name, x509.IPAddress) and name.value in ipaddress.ip_network(pattern)


def _of_type(name: x509.GeneralName, pattern: str) -> bool:
    oid = name.type_id if isinstance(name, x509.OtherName) else name.value
    return oid == ObjectIdentifier(pattern)


def _name_matches(name: x509.GeneralName, kind: NameKind, rule: NameRule) -> bool:
    test: Callable[[x509.GeneralName, str], bool]
    if kind is NameKind.IP:
        test = _in_network
    elif kind in (NameKind.OTHER, NameKind.REGISTERED_ID):
        test = _of_type
    else:
        return _matches(names.text_of(name), rule.patterns)
    return any(test(name, pattern) for pattern in rule.patterns)
