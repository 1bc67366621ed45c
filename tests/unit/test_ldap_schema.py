"""The schema that clients are shown describes what is served, and other programs read it."""

from __future__ import annotations

import pytest
from ldap3.protocol.rfc4512 import (  # type: ignore[import-untyped]  # none published
    AttributeTypeInfo,
    MatchingRuleInfo,
    ObjectClassInfo,
)

from tmad.protocols.ldap import matching, schema


def test_another_implementation_reads_it() -> None:
    entry = schema.subschema().attributes
    for attribute, reader, count in (
        ("attributeTypes", AttributeTypeInfo, len(schema.ATTRIBUTES)),
        ("objectClasses", ObjectClassInfo, len(schema.CLASSES)),
        ("matchingRules", MatchingRuleInfo, None),
    ):
        lines = [value.decode() for value in entry[attribute]]
        # It counts a name more often than once.
        read = {each.oid for each in reader.from_definition(lines).values()}
        assert len(read) == (len(lines) if count is None else count)


@pytest.mark.parametrize(
    ("name", "oid"),
    [
        # as slapd 2.5 publishes them (L-02)
        ("userCertificate", "2.5.4.36"),
        ("cACertificate", "2.5.4.37"),
        ("authorityRevocationList", "2.5.4.38"),
        ("certificateRevocationList", "2.5.4.39"),
        ("crossCertificatePair", "2.5.4.40"),
        ("supportedAlgorithms", "2.5.4.52"),
        ("deltaRevocationList", "2.5.4.53"),
        ("userSMIMECertificate", "2.16.840.1.113730.3.1.40"),
        ("strongAuthenticationUser", "2.5.6.15"),
        ("certificationAuthority", "2.5.6.16"),
        ("certificationAuthority-V2", "2.5.6.16.2"),
        ("userSecurityInformation", "2.5.6.18"),
        ("cRLDistributionPoint", "2.5.6.19"),
        ("pkiUser", "2.5.6.21"),
        ("pkiCA", "2.5.6.22"),
        ("deltaCRL", "2.5.6.23"),
        ("inetOrgPerson", "2.16.840.1.113730.3.2.2"),
    ],
)
def test_names_have_their_oids(name: str, oid: str) -> None:
    assert schema.identify(name) == schema.identify(name.upper()) == schema.identify(oid) == oid


def test_an_attribute_is_found_in_any_spelling() -> None:
    certificate = schema.find("userCertificate")
    assert certificate is not None
    assert certificate.is_binary
    for text in ("usercertificate", "USERCERTIFICATE;BINARY", "2.5.4.36", "userCertificate;binary"):
        assert schema.find(text) is certificate
    assert schema.find("gn") is schema.find("givenName")
    assert schema.find("nothing") is None
    s_mime = schema.find("userSMIMECertificate")
    assert s_mime is not None
    # Its syntax has no transfer option (L-02).
    assert not s_mime.is_binary


def test_below_name_stand_its_subtypes() -> None:
    name, cn = schema.find("name"), schema.find("cn")
    assert name is not None
    assert cn is not None
    assert schema.subtypes(name)[0] is name
    assert cn in schema.subtypes(name)
    assert schema.subtypes(cn) == (cn,)


def test_everything_that_is_named_is_defined() -> None:
    for each in schema.CLASSES:
        assert not each.superior or schema.find_class(each.superior)
        for attribute in (*each.must, *each.may):
            assert schema.find(attribute), attribute
    lines = schema.subschema().attributes["ldapSyntaxes"]
    syntaxes = b"".join(lines).decode().replace("( ", ".")
    for kind in schema.ATTRIBUTES:
        assert f".{kind.syntax} DESC" in syntaxes, kind.name
        for rule in (kind.equality, kind.ordering, kind.substring):
            assert not rule or rule in matching.RULES, rule
    assert {(rule.name, rule.oid) for rule in matching.RULES.values()} == {
        (name, oid) for oid, name, _ in schema.RULES
    }
