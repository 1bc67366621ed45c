"""How people, devices and authorities look as entries (RFC 2798, RFC 4519, RFC 4523; L-01).

Pure: from what the database holds to attributes. ``Wish`` says which of them anybody needs, so
that nothing is made or read for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID, uuid5

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tmad.ca.directory import Device, Person
from tmad.ca.hierarchy import Issuer
from tmad.protocols.ldap import conditions, schema
from tmad.protocols.ldap.names import escape
from tmad.protocols.ldap.tree import Entry
from tmad.wire import cms

# The names of entries' UUIDs hang below this one; they are the same on every node.
_UUIDS: Final = UUID("6f3c2a52-6f2c-5d0e-9a1d-2f0d8c1c7b11")
_SECOND: Final = 1_000_000  # microseconds
UNITS: Final = {"people": "people", "devices": "devices", "authorities": "CAs"}
_ROOT_CLASSES: Final = {
    "o": ("organization",),
    "ou": ("organizationalUnit",),
    "dc": ("domain",),
    "c": ("country",),
    # Of places there is no class here: it may have any attribute.
    "l": ("organizationalUnit", "extensibleObject"),
    "st": ("organizationalUnit", "extensibleObject"),
}
_OPERATIONAL: Final = frozenset({kind.name for kind in schema.ATTRIBUTES if kind.is_operational})
_FOR_MAIL: Final = frozenset(
    {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)


Attributes: TypeAlias = dict[str, tuple[bytes, ...]]


class Wish(NamedTuple):
    """Which attributes are needed: by their names, or all user attributes."""

    names: frozenset[str]
    user: bool
    operational: bool  # any of them

    def has(self, name: str) -> bool:
        """Tell whether a user attribute is needed."""
        return self.user or name in self.names


ALL: Final = Wish(frozenset(), user=True, operational=True)


@lru_cache(maxsize=1024)
def wish(attributes: frozenset[str] | None, tested: frozenset[str]) -> Wish:
    """Return what an answer with these attributes needs, and a filter about those.

    A name stands for what is below it, too ("name" for "cn").
    """
    if attributes is None:
        return ALL
    found = set()
    for description in attributes | tested:
        kind = schema.find(description)
        if kind is not None:
            found |= {each.name for each in schema.subtypes(kind)}
    # No list at all asks for all user attributes (RFC 4511, 4.5.1.8).
    user = not attributes or "*" in attributes
    operational = "+" in attributes or not found.isdisjoint(_OPERATIONAL)
    return Wish(frozenset(found), user, operational)


class Place(NamedTuple):
    """Where in the tree an entry stands: a directory's suffix, and what is below it."""

    tenant: str
    suffix: str

    def unit(self, branch: str) -> str:
        """Return the name of the entry that a branch hangs on."""
        return f"ou={UNITS[branch]},{self.suffix}"

    def person(self, name: str) -> str:
        """Return a person's name in the tree."""
        return f"uid={escape(name)},ou=people,{self.suffix}"

    def device(self, name: str) -> str:
        """Return a device's name in the tree."""
        return f"cn={escape(name)},ou=devices,{self.suffix}"

    def authority(self, issuer: Issuer) -> str:
        """Return the name of an authority with one of its keys."""
        return f"cn={authority_name(issuer)},ou=CAs,{self.suffix}"


def authority_name(issuer: Issuer) -> str:
    """Return what tells one key's entry from those of the authority's other keys.

    A CRL's address must not mean another key one day (tmad/ca/authority.py: slug_of).
    """
    if issuer.generation == 1:
        return issuer.authority
    return f"{issuer.authority}_{issuer.generation}"


# What entries of the tree and of authorities may have, beside what is operational.
TREE: Final = frozenset({"objectClass", "o", "ou", "dc", "c", "l", "st"})
AUTHORITY: Final = frozenset(
    {
        "objectClass",
        "cn",
        "cACertificate",
        "certificateRevocationList",
        "authorityRevocationList",
        "deltaRevocationList",
    }
)


def root(place: Place, branches: bool) -> Entry:
    """Return the entry of a suffix."""
    attribute, _, value = place.suffix.partition(",")[0].partition("=")
    classes = ("top", *_ROOT_CLASSES[attribute])
    attributes: Attributes = {attribute: (value.encode(),)}
    if attribute in ("l", "st"):
        attributes["ou"] = (value.encode(),)
    return _entry(place.suffix, classes, attributes, ALL, place.tenant, has_below=branches)


def unit(place: Place, branch: str) -> Entry:
    """Return the entry that a branch hangs on."""
    attributes: Attributes = {"ou": (UNITS[branch].encode(),)}
    dn = place.unit(branch)
    return _entry(dn, ("top", "organizationalUnit"), attributes, ALL, place.tenant, has_below=True)


