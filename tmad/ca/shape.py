"""Step 3 of the pipeline: what a profile makes of a request.

A template is built up from nothing; only what the profile names enters it (GEN-21). RFC 5280,
4.1 and 4.2.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tmad.ca import names
from tmad.ca.keycheck import Key
from tmad.ca.names import NameKind
from tmad.ca.profile import ATTRIBUTES, AttributeRule, NameRule, ProfileDocument, attribute_oid
from tmad.ca.validity import Ends, ValidityRules
from tmad.ca.writing import Constraints as Constraints
from tmad.ca.writing import ExtensionWriter, IssuerFacts
from tmad.ca.x509 import Template
from tmad.errors import Fault, FaultCode

_NAMES_OF_ATTRIBUTES = {oid: name for name, oid in ATTRIBUTES.items()}


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
        self._validity = ValidityRules(document.validity, self._refuse)
        self._name_rules = {
            kind: rule for kind in NameKind if (rule := document.names.rule(kind)) is not None
        }
        self._writer = ExtensionWriter(document.extensions, self._refuse)

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

    def period(
        self, issuer: IssuerFacts, now: datetime, wanted: timedelta | Ends | None
    ) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter, or refuse with rule and values."""
        return self._validity.period(issuer, now, wanted)

    def template(
        self,
        *,
        subject: x509.Name,
        alternative_names: Sequence[x509.GeneralName],
        wanted: Sequence[x509.Extension[x509.ExtensionType]],
        key: Key,
        issuer: IssuerFacts,
        now: datetime,
        validity: timedelta | Ends | None = None,
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
                self._writer.write(
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
        kinds = [names.kind_of(name) for name in kept]
        for kind, rule in self._name_rules.items():
            count = kinds.count(kind)
            if count > rule.max:
                raise self._refuse(
                    f"names.{kind.value}.count",
                    "too many alternative names",
                    count=str(count),
                    maximum=str(rule.max),
                )
            if rule.required and not count:
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
        rule = self._name_rules.get(kind)
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

    def _refuse(self, rule: str, detail: str, **values: str) -> Fault:
        values["profile"] = f"{self.name} revision {self.revision}"
        return Fault(FaultCode.REJECTED, detail, rule=f"profile.{rule}", values=values)


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
