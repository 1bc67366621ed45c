"""WSTEP: who gets which certificate, and what everybody else is told."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.memory_directory import DISABLED, MACHINE, PERSON
from tests.unit.wstep_world import (
    World,
    certificate_of,
    common_name,
    csr,
    envelope,
    error_of,
    issue,
    query,
    signed_by,
    text,
    tree,
    world,
)
from tmad.ca.names import UPN
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import cms, der

SID = x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2")
TEMPLATE = x509.ObjectIdentifier("1.3.6.1.4.1.311.21.7")
NUMBER = ".//e:RequestID"


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return list(found.value)


def sid_of(certificate: x509.Certificate) -> str:
    value = certificate.extensions.get_extension_for_oid(SID).value.public_bytes()
    return value[value.index(b"S-1-5") :].decode()


def rule(w: World) -> str:
    return str(json.loads(w.events("request.refused")[-1].data)["rule"])


def methods(w: World) -> list[str]:
    """Return how those who enrolled have shown who they are."""
    issued = [json.loads(e.data) for e in w.events("certificate.intended")]
    return [data["method"] for data in issued if data["endpoint"]]


def extension(oid: x509.ObjectIdentifier, value: bytes) -> Any:
    return x509.UnrecognizedExtension(oid, value)


# -- who gets what ----------------------------------------------------------------------------


def test_a_ticket_gets_the_names_and_the_sid_of_its_account_whatever_was_asked() -> None:
    w = world()
    wanted = csr(
        "Administrator",
        names=(x509.DNSName("dc1.corp.test"), x509.OtherName(UPN, b"\x0c\x05admin")),
    )
    certificate = w.enrolled(wanted)
    assert common_name(certificate) == "Bob Builder"
    upn, mail = names_of(certificate)
    assert isinstance(upn, x509.OtherName)
    assert upn.value == b"\x0c\x0dbob@corp.test"
    assert mail == x509.RFC822Name("bob@corp.test")
    assert sid_of(certificate) == w.memory.sid("bob")
    template = certificate.extensions.get_extension_for_oid(TEMPLATE).value.public_bytes()
    assert der.dotted(der.read(template, der.SEQUENCE).raw(der.OBJECT_IDENTIFIER)).startswith(
        "1.3.6.1.4.1.311.21.8."
    )
    assert methods(w) == ["kerberos"]
    assert w.memory.open == 0


def test_a_computer_gets_its_dns_name() -> None:
    w = world()
    certificate = w.enrolled(csr(subject=x509.Name([])), "machines", ticket=w.ticket("pc1$"))
    assert common_name(certificate) == "pc1.corp.test"
    assert names_of(certificate) == [x509.DNSName("pc1.corp.test")]
    assert sid_of(certificate) == w.memory.sid("pc1$")


@pytest.mark.parametrize(
    "algorithm",
    [KeyAlgorithm.RSA_2048, KeyAlgorithm.ED25519, KeyAlgorithm.ML_DSA_65],
)
def test_authorities_of_any_kind_answer(algorithm: KeyAlgorithm) -> None:
    w = world(algorithm=algorithm, approval="manual")
    number = int(text(w.ask(issue(csr()), ticket=w.ticket()), NUMBER))
    [row] = drive(w.requests.list(ADMIN, "default"))
    drive(w.requests.approve(ADMIN, "default", row.id))
    certificate = certificate_of(w.ask(query(number), ticket=w.ticket()))
    issuer = drive(w.hierarchy.active("default", "devices"))
    assert issuer.certificate is not None
    certificate.verify_directly_issued_by(issuer.certificate)


def test_a_password_of_the_directory_enrols() -> None:
    w = world()
    for user in ("bob", "bob@corp.test", "CORP\\bob"):
        answer = w.ask(issue(csr(), user=user, word="bob's own word"))
        assert common_name(certificate_of(answer)) == "Bob Builder"


def test_the_answer_is_worded_as_windows_wants_it() -> None:
    w = world()
    answer = w.ask(issue(csr()), ticket=w.ticket())
    action = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment/RSTRC/wstep"
    assert answer.content_type == f'application/soap+xml; charset=utf-8; action="{action}"'
    assert text(answer, "s:Header/a:Action") == action
    assert text(answer, "s:Header/a:RelatesTo").startswith("urn:uuid:b5d1a601")
    assert text(answer, ".//e:DispositionMessage") == "Issued"
    bundle = base64.b64decode(
        text(answer, ".//t:RequestSecurityTokenResponse/o:BinarySecurityToken")
    )
    assert certificate_of(answer) in pkcs7.load_der_pkcs7_certificates(bundle)
    assert len(pkcs7.load_der_pkcs7_certificates(bundle)) == 2
    # Kerberos' own answer proves that it was the right service.
    assert (
        "WWW-Authenticate",
        "Negotiate " + base64.b64encode(b"mutual").decode(),
    ) in answer.headers


def test_without_anything_a_ticket_is_asked_for() -> None:
    w = world()
    answer = w.ask(issue(csr()))
    assert (answer.status, answer.headers) == (401, (("WWW-Authenticate", "Negotiate"),))
    assert not w.events("request.refused")


def test_a_copy_of_a_request_gets_the_same_certificate() -> None:
    w = world()
    wanted = csr()
    first = w.enrolled(wanted)
    assert w.enrolled(wanted) == first
    # Of another account it is another request, for the key of somebody else.
    w.memory.add("eve", displayName="Eve", userPrincipalName="eve@corp.test")
    answer = w.ask(issue(wanted), ticket=w.ticket("eve"))
    assert error_of(answer)[0] == "RequestFailed"
    assert rule(w) == "key.duplicate.same-subject"


# -- who does not -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"control": PERSON | DISABLED}, "directory.disabled"),
        ({"accountExpires": "132000000000000000"}, "directory.disabled"),
        ({"control": 0x800}, "directory.kind"),
    ],
)
def test_an_account_that_may_not_be_used_gets_nothing(
    change: dict[str, Any], expected: str
) -> None:
    w = world()
    w.memory.add("eve", userPrincipalName="eve@corp.test", **change)
    assert error_of(w.ask(issue(csr()), ticket=w.ticket("eve"))) == (
        "FailedAuthentication", 0x8009030C, False,
    )  # fmt: skip
    assert rule(w) == expected


def test_an_account_that_was_disabled_has_a_ticket_still_and_gets_nothing() -> None:
    w = world()
    w.enrolled(csr())
    w.memory.change("bob", userAccountControl=str(PERSON | DISABLED))
    assert error_of(w.ask(issue(csr()), ticket=w.ticket()))[0] == "FailedAuthentication"
    assert rule(w) == "directory.disabled"


def test_a_ticket_is_good_once() -> None:
    w = world()
    ticket = w.ticket()
    assert w.ask(issue(csr()), ticket=ticket).status == 200
    assert error_of(w.ask(issue(csr()), ticket=ticket))[0] == "FailedAuthentication"
    assert rule(w) == "kerberos.ticket"


@pytest.mark.parametrize(
    ("sid", "realm", "expected"),
    [
        ("", "CORP.TEST", "directory.pac"),
        ("S-1-5-21-9-9-9-500", "CORP.TEST", "directory.account"),
        (None, "OTHER.TEST", "directory.realm"),
    ],
)
def test_a_ticket_counts_by_its_sid_and_its_realm(
    sid: str | None, realm: str, expected: str
) -> None:
    w = world()
    ticket = w.ticket(sid=sid)
    plain = base64.b64decode(ticket.split()[1]).replace(b"CORP.TEST", realm.encode())
    answer = w.ask(issue(csr()), ticket="Negotiate " + base64.b64encode(plain).decode())
    assert error_of(answer)[0] == "FailedAuthentication"
    assert rule(w) == expected


def test_the_sid_says_who_it_is_not_the_principal() -> None:
    w = world()
    w.memory.add("admin", displayName="The Admin", userPrincipalName="admin@corp.test")
    # CVE-2020-25719: a principal of somebody else's name.
    certificate = w.enrolled(csr(), ticket=w.ticket("admin", sid=w.memory.sid("bob")))
    assert common_name(certificate) == "Bob Builder"


def test_what_is_no_ticket_is_refused() -> None:
    w = world()
    assert error_of(w.ask(issue(csr()), ticket="Negotiate !!"))[0] == "FailedAuthentication"
    assert rule(w) == "kerberos.token"


def test_a_ticket_is_tied_to_its_connection_where_that_is_required() -> None:
    w = world(options={"channel_binding": "required"})
    assert error_of(w.ask(issue(csr()), ticket=w.ticket()))[0] == "FailedAuthentication"
    assert rule(w) == "kerberos.channel-binding"


def test_a_wrong_password_is_counted_and_then_everything_waits() -> None:
    w = world(challenge={"failures_per_minute": 3})
    for word in ("wrong", "", "wrong again"):
        answer = w.ask(issue(csr(), user="bob", word=word))
        assert error_of(answer)[0] == "FailedAuthentication"
    assert error_of(w.ask(issue(csr(), user="bob", word="bob's own word")))[0] == "RequestFailed"
    assert rule(w) == "secret.guessing"


def test_nobody_can_ask_a_filter_something_else() -> None:
    w = world()
    for user in ("*", "bob)(objectClass=*", "\\00", "(|", "x" * 2000):
        answer = w.ask(issue(csr(), user=user, word="bob's own word"))
        assert error_of(answer)[0] in ("FailedAuthentication", "RequestFailed")


@pytest.mark.parametrize(
    ("login", "dns", "expected"),
    [
        ("pc2$", "dc1.corp.test", "directory.dns-name"),
        ("pc2$", "pc2.evil.test", "directory.dns-name"),
        ("pc2$", "pc2.corp.test.", "directory.dns-name"),
        ("pc2$", "*.corp.test", "directory.dns-name"),
    ],
)
def test_a_computer_cannot_take_the_name_of_another(login: str, dns: str, expected: str) -> None:
    """CVE-2022-26923: the owner of an account may write its dNSHostName."""
    w = world()
    w.memory.add(login, control=MACHINE, dNSHostName=dns)
    answer = w.ask(issue(csr()), "machines", ticket=w.ticket(login))
    assert error_of(answer) == ("RequestFailed", 0x80070005, True)
    assert rule(w) == expected


def test_two_accounts_of_one_name_get_nothing() -> None:
    w = world()
    w.memory.add("eve", displayName="Eve", userPrincipalName="bob@corp.test")
    assert error_of(w.ask(issue(csr()), ticket=w.ticket("eve")))[0] == "RequestFailed"
    assert rule(w) == "directory.ambiguous"
    w.memory.change("eve", userPrincipalName="pc1@corp.test")
    assert w.ask(issue(csr()), ticket=w.ticket("eve")).status == 200


def test_a_long_computer_name_is_known_by_what_its_account_keeps_of_it() -> None:
    w = world()
    w.memory.add("a-long-machine-$", control=MACHINE, dNSHostName="a-long-machine-name.corp.test")
    certificate = w.enrolled(csr(), "machines", ticket=w.ticket("a-long-machine-$"))
    assert common_name(certificate) == "a-long-machine-name.corp.test"


def test_only_members_of_a_group_enrol() -> None:
    w = world(people={"groups": ["staff"]})
    assert error_of(w.ask(issue(csr()), ticket=w.ticket()))[0] == "RequestFailed"
    assert rule(w) == "directory.groups"
    w.memory.group("Staff", "bob")
    w.enrolled(csr())


def test_a_machine_gets_no_certificate_of_people() -> None:
    w = world()
    assert error_of(w.ask(issue(csr()), ticket=w.ticket("pc1$")))[0] == "RequestFailed"
    assert rule(w) == "profile.names.upn.required"


def test_a_directory_that_is_away_is_no_refusal() -> None:
    w = world()
    w.memory.is_away = True
    answer = w.ask(issue(csr()), ticket=w.ticket())
    assert error_of(answer) == ("RequestFailed", 0x800706BA, False)
    assert ("Retry-After", "30") in answer.headers


def test_an_endpoint_is_for_its_own_template() -> None:
    w = world()
    name = extension(
        x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"),
        der.tlv(0x1E, "SubCA".encode("utf-16-be")),
    )
    other = extension(TEMPLATE, der.sequence(der.oid("1.2.3.4"), der.integer(1), der.integer(0)))
    for wish in (name, other):
        key = ec.generate_private_key(ec.SECP256R1())
        answer = w.ask(issue(_with(wish, key)), ticket=w.ticket())
        assert error_of(answer) == ("RequestFailed", 0x80094014, True)
        assert rule(w) == "wstep.template"


def _with(wish: Any, key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return (
        builder.add_extension(wish, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def test_requests_can_set_no_sid_and_no_application_policies() -> None:
    """T-AD-01, ESC15: what only the directory or the profile may say."""
    w = world()
    for oid in ("1.3.6.1.4.1.311.25.2", "1.3.6.1.4.1.311.21.10"):
        key = ec.generate_private_key(ec.SECP256R1())
        wish = extension(x509.ObjectIdentifier(oid), der.sequence(der.oid("1.2.3")))
        certificate = w.enrolled(_with(wish, key))
        assert sid_of(certificate) == w.memory.sid("bob")
        assert not [
            e for e in certificate.extensions if e.oid.dotted_string == "1.3.6.1.4.1.311.21.10"
        ]


# -- people of the appliance itself -----------------------------------------------------------


def local(**more: Any) -> World:
    """Return a world whose users are people of the tenant, not of a directory."""
    given: dict[str, Any] = {"directory": "", "profile": "user", "authenticate": ["password"]}
    w = World(**(given | more))
    drive(w.prepare())
    stored = drive(w.objects.get(ADMIN, "default", "profile", "user"))
    plain = stored.document.model_dump(mode="json", exclude_defaults=True)
    drive(
        w.objects.put(
            ADMIN, "default", "profile", "user", {**plain, "via": [*plain["via"], "wstep"]}
        )
    )
    drive(w.accounts.person("alice", "correct horse battery", mail="alice@example.test"))
    return w


def test_people_enrol_with_their_password_under_their_own_name() -> None:
    w = local()
    answer = w.ask(issue(csr("alice"), user="alice", word="correct horse battery"))
    assert common_name(certificate_of(answer)) == "alice"
    answer = w.ask(issue(csr("bob"), user="alice", word="correct horse battery"))
    assert error_of(answer)[0] == "RequestFailed"
    assert rule(w) == "person.names"


def test_tickets_of_a_realm_are_people() -> None:
    w = local(authenticate=["kerberos"], people={"realms": ["CORP.TEST"]})
    w.memory.add("alice")
    answer = w.ask(issue(csr("alice")), ticket=w.ticket("alice", sid=""))
    assert common_name(certificate_of(answer)) == "alice"
    assert error_of(w.ask(issue(csr("bob")), ticket=w.ticket("bob", sid="")))[0] == (
        "FailedAuthentication"
    )
    assert rule(w) == "kerberos.person"
    plain = base64.b64decode(w.ticket("alice").split()[1]).replace(b"CORP", b"EVIL")
    answer = w.ask(issue(csr("alice")), ticket="Negotiate " + base64.b64encode(plain).decode())
    assert rule(w) == "kerberos.realm"
    assert answer.status == 500


# -- renewal ----------------------------------------------------------------------------------


def test_the_old_certificate_renews_with_the_same_and_with_another_key() -> None:
    w = world()
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    old = w.enrolled(csr(key=key))
    for new_key in (key, other):
        answer = w.ask(issue(signed_by(csr("x", key=new_key), old, key)), "users/renewal")
        new = certificate_of(answer)
        assert new.subject == old.subject
        assert new.serial_number != old.serial_number
        assert sid_of(new) == w.memory.sid("bob")
    assert methods(w) == ["kerberos", "certificate", "certificate"]


def test_a_renewal_needs_an_account_that_is_still_there() -> None:
    w = world()
    key = ec.generate_private_key(ec.SECP256R1())
    old = w.enrolled(csr(key=key))
    w.memory.change("bob", userAccountControl=str(PERSON | DISABLED))
    answer = w.ask(issue(signed_by(csr(key=key), old, key)), "users/renewal")
    assert error_of(answer)[0] == "FailedAuthentication"
    assert rule(w) == "directory.disabled"
    del w.memory.entries["bob"]
    w.ask(issue(signed_by(csr(key=key), old, key)), "users/renewal")
    assert rule(w) == "directory.account"


def test_an_account_of_another_name_has_to_show_a_ticket() -> None:
    w = world()
    key = ec.generate_private_key(ec.SECP256R1())
    old = w.enrolled(csr(key=key))
    w.memory.change("bob", displayName="Robert Builder")
    renewal = issue(signed_by(csr(key=key), old, key))
    assert error_of(w.ask(renewal, "users/renewal"))[0] == "RequestFailed"
    assert rule(w) == "renewal.names"
    new = certificate_of(w.ask(issue(csr()), ticket=w.ticket()))
    assert common_name(new) == "Robert Builder"


def test_the_renewal_door_is_for_renewals() -> None:
    w = world()
    assert error_of(w.ask(issue(csr()), "users/renewal"))[0] == "FailedAuthentication"
    assert rule(w) == "renewal.signer"


def test_a_revoked_certificate_renews_nothing() -> None:
    w = world()
    key = ec.generate_private_key(ec.SECP256R1())
    old = w.enrolled(csr(key=key))
    row = w.events("certificate.issued")[-1].object.partition("/")[2]
    drive(w.revocation.revoke_by_id(ADMIN, "default", int(row), 4))
    answer = w.ask(issue(signed_by(csr(key=key), old, key)), "users/renewal")
    assert error_of(answer)[0] == "FailedAuthentication"
    assert rule(w) == "renewal.revoked"


def test_a_certificate_of_another_endpoint_renews_nothing_here() -> None:
    w = world()
    key = ec.generate_private_key(ec.SECP256R1())
    machine = w.enrolled(csr(key=key), "machines", ticket=w.ticket("pc1$"))
    answer = w.ask(issue(signed_by(csr(key=key), machine, key)), "users/renewal")
    assert error_of(answer)[0] == "FailedAuthentication"
    assert rule(w) == "renewal.profile"


def test_a_signature_that_does_not_hold_is_refused() -> None:
    w = world()
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    old = w.enrolled(csr(key=key))
    good = signed_by(csr(key=key), old, key)
    broken = good[:-4] + bytes(4)
    answer = w.ask(issue(broken), "users/renewal")
    assert error_of(answer)[1] == 0x80090006
    stranger = w.enrolled(csr(key=other))
    # The signature is bob's, the TLS connection another's.
    answer = w.ask(issue(good), client=stranger, path="users/renewal")
    assert error_of(answer) == ("InvalidRequest", 0x80090006, True)
    assert rule(w) == "wstep.signer-mismatch"


def test_a_tls_certificate_renews_too() -> None:
    w = world()
    w.change("users", authenticate=["directory"])
    key = ec.generate_private_key(ec.SECP256R1())
    old = certificate_of(w.ask(issue(csr(key=key), user="bob", word="bob's own word")))
    assert certificate_of(w.ask(issue(csr(key=key)), client=old)).subject == old.subject


# -- those that wait --------------------------------------------------------------------------


def test_a_request_that_waits_is_asked_for_by_its_number() -> None:
    w = world(approval="manual")
    answer = w.ask(issue(csr()), ticket=w.ticket())
    assert text(answer, ".//e:DispositionMessage") == "Taken Under Submission"
    number = int(text(answer, NUMBER))
    assert 0 < number < 1 << 31
    reference = tree(answer).find(".//{*}Reference")
    assert reference is not None
    assert reference.get("URI") == "https://ca.example.test:8443/wstep/users"
    # In it there is a CMC answer that says pending.
    status = base64.b64decode(
        text(answer, ".//t:RequestSecurityTokenResponse/o:BinarySecurityToken")
    )
    signed = cms.decode_signed_data(status)
    assert der.dotted(signed.content_type) == "1.3.6.1.5.5.7.12.3"
    [signer] = signed.signers
    assert signed.certificate_of(signer) is not None

    asked = w.ask(query(number), ticket=w.ticket())
    assert text(asked, NUMBER) == str(number)
    [row] = drive(w.requests.list(ADMIN, "default"))
    drive(w.requests.approve(ADMIN, "default", row.id))
    asked = w.ask(query(number), ticket=w.ticket())
    assert text(asked, ".//e:DispositionMessage") == "Issued"
    assert text(asked, NUMBER) == str(number)
    assert sid_of(certificate_of(asked)) == w.memory.sid("bob")


def test_only_who_made_a_request_hears_of_it() -> None:
    w = world(approval="manual")
    w.memory.add("eve", displayName="Eve", userPrincipalName="eve@corp.test")
    number = int(text(w.ask(issue(csr()), ticket=w.ticket()), NUMBER))
    assert error_of(w.ask(query(number), ticket=w.ticket("eve")))[1] == 0x80070490
    assert rule(w) == "request.absent"
    assert error_of(w.ask(query(number + 1), ticket=w.ticket()))[1] == 0x80070490
    assert w.ask(query(number)).status == 401
    # Nor at another endpoint.
    w.change("machines", profile="windows-user")
    assert error_of(w.ask(query(number), "machines", ticket=w.ticket()))[1] == 0x80070490


def test_what_waits_is_issued_by_what_the_directory_says_then() -> None:
    w = world(approval="manual")
    number = int(text(w.ask(issue(csr()), ticket=w.ticket()), NUMBER))
    [row] = drive(w.requests.list(ADMIN, "default"))
    w.memory.change("bob", displayName="Robert Builder")
    drive(w.requests.approve(ADMIN, "default", row.id))
    certificate = certificate_of(w.ask(query(number), ticket=w.ticket()))
    assert common_name(certificate) == "Robert Builder"


def test_what_was_denied_is_denied() -> None:
    w = world(approval="manual")
    number = int(text(w.ask(issue(csr()), ticket=w.ticket()), NUMBER))
    [row] = drive(w.requests.list(ADMIN, "default"))
    drive(w.requests.deny(ADMIN, "default", row.id, comment="no such laptop"))
    answer = w.ask(query(number), ticket=w.ticket())
    assert error_of(answer) == ("RequestFailed", 0x80094014, True)
    assert "no such laptop" in text(answer, ".//s:Reason/s:Text")


# -- messages that are none -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "word", "code"),
    [
        (b"", "InvalidRequest", 0x8007000D),
        (b"<a/>", "InvalidRequest", 0x8007000D),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "InvalidRequest", 0x8007000D),
        (envelope("urn:other", "<x/>"), "InvalidRequest", 0x80070032),
        (issue(b"0\x00"), "InvalidRequest", 0x8007000D),
        (issue(csr(), kind="KET"), "InvalidRequest", 0x80070032),
        (issue(csr(), header='<x xmlns="urn:x" s:mustUnderstand="1"/>'),
         "InvalidRequest", 0x80070032),
        (query("12x"), "InvalidRequest", 0x8007000D),
        (query(1 << 40), "InvalidRequest", 0x8007000D),
    ],
    ids=range(9),  # the same in each process, though keys are not
)  # fmt: skip
def test_what_is_no_request_is_answered_with_a_fault(body: bytes, word: str, code: int) -> None:
    w = world()
    assert error_of(w.ask(body, ticket=w.ticket()))[:2] == (word, code)


def test_a_message_from_another_time_is_refused() -> None:
    w = world()
    utility = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
    for shift, ok in ((0, True), (-20, False), (20, False)):
        created = w.clock() + timedelta(minutes=shift)
        stamp = (
            '<o:Security xmlns:o="http://docs.oasis-open.org/wss/2004/01/'
            f'oasis-200401-wss-wssecurity-secext-1.0.xsd"><u:Timestamp xmlns:u="{utility}">'
            f"<u:Created>{created.isoformat()}</u:Created>"
            f"<u:Expires>{(created + timedelta(minutes=5)).isoformat()}</u:Expires>"
            "</u:Timestamp></o:Security>"
        )
        answer = w.ask(issue(csr(), header=stamp), ticket=w.ticket())
        assert (answer.status == 200) is ok
        if not ok:
            assert error_of(answer)[:2] == ("InvalidTimeRange", 0x80090324)


def test_other_paths_methods_and_types_do_not_exist() -> None:
    w = world()
    assert w.ask(issue(csr()), "users/other").status == 404
    assert w.ask(b"", method="GET").status == 405
    answer = w.ask(issue(csr()), headers={"content-type": "text/xml"})
    assert error_of(answer)[1] == 0x80070032
    assert error_of(w.ask(issue(csr()), "absent"))[1] == 0x80070490


def test_passwords_stand_nowhere() -> None:
    w = world()
    w.ask(issue(csr(), user="bob", word="a secret that nobody repeats"))
    assert "nobody repeats" not in repr(w.events())