def person(place: Place, row: Person, certificates: Sequence[bytes], wanted: Wish) -> Entry:
    """Return a person's entry; ``certificates`` are DER, the newest first."""
    full_name = (row.full_name or row.name).encode()
    given, _, surname = full_name.rpartition(b" ")
    every: dict[str, bytes] = {
        "uid": row.name.encode(),
        "cn": full_name,
        "sn": surname,
        "displayName": full_name,
        "givenName": given,
        "mail": row.mail.encode(),
        "telephoneNumber": row.phone.encode(),
    }
    attributes: Attributes = {
        name: (value,)
        for name, value in every.items()
        if value and (wanted.user or name in wanted.names)
    }
    if certificates:
        attributes["userCertificate"] = tuple(certificates)
    return _entry(
        place.person(row.name),
        conditions.PEOPLE.classes,
        attributes,
        wanted,
        place.tenant,
        since=(row.created_at, row.updated_at),
    )


def device(place: Place, row: Device, certificates: Sequence[bytes], wanted: Wish) -> Entry:
    """Return a device's entry; ``certificates`` are DER, the newest first."""
    attributes: Attributes = {"cn": (row.name.encode(),)}
    if row.serial_number:
        attributes["serialNumber"] = (row.serial_number.encode(),)
    if row.owner:
        attributes["owner"] = (place.person(row.owner).encode(),)
    if row.description:
        attributes["description"] = (row.description.encode(),)
    if certificates:
        attributes["userCertificate"] = tuple(certificates)
    return _entry(
        place.device(row.name),
        conditions.DEVICES.classes,
        attributes,
        wanted,
        place.tenant,
        since=(row.created_at, row.updated_at),
    )


def authority(place: Place, issuer: Issuer, *, is_trusted: bool) -> Entry:
    """Return the entry of an authority with one of its keys, but for its CRL.

    Whoever needs its CRL still finds it when the authority itself is not to be trusted.
    """
    assert issuer.certificate is not None  # else it is not published
    name = authority_name(issuer)
    common = [
        str(each.value)
        for each in issuer.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    attributes: Attributes = {
        "cn": tuple([text.encode() for text in dict.fromkeys([name, *common])])
    }
    if is_trusted:
        attributes["cACertificate"] = (issuer.certificate.public_bytes(Encoding.DER),)
    start = issuer.not_before
    since = 0 if start is None else int(start.timestamp()) * _SECOND
    return _entry(
        place.authority(issuer),
        ("top", "cRLDistributionPoint", "pkiCA"),
        attributes,
        ALL,
        place.tenant,
        since=(since, since),
    )


def with_crl(entry: Entry, crl_der: bytes, delta_der: bytes | None) -> Entry:
    """Return an authority's entry with its CRL, and its delta CRL if there is one."""
    # It lists whatever the key has signed, and so the certificates of authorities, too.
    lists: Attributes = {
        "certificateRevocationList": (crl_der,),
        "authorityRevocationList": (crl_der,),
    }
    if delta_der is not None:
        lists["deltaRevocationList"] = (delta_der,)
    return Entry(entry.dn, {**entry.attributes, **lists})


def _entry(
    dn: str,
    classes: tuple[str, ...],
    attributes: Attributes,
    wanted: Wish,
    tenant: str,
    *,
    since: tuple[int, int] = (0, 0),
    has_below: bool = False,
) -> Entry:
    found = {"objectClass": _encoded(classes), **attributes}
    if wanted.operational:
        found |= {
            "structuralObjectClass": (_structural(classes).encode(),),
            "entryDN": (dn.encode(),),
            "entryUUID": (str(uuid5(_UUIDS, f"{tenant}\0{dn}")).encode(),),
            "subschemaSubentry": (schema.SUBSCHEMA.encode(),),
            "hasSubordinates": (b"TRUE" if has_below else b"FALSE",),
        }
        if since[0]:
            found["createTimestamp"] = (_time(since[0]),)
            found["modifyTimestamp"] = (_time(since[1]),)
    return Entry(dn, found)


@lru_cache(maxsize=64)
def _encoded(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple([text.encode() for text in texts])


@lru_cache(maxsize=64)
def _structural(classes: tuple[str, ...]) -> str:
    """Return the last class of the chain of structural ones (RFC 4512, 2.4.2)."""
    kinds = [schema.find_class(name) for name in classes]
    return [each.names[0] for each in kinds if each and each.kind == "STRUCTURAL"][-1]


def _time(at: int) -> bytes:
    """Return an instant, in microseconds since 1970, as a GeneralizedTime."""
    return datetime.fromtimestamp(at // _SECOND, UTC).strftime("%Y%m%d%H%M%SZ").encode()


# -- S/MIME ---------------------------------------------------------------------------------------


def is_for_mail(certificate_der: bytes) -> bool:
    """Tell whether a certificate is good for encrypting mail, as far as its purpose goes."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _FOR_MAIL.isdisjoint(usage)


def s_mime(certificate_der: bytes, chain_der: Sequence[bytes]) -> bytes:
    """Return a value of userSMIMECertificate: PKCS#7 without a signature, with the issuers."""
    # X.690, 11.6: a set is encoded in the order of its octets.
    return cms.degenerate(sorted([certificate_der, *chain_der]))
