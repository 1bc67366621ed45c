"""XCEP messages: which certificates there are, from whom, and what a request must look like.

MS-XCEP 3.1.4.1; the flags are those of MS-CRTD, as far as MS-XCEP 3.1.4.1.3.1 passes them on.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple

from tmad.protocols.wstep.codec import unsupported_action
from tmad.wire import soap
from tmad.wire.soap import Node, malformed

_NAMESPACE: Final = "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy"
ACTION: Final = f"{_NAMESPACE}/IPolicy/GetPolicies"
ANSWER: Final = f"{_NAMESPACE}/IPolicy/GetPoliciesResponse"

_OID: Final = re.compile(r"[0-2](\.[0-9]{1,40}){1,40}\Z")
_VERSION: Final = re.compile(r"[0-9]{1,9}\Z")
_FILTER: Final = 256  # object identifiers in a filter

_SCHEMA: Final = 3  # of a template: the first with other keys than RSA
_ALL_OF_A_REQUEST: Final = 0x1 | 0x10000  # subject and alternative names come from the client
_REUSES_NAMES: Final = 0x8
_DNS_AS_NAME: Final = 0x10000000 | 0x08000000
_CN_AND_UPN: Final = 0x40000000 | 0x02000000
_MACHINE: Final = 0x40
_SIGNS_RENEWALS: Final = 0x40
_DELETES_OLD: Final = 0x400
_EXPORTABLE: Final = 0x10


class Authentication(IntEnum):
    """How a client shows who it is (MS-XCEP 3.1.4.1.3.5)."""

    ANONYMOUS = 1
    KERBEROS = 2
    PASSWORD = 4
    CERTIFICATE = 8


class Group(IntEnum):
    """What an object identifier is one of (MS-XCEP 3.1.4.1.3.16)."""

    HASH = 1
    PUBLIC_KEY = 3
    EXTENSION = 6
    TEMPLATE = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a client wants to know. ``oids`` None means all templates."""

    last_update: datetime | None = None
    oids: frozenset[str] | None = None
    client_version: int = 0


class Address(NamedTuple):
    """Where a certificate can be asked for, and how; the lowest priority first."""

    authentication: Authentication
    url: str
    priority: int
    is_for_renewal: bool


class Extension(NamedTuple):
    """An extension that a request should have."""

    oid: str
    name: str
    is_critical: bool
    value_der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One kind of certificate and who issues it.

    Times are in seconds, ``key_bits`` the least length of a key. ``key_oid`` with ``key_name``
    is the kind of key, ``hash_oid`` what its request is signed with.
    """

    name: str
    oid: str
    major: int
    minor: int
    validity: int
    renewal: int
    is_machine: bool
    is_named_by_client: bool
    may_enrol: bool
    enrols_by_itself: bool
    key_oid: str
    key_name: str
    key_bits: int
    hash_oid: str
    hash_name: str
    is_exportable: bool = False
    providers: Sequence[str] = ()
    extensions: Sequence[Extension] = ()
    authority_der: bytes = b""
    addresses: Sequence[Address] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All that one client learns; ``hours`` until it should ask again."""

    id: str
    name: str
    hours: int
    templates: Sequence[Template]


# -- questions --------------------------------------------------------------------------------


def decode(message: soap.Message) -> Question:
    """Read a GetPolicies message; Fault(MALFORMED) or Fault(UNSUPPORTED)."""
    body = message.body
    if message.action != ACTION or body.name != (_NAMESPACE, "GetPolicies"):
        raise unsupported_action(message)
    client = body.find(_NAMESPACE, "client")
    last_update = None if client is None else soap.instant(client.value(_NAMESPACE, "lastUpdate"))
    wanted = body.find(_NAMESPACE, "requestFilter")
    if wanted is None or wanted.is_nil:
        return Question(last_update=last_update)
    version = wanted.value(_NAMESPACE, "clientVersion")
    if version and not _VERSION.match(version):
        raise malformed("the client's version is not a number")
    return Question(
        last_update=last_update,
        oids=_oids(wanted.find(_NAMESPACE, "policyOIDs")),
        client_version=int(version or "0"),
    )


def _oids(listed: Node | None) -> frozenset[str] | None:
    if listed is None or listed.is_nil:
        return None
    found = [child.text.strip() for child in listed.children if child.name == (_NAMESPACE, "oid")]
    if len(found) > _FILTER or not all(_OID.match(each) for each in found):
        raise malformed("the filter does not hold object identifiers")
    return frozenset(found)


# -- answers ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _References:
    """The object identifiers of an answer, which others refer to by number."""

    known: dict[tuple[str, Group], tuple[int, str]] = field(default_factory=dict)

    def to(self, oid: str, group: Group, name: str) -> str:
        """Return the number of an object identifier, as text."""
        number, _ = self.known.setdefault((oid, group), (len(self.known), name))
        return str(number)


def unchanged(policies: Policies) -> Node:
    """Return the body of an answer to a client that knows it all."""
    return _answer(_response(policies, None, is_unchanged=True), _nil("cAs"), _nil("oIDs"))


