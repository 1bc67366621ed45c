"""XCEP: what Windows learns of templates and of where to ask for them."""

from __future__ import annotations

import base64
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.memory_directory import DISABLED, PERSON
from tests.unit.wstep_world import (
    NS,
    World,
    certificate_of,
    csr,
    envelope,
    error_of,
    get_policies,
    issue,
    text,
    tree,
    world,
)
from tmad.protocols.wstep import policies
from tmad.wire.http import Request, Response

# The order of MS-XCEP's schema (3.1.4.1.3), which is a sequence everywhere.
ORDER = {
    "GetPoliciesResponse": ["response", "cAs", "oIDs"],
    "response": [
        "policyID", "policyFriendlyName", "nextUpdateHours", "policiesNotChanged", "policies",
    ],
    "policy": ["policyOIDReference", "cAs", "attributes"],
    "attributes": [
        "commonName", "policySchema", "certificateValidity", "permission", "privateKeyAttributes",
        "revision", "supersededPolicies", "privateKeyFlags", "subjectNameFlags", "enrollmentFlags",
        "generalFlags", "hashAlgorithmOIDReference", "rARequirements", "keyArchivalAttributes",
        "extensions",
    ],
    "certificateValidity": ["validityPeriodSeconds", "renewalPeriodSeconds"],
    "permission": ["enroll", "autoEnroll"],
    "privateKeyAttributes": [
        "minimalKeyLength", "keySpec", "keyUsageProperty", "permissions", "algorithmOIDReference",
        "cryptoProviders",
    ],
    "revision": ["majorRevision", "minorRevision"],
    "extension": ["oIDReference", "critical", "value"],
    "cA": ["uris", "certificate", "enrollPermission", "cAReferenceID"],
    "cAURI": ["clientAuthentication", "uri", "priority", "renewalOnly"],
    "oID": ["value", "group", "oIDReferenceID", "defaultName"],
}  # fmt: skip


def asked(w: World, body: bytes = b"", path: str = "machines", **how: Any) -> Response:
    given = how or {"ticket": w.ticket("pc1$")}
    answer = w.policies_for(body, path, **given)
    assert answer.status == 200, answer.body
    return answer


def found(answer: Response, local: str) -> list[ElementTree.Element]:
    return tree(answer).findall(f".//p:{local}", NS)


def value(node: ElementTree.Element, path: str) -> str:
    inside = node.find(path, NS)
    assert inside is not None, path
    return inside.text or ""


def names(answer: Response) -> list[str]:
    return [value(each, "p:attributes/p:commonName") for each in found(answer, "policy")]


def test_an_answer_has_the_shape_of_the_schema() -> None:
    answer = asked(world())
    action = f"{NS['p']}/IPolicy/GetPoliciesResponse"
    assert answer.content_type == f'application/soap+xml; charset=utf-8; action="{action}"'
    seen = set()
    for node in tree(answer).iter():
        namespace, _, local = node.tag[1:].partition("}")
        if namespace == NS["p"] and local in ORDER and len(node):
            seen.add(local)
            assert [child.tag.partition("}")[2] for child in node] == ORDER[local]
    assert seen == set(ORDER)


def test_templates_of_several_endpoints_stand_in_one_policy() -> None:
    w = world()
    answer = asked(w)
    assert names(answer) == ["windows-machine", "windows-user"]
    machine, user = found(answer, "policy")
    assert value(machine, "p:attributes/p:generalFlags") == str(0x40)
    assert value(user, "p:attributes/p:generalFlags") == "0"
    # DNS name as CN and SAN; CN and UPN of the directory.
    assert value(machine, "p:attributes/p:subjectNameFlags") == str(0x18000000)
    assert value(user, "p:attributes/p:subjectNameFlags") == str(0x42000000)
    assert value(machine, ".//p:minimalKeyLength") == "2048"
    assert text(answer, ".//p:policyID") == text(asked(w), ".//p:policyID")
    issuer = drive(w.hierarchy.active("default", "devices"))
    shown = [base64.b64decode(each.text or "") for each in found(answer, "certificate")]
    assert [x509.load_der_x509_certificate(each) for each in shown] == [issuer.certificate] * 2


def test_references_lead_to_object_identifiers() -> None:
    answer = asked(world())
    oids = {
        value(each, "p:oIDReferenceID"): value(each, "p:value") for each in found(answer, "oID")
    }
    assert len(oids) == len(found(answer, "oID"))
    machine, user = found(answer, "policy")
    assert oids[value(machine, "p:policyOIDReference")].endswith(".1")
    assert oids[value(user, "p:policyOIDReference")].endswith(".2")
    referring = (
        "oIDReference", "algorithmOIDReference", "hashAlgorithmOIDReference", "policyOIDReference",
    )  # fmt: skip
    used = {each.text for local in referring for each in found(answer, local)}
    assert used == set(oids)
    extensions = {oids[value(e, "p:oIDReference")] for e in found(answer, "extension")}
    assert extensions == {"1.3.6.1.4.1.311.21.7", "2.5.29.15", "2.5.29.37"}


def test_addresses_say_how_to_ask_and_what_for() -> None:
    w = world()
    w.change("users", authenticate=["kerberos", "directory", "manual"])
    _, user = found(asked(w), "cA")
    addresses = [
        (value(each, "p:clientAuthentication"), value(each, "p:uri"), value(each, "p:renewalOnly"))
        for each in user.findall(".//p:cAURI", NS)
    ]
    base = "https://ca.example.test:8443/wstep/users"
    assert addresses == [
        ("2", base, "false"),
        ("4", base, "false"),
        ("1", base, "false"),
        ("8", "https://ca.example.test:8444/wstep/users", "true"),
        ("1", f"{base}/renewal", "true"),
    ]
    strange = asked(w, ticket=w.ticket("pc1$"), headers={"host": "a b<c"})
    assert b"https://ca.example.test/wstep/users" in strange.body


def test_a_filter_shows_the_templates_that_it_names() -> None:
    w = world()
    oid = "1.3.6.1.4.1.311.21.8.7240117.1938274.6604211.11590842.3371905.2"
    wanted = (
        f"<requestFilter><policyOIDs><oid>{oid}</oid></policyOIDs>"
        "<clientVersion>3</clientVersion><serverVersion>0</serverVersion></requestFilter>"
    )
    assert names(asked(w, get_policies(wanted))) == ["windows-user"]
    nothing = wanted.replace(oid, "1.2.3")
    assert names(asked(w, get_policies(nothing))) == []


def test_who_knows_it_all_is_told_so() -> None:
    w = world()
    now = (w.clock() + timedelta(seconds=1)).isoformat()
    answer = asked(w, get_policies(updated=now))
    assert text(answer, ".//p:policiesNotChanged") == "true"
    assert names(answer) == []
    w.clock.advance(seconds=10)
    w.change("users", options={"subject": "user", "template": "Staff", "channel_binding": "off"})
    answer = asked(w, get_policies(updated=now))
    assert text(answer, ".//p:policiesNotChanged") == "false"
    assert names(answer) == ["windows-machine", "Staff"]


def test_a_closed_endpoint_is_not_offered_and_one_of_another_tenant_neither() -> None:
    w = world()
    w.change("users", enabled=False)
    assert names(asked(w)) == ["windows-machine"]


def test_an_endpoint_that_would_refuse_says_so() -> None:
    w = world()
    w.change("users", people={"groups": ["staff"]})
    machine, user = found(asked(w), "policy")
    assert value(machine, ".//p:enroll") == "true"
    assert value(user, ".//p:enroll") == "false"
    assert value(user, ".//p:autoEnroll") == "false"


def test_strangers_learn_nothing() -> None:
    w = world()
    assert w.policies_for().status == 401
    w.memory.change("bob", userAccountControl=str(PERSON | DISABLED))
    assert error_of(w.policies_for(ticket=w.ticket("bob")))[0] == "FailedAuthentication"
    w.change("machines", authenticate=["directory"])
    assert error_of(w.policies_for())[0] == "FailedAuthentication"
    wrong = w.policies_for(get_policies(user="bob", word="wrong"))
    assert error_of(wrong)[0] == "FailedAuthentication"


def test_a_certificate_of_the_endpoint_may_ask() -> None:
    w = world()
    w.change("users", authenticate=["directory"], options={"subject": "user"})
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate_of(w.ask(issue(csr(key=key), user="bob", word="bob's own word")))
    assert names(asked(w, path="users", client=own)) == ["windows-user"]
    row = w.events("certificate.issued")[-1].object.partition("/")[2]
    drive(w.revocation.revoke_by_id(ADMIN, "default", int(row), 4))
    assert error_of(w.policies_for(path="users", client=own))[0] == "FailedAuthentication"


def test_a_profile_without_a_template_is_said_to_be_none() -> None:
    w = world()
    w.change("machines", profile="device", options={"channel_binding": "off"})
    answer = w.policies_for(ticket=w.ticket("pc1$"))
    assert error_of(answer)[1] == 0x80070032
    assert "ms_template_v2" in text(answer, ".//s:Reason/s:Text")


@pytest.mark.parametrize(
    "body",
    [
        envelope(policies.ACTION, "<x/>"),
        envelope("urn:x", f'<GetPolicies xmlns="{NS["p"]}"/>'),
        get_policies("<requestFilter><policyOIDs><oid>x</oid></policyOIDs></requestFilter>"),
        get_policies("<requestFilter><clientVersion>-1</clientVersion></requestFilter>"),
        get_policies(updated="yesterday"),
        get_policies(updated="2026-01-01T00:00:00"),
    ],
)
def test_what_is_no_question_is_answered_with_a_fault(body: bytes) -> None:
    w = world()
    assert error_of(w.policies_for(body, ticket=w.ticket("pc1$")))[0] == "InvalidRequest"


def test_the_addresses_of_ad_cs_lead_to_the_default_label() -> None:
    w = world()
    seen: Any = SimpleNamespace(respond=w.policies.respond_default)
    assert w.ask(get_policies(), "", responder=seen, ticket=w.ticket("pc1$")).status == 200
    request = Request(method="POST", path=b"/x", tail=b"/more")
    assert drive(w.policies.respond_default(request)).status == 404