def encode(policies: Policies) -> Node:
    """Return the body of an answer with all templates."""
    references = _References()
    entries = [
        _policy(template, number, references) for number, template in enumerate(policies.templates)
    ]
    authorities = [
        _authority(template, number) for number, template in enumerate(policies.templates)
    ]
    oids = [
        _element(
            "oID",
            _text("value", oid),
            _text("group", str(group.value)),
            _text("oIDReferenceID", str(number)),
            _text("defaultName", name),
        )
        for (oid, group), (number, name) in references.known.items()
    ]
    return _answer(
        _response(policies, entries, is_unchanged=False),
        _list("cAs", authorities),
        _list("oIDs", oids),
    )


def _answer(response: Node, authorities: Node, oids: Node) -> Node:
    return _element("GetPoliciesResponse", response, authorities, oids)


def _response(policies: Policies, entries: Sequence[Node] | None, *, is_unchanged: bool) -> Node:
    return _element(
        "response",
        _text("policyID", policies.id),
        _text("policyFriendlyName", policies.name),
        _text("nextUpdateHours", str(policies.hours)),
        _text("policiesNotChanged", _boolean(is_unchanged)),
        _nil("policies") if entries is None else _list("policies", entries),
    )


def _policy(template: Template, number: int, references: _References) -> Node:
    return _element(
        "policy",
        _text("policyOIDReference", references.to(template.oid, Group.TEMPLATE, template.name)),
        _element("cAs", _text("cAReference", str(number))),
        _element(
            "attributes",
            _text("commonName", template.name),
            _text("policySchema", str(_SCHEMA)),
            _element(
                "certificateValidity",
                _text("validityPeriodSeconds", str(template.validity)),
                _text("renewalPeriodSeconds", str(template.renewal)),
            ),
            _element(
                "permission",
                _text("enroll", _boolean(template.may_enrol)),
                _text("autoEnroll", _boolean(template.may_enrol and template.enrols_by_itself)),
            ),
            _private_key(template, references),
            _element(
                "revision",
                _text("majorRevision", str(template.major)),
                _text("minorRevision", str(template.minor)),
            ),
            _nil("supersededPolicies"),
            _text("privateKeyFlags", str(_EXPORTABLE if template.is_exportable else 0)),
            _text("subjectNameFlags", str(_subject_flags(template))),
            _text("enrollmentFlags", str(_SIGNS_RENEWALS | _DELETES_OLD)),
            _text("generalFlags", str(_MACHINE if template.is_machine else 0)),
            _text(
                "hashAlgorithmOIDReference",
                references.to(template.hash_oid, Group.HASH, template.hash_name),
            ),
            _nil("rARequirements"),
            _nil("keyArchivalAttributes"),
            _list("extensions", [_extension(each, references) for each in template.extensions]),
        ),
    )


def _private_key(template: Template, references: _References) -> Node:
    return _element(
        "privateKeyAttributes",
        _text("minimalKeyLength", str(template.key_bits)),
        # With key storage providers there is no such number (MS-WCCE 3.1.2.4.2.2.1.5).
        _nil("keySpec"),
        _nil("keyUsageProperty"),
        _nil("permissions"),
        _text(
            "algorithmOIDReference",
            references.to(template.key_oid, Group.PUBLIC_KEY, template.key_name),
        ),
        _list("cryptoProviders", [_text("provider", each) for each in template.providers]),
    )


def _subject_flags(template: Template) -> int:
    if template.is_named_by_client:
        return _ALL_OF_A_REQUEST | _REUSES_NAMES
    return _DNS_AS_NAME if template.is_machine else _CN_AND_UPN


def _extension(extension: Extension, references: _References) -> Node:
    return _element(
        "extension",
        _text("oIDReference", references.to(extension.oid, Group.EXTENSION, extension.name)),
        _text("critical", _boolean(extension.is_critical)),
        _text("value", base64.b64encode(extension.value_der).decode()),
    )


def _authority(template: Template, number: int) -> Node:
    addresses = [
        _element(
            "cAURI",
            _text("clientAuthentication", str(address.authentication.value)),
            _text("uri", address.url),
            _text("priority", str(address.priority)),
            _text("renewalOnly", _boolean(address.is_for_renewal)),
        )
        for address in template.addresses
    ]
    return _element(
        "cA",
        _list("uris", addresses),
        _text("certificate", base64.b64encode(template.authority_der).decode()),
        _text("enrollPermission", _boolean(template.may_enrol)),
        _text("cAReferenceID", str(number)),
    )


def _element(local: str, *children: Node) -> Node:
    return soap.element(_NAMESPACE, local, *children)


def _text(local: str, text: str) -> Node:
    return soap.element(_NAMESPACE, local, text)


def _list(local: str, children: Iterable[Node]) -> Node:
    """Return a list; an empty one does not exist in the schema, so it is nil."""
    found = tuple(children)
    return soap.element(_NAMESPACE, local, *found) if found else _nil(local)


def _nil(local: str) -> Node:
    return soap.nil(_NAMESPACE, local)


def _boolean(value: bool) -> str:
    return "true" if value else "false"
