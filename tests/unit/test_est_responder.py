"""EST from HTTP to HTTP, with the whole core behind it (RFC 7030)."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import replace
from datetime import timedelta
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc5652, rfc5958

from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.est_world import (
    WORD,
    Session,
    World,
    body_of,
    certificate_of,
    certificates_of,
    make_csr,
)
from tests.unit.test_enrolment_credentials import Maker
from tmad.ca.approval import Requests
from tmad.errors import Fault, FaultCode
from tmad.identity.binding import Binding
from tmad.storage import changes, issuers, tables
from tmad.wire import der
from tmad.wire.http import Response


@pytest.fixture
def world() -> World:
    return World()


def says(answer: Response, status: int, *words: str) -> None:
    """Check the status and one line of plain text (RFC 7030, 4.2.3)."""
    assert answer.status == status, answer.body
    assert answer.content_type.startswith("text/plain")
    assert answer.body.count(b"\n") == 1
    for word in words:
        assert word in answer.body.decode()


def field(answer: Response, name: str) -> str:
    return dict(answer.headers).get(name, "")


# -- where ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "nothing", "default/nothing", "a/b/cacerts", "cacerts/x"])
def test_what_does_not_exist_is_404(world: World, path: str) -> None:
    says(world.ask(path), 404)


@pytest.mark.parametrize("label", ["other", "DEFAULT", "d%65fault", "..", "%00"])
def test_an_unknown_label_is_404(world: World, label: str) -> None:
    says(world.ask(f"{label}/cacerts"), 404)


@pytest.mark.parametrize(
    ("operation", "method", "allowed"),
    [
        ("cacerts", "POST", "GET"),
        ("csrattrs", "POST", "GET"),
        ("simpleenroll", "GET", "POST"),
        ("simplereenroll", "GET", "POST"),
        ("serverkeygen", "GET", "POST"),
        ("fullcmc", "GET", "POST"),
    ],
)
def test_another_method_is_405(world: World, operation: str, method: str, allowed: str) -> None:
    answer = world.ask(operation, method=method)
    says(answer, 405)
    assert field(answer, "Allow") == allowed


def test_the_label_names_the_endpoint(world: World) -> None:
    drive(world.bench.open("est", "iot"))
    assert world.ask("iot/cacerts").status == 200
    drive(world.bench.open("est", "closed", enabled=False))
    says(world.ask("closed/cacerts"), 404)


# -- cacerts ----------------------------------------------------------------------------------


def test_est_04_the_chain_is_for_everybody(world: World) -> None:
    answer = world.ask("cacerts")
    assert (answer.status, answer.content_type) == (200, "application/pkcs7-mime")
    assert field(answer, "Content-Transfer-Encoding") == "base64"
    issuer = drive(world.bench.hierarchy.active("default", "devices"))
    assert certificates_of(answer.body) == list(issuer.chain)
    assert world.ask("cacerts").body == answer.body


@pytest.mark.parametrize("named", ["user-agent", "accept"])
def test_est_02_lines_for_who_says_its_name_and_one_for_strongswan(
    world: World, named: str
) -> None:
    assert b"\n" not in world.ask("cacerts").body
    lines = world.ask("cacerts", headers={named: "libest 3.2.0"}).body.splitlines()
    assert {len(line) for line in lines[:-1]} == {64}


def test_a_withdrawn_authority_is_not_announced(world: World) -> None:
    issuer = drive(world.bench.hierarchy.active("default", "devices"))

    def withdraw(connection: Any) -> None:
        row = issuers.by_id(connection, issuer.id)
        assert row is not None
        issuers.update(connection, replace(row, compromised_at=world.bench.clock()))
        changes.record(connection, "issuers", "default/devices")

    drive(world.bench.database.write(withdraw))
    answer = world.ask("cacerts")
    says(answer, 503)
    assert int(field(answer, "Retry-After")) > 0


# -- enrolment by password --------------------------------------------------------------------


def test_est_05_the_answer_is_the_certificate_alone(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = world.ask("simpleenroll", body_of(make_csr(key=key)), user="alice")
    assert answer.status == 200
    assert answer.content_type == "application/pkcs7-mime; smime-type=certs-only"
    certificate = certificate_of(answer)
    assert certificate.public_key() == key.public_key()
    issuer = drive(world.bench.hierarchy.active("default", "devices"))
    assert issuer.certificate is not None
    certificate.verify_directly_issued_by(issuer.certificate)


def test_gen_04_the_head_is_short(world: World) -> None:
    """strongSwan wants the whole head within its first 1,024 octets."""
    answer = world.ask("simpleenroll", body_of(make_csr()), user="alice")
    assert sum(len(name) + len(value) + 4 for name, value in answer.headers) < 300


@pytest.mark.parametrize("body", [b"", body_of(make_csr())])
def test_est_10_who_shows_nothing_is_asked_for_a_password(world: World, body: bytes) -> None:
    answer = world.ask("simpleenroll", body, method="POST")
    says(answer, 401)
    assert field(answer, "WWW-Authenticate") == 'Basic realm="estrealm"'
    assert world.bench.events("request.refused") == []


@pytest.mark.parametrize(("user", "word"), [("alice", "wrong"), ("nobody", WORD)])
def test_a_wrong_password_may_be_typed_again(world: World, user: str, word: str) -> None:
    answer = world.ask("simpleenroll", body_of(make_csr()), user=user, word=word)
    says(answer, 401, "login refused")
    assert field(answer, "WWW-Authenticate")
    assert len(world.bench.events("request.refused")) == 1


def test_est_13_the_password_is_right_and_the_name_is_not(world: World) -> None:
    says(world.ask("simpleenroll", body_of(make_csr("bob")), user="alice"), 403, "names")


def test_where_no_password_helps_none_is_asked_for(world: World) -> None:
    world.change(authenticate=["certificate"])
    for answer in (
        world.ask("simpleenroll", body_of(make_csr())),
        world.ask("simpleenroll", body_of(make_csr()), user="alice"),
    ):
        says(answer, 403)
        assert field(answer, "WWW-Authenticate") == ""


def test_a_one_time_secret_enrols_one_device(world: World) -> None:
    world.change(profile="device")
    _, secret = drive(
        world.bench.secrets.create(
            ADMIN, "default", "est/default", bound_to=Binding(subject=("CN=printer-1",))
        )
    )
    word = secret.reveal().decode()
    body = body_of(make_csr("printer-1"))
    first = world.ask("simpleenroll", body, user="x", word=word)
    again = world.ask("simpleenroll", body, user="x", word=word)
    assert first.status == again.status == 200
    assert first.body == again.body
    says(world.ask("simpleenroll", body, user="x", word="another one"), 401)
    other = world.ask("simpleenroll", body_of(make_csr("printer-1")), user="x", word=word)
    says(other, 401)


def test_a_secret_may_stand_in_the_request(world: World) -> None:
    world.change(profile="device")
    _, secret = drive(world.bench.secrets.create(ADMIN, "default", "est/default"))
    inside = (("1.2.840.113549.1.9.7", secret.reveal()),)
    assert world.ask("simpleenroll", body_of(make_csr("r1", attributes=inside))).status == 200
    wrong = (("1.2.840.113549.1.9.7", b"WRONGWRONGWRONGWRONG"),)
    says(world.ask("simpleenroll", body_of(make_csr("r2", attributes=wrong))), 401)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, body_of(make_csr()), 415),
        ({"content-type": "text/plain"}, body_of(make_csr()), 415),
        ({"content-type": "application/pkcs10"}, b"nonsense", 400),
        ({"content-type": "application/pkcs10"}, body_of(make_csr())[:-8], 400),
        ({"content-type": "application/pkcs10", "authorization": "Digest x"}, b"x", 400),
    ],
)
def test_5_6_bad_requests(world: World, headers: dict[str, str], body: bytes, status: int) -> None:
    given = {"authorization": "Basic YTpi", **headers}
    says(world.ask("simpleenroll", body, headers=given), status)


def test_5_6_weak_and_used_keys_are_400(world: World) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    says(world.ask("simpleenroll", body_of(make_csr(key=weak)), user="alice"), 400)
    drive(world.bench.accounts.person("bob", WORD))
    key = ec.generate_private_key(ec.SECP256R1())
    world.enrolled(body_of(make_csr(key=key)))
    answer = world.ask("simpleenroll", body_of(make_csr("bob", key=key)), user="bob")
    says(answer, 400, "certified already")


def test_guessing_is_429(world: World) -> None:
    world.change(challenge={"failures_per_minute": 1})
    world.ask("simpleenroll", body_of(make_csr()), user="alice", word="wrong")
    answer = world.ask("simpleenroll", body_of(make_csr()), user="alice")
    says(answer, 429)
    assert int(field(answer, "Retry-After")) > 0


def test_an_hsm_that_is_away_is_503(world: World) -> None:
    class Away:
        async def use(self, *arguments: Any) -> Any:
            raise Fault(FaultCode.UNAVAILABLE, "the HSM is away")

    world.bench.authority._issuing._keyring = Away()  # type: ignore[assignment]
    answer = world.ask("simpleenroll", body_of(make_csr()), user="alice")
    says(answer, 503, "the HSM is away")
    assert field(answer, "Retry-After") == "10"


# -- waiting ----------------------------------------------------------------------------------


def approve(world: World) -> Any:
    b = world.bench
    requests = Requests(
        database=b.database, journal=b.journal, authority=b.authority, secrets=b.secrets,
        now=b.clock,
    )  # fmt: skip
    (row,) = drive(requests.list(ADMIN, "default"))
    return requests, row


def test_est_23_24_who_waits_asks_again_with_the_same_request(world: World) -> None:
    world.change(approval="manual", options={"retry_after": 90})
    body = body_of(make_csr())
    answer = world.ask("simpleenroll", body, user="alice")
    says(answer, 202)
    assert field(answer, "Retry-After") == "90"
    says(world.ask("simpleenroll", body, user="alice", word="wrong"), 401)
    requests, row = approve(world)
    drive(requests.approve(ADMIN, "default", row.id))
    certificate = world.enrolled(body)
    assert world.enrolled(body) == certificate


def test_a_denied_request_is_told_why(world: World) -> None:
    world.change(approval="manual")
    body = body_of(make_csr())
    world.ask("simpleenroll", body, user="alice")
    requests, row = approve(world)
    drive(requests.deny(ADMIN, "default", row.id, comment="ask your manager"))
    says(world.ask("simpleenroll", body, user="alice"), 400, "ask your manager")


def test_manual_takes_anybody_and_waits(world: World) -> None:
    world.change(authenticate=["manual"], profile="device")
    body = body_of(make_csr("r1"))
    says(world.ask("simpleenroll", body), 202)
    requests, row = approve(world)
    drive(requests.approve(ADMIN, "default", row.id))
    assert world.ask("simpleenroll", body).status == 200


# -- linking ----------------------------------------------------------------------------------

LINKING = "1.2.840.113549.1.9.16.2.58"


def linked(binding: bytes, oid: str = LINKING) -> bytes:
    return body_of(make_csr(attributes=((oid, base64.b64encode(binding)),)))


def test_est_14_a_request_from_another_session_is_refused(world: World) -> None:
    session = Session(bindings=(b"client finis", b"server finis"))
    for oid in (LINKING, "1.2.840.113549.1.9.7"):
        body = linked(b"client finis", oid)
        answer = world.ask("simpleenroll", body, user="alice", session=session)
        assert answer.status == 200, answer.body
        stolen = linked(b"other sessio", oid)
        says(world.ask("simpleenroll", stolen, user="alice", session=session), 400, "session")


def test_est_14_linking_can_be_required_and_switched_off(world: World) -> None:
    world.change(options={"linking": "required"})
    says(world.ask("simpleenroll", body_of(make_csr()), user="alice"), 400, "tls-unique")
    world.change(options={"linking": "off"})
    assert world.ask("simpleenroll", linked(b"other sessio"), user="alice").status == 200


def test_est_23_a_poll_over_another_connection_is_the_same_request(world: World) -> None:
    world.change(approval="manual")
    body = linked(b"client finis")
    first = Session(bindings=(b"client finis",))
    says(world.ask("simpleenroll", body, user="alice", session=first), 202)
    requests, row = approve(world)
    drive(requests.approve(ADMIN, "default", row.id))
    second = Session(bindings=(b"of now......",))
    assert world.ask("simpleenroll", body, user="alice", session=second).status == 200


# -- client certificates ----------------------------------------------------------------------


def test_a_certificate_is_renewed_and_rekeyed_with_itself(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = world.enrolled(body_of(make_csr(key=key)))
    renewed = world.ask("simplereenroll", body_of(make_csr(key=key)), client=first)
    assert certificate_of(renewed).public_key() == first.public_key()
    rekeyed = world.ask("simplereenroll", body_of(make_csr()), client=first)
    assert certificate_of(rekeyed).public_key() != first.public_key()


def test_est_21_a_renewal_keeps_its_names(world: World) -> None:
    first = world.enrolled(body_of(make_csr()))
    says(world.ask("simplereenroll", body_of(make_csr("bob")), client=first), 400, "names")
    wish = make_csr(attributes=(("1.3.6.1.5.5.7.7.36", b"x"),))
    says(world.ask("simplereenroll", body_of(wish), client=first), 400, "ChangeSubjectName")


def test_est_13_a_certificate_of_ours_is_no_right_to_other_names(world: World) -> None:
    first = world.enrolled(body_of(make_csr()))
    says(world.ask("simpleenroll", body_of(make_csr("bob")), client=first), 400, "names")


def test_est_11_12_a_revoked_certificate_gets_a_readable_403(world: World) -> None:
    """CVE-2020-25276: a peer did not ask for the status of the client's certificate."""
    first = world.enrolled(body_of(make_csr()))
    issuer = drive(world.bench.hierarchy.active("default", "devices"))
    drive(world.bench.revocation.revoke(ADMIN, "default", issuer.id, first.serial_number, 1))
    answer = world.ask("simplereenroll", body_of(make_csr()), client=first)
    says(answer, 403, "not good")
    assert field(answer, "WWW-Authenticate") == ""


def test_est_11_an_expired_certificate_gets_a_readable_403(world: World) -> None:
    first = world.enrolled(body_of(make_csr()))
    world.bench.clock.advance(days=800)
    says(world.ask("simplereenroll", body_of(make_csr()), client=first), 403, "not valid now")


def test_a_strangers_certificate_gets_403(world: World) -> None:
    stranger = Maker(world.bench).device()
    for operation in ("simpleenroll", "simplereenroll"):
        says(world.ask(operation, body_of(make_csr()), client=stranger), 403, "not issued here")


def test_a_password_helps_beside_a_certificate_that_does_not(world: World) -> None:
    stranger = Maker(world.bench).device()
    body = body_of(make_csr())
    assert world.ask("simpleenroll", body, client=stranger, user="alice").status == 200
    says(world.ask("simpleenroll", body, client=stranger, user="alice", word="no"), 401)


def test_no_certificate_renews_nothing(world: World) -> None:
    says(world.ask("simplereenroll", body_of(make_csr())), 401)
    says(world.ask("simplereenroll", body_of(make_csr()), user="alice"), 401, "no certificate")
    world.enrolled(body_of(make_csr()))
    renewed = world.ask("simplereenroll", body_of(make_csr()), user="alice")
    assert renewed.status == 200


def test_a_device_comes_with_its_makers_certificate(world: World) -> None:
    maker = Maker(world.bench)
    maker.anchor(revocation="off")
    world.change(authenticate=["manufacturer"], manufacturers=["maker"], profile="device")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "r1"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "SN-0001"),
        ]
    )
    body = body_of(make_csr(subject=subject))
    first = world.enrolled(body, client=maker.device())
    assert certificate_of(
        world.ask("simplereenroll", body_of(make_csr(subject=subject)), client=first)
    )
    says(world.ask("simplereenroll", body, client=maker.device()), 403)
    says(world.ask("simpleenroll", body_of(make_csr("r1")), client=maker.device()), 403, "serial")


@pytest.mark.parametrize("octets", [b"", b"\x30\x00", b"nonsense"])
def test_an_unreadable_client_certificate_is_403(world: World, octets: bytes) -> None:
    session = Session(certificates=(octets,))
    says(world.ask("simpleenroll", body_of(make_csr()), session=session), 403, "cannot be read")


# -- keys made here ---------------------------------------------------------------------------


def parts_of(answer: Response) -> tuple[Any, Any]:
    head = f"Content-Type: {answer.content_type}\r\n\r\n".encode()
    parts: Any = BytesParser().parsebytes(head + answer.body).get_payload()
    one, two = parts
    return one, two


def test_est_32_keys_are_made_only_where_it_says_so(world: World) -> None:
    says(world.ask("serverkeygen", body_of(make_csr()), user="alice"), 404)


def test_est_30_a_key_and_its_certificate(world: World) -> None:
    world.change(server_keys=True)
    template = make_csr(key=rsa.generate_private_key(65537, 2048))
    broken = template[:-1] + bytes((template[-1] ^ 1,))
    answer = world.ask("serverkeygen", body_of(broken), user="alice")
    assert answer.status == 200, answer.body
    assert field(answer, "Cache-Control") == "no-store"
    one, two = parts_of(answer)
    key = load_der_private_key(one.get_payload(decode=True), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    (certificate,) = certificates_of(two.get_payload().encode())
    assert certificate.public_key() == key.public_key()
    again = world.ask("serverkeygen", body_of(broken), user="alice")
    assert again.body != answer.body


def test_no_key_without_a_password(world: World) -> None:
    world.change(server_keys=True)
    says(world.ask("serverkeygen", body_of(make_csr())), 401)
    says(world.ask("serverkeygen", body_of(make_csr()), user="alice", word="x"), 401)
    says(world.ask("serverkeygen", body_of(make_csr("bob")), user="alice"), 403)


def test_est_32_the_cipher_is_as_strong_as_the_key(world: World) -> None:
    world.change(server_keys=True)
    strong = make_csr(key=ec.generate_private_key(ec.SECP384R1()))
    weak = Session(strength=128)
    answer = world.ask("serverkeygen", body_of(strong), user="alice", session=weak)
    says(answer, 400, "cipher")


def with_recipient(csr_der: bytes, identifier: bytes) -> bytes:
    outer = der.read(csr_der, der.SEQUENCE)
    info = outer.enter(der.SEQUENCE)
    kept = [info.raw() for _ in range(3)]
    wish = der.sequence(
        der.oid("1.2.840.113549.1.9.16.2.54"), der.tlv(der.SET, der.octets(identifier))
    )
    return der.sequence(der.sequence(*kept, der.explicit(0, wish)), outer.rest())


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_est_31_a_key_is_encrypted_to_the_clients_own(
    world: World, kind: str, tmp_path: Path
) -> None:
    world.change(server_keys=True)
    own: Any = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    client = world.enrolled(body_of(make_csr(key=own)))
    known = client.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    body = body_of(with_recipient(make_csr(), known))
    answer = world.ask("serverkeygen", body, client=client)
    assert answer.status == 200, answer.body
    one, two = parts_of(answer)
    assert one.get_param("smime-type") == "server-generated-key"
    (tmp_path / "key.pem").write_bytes(
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "cert.pem").write_bytes(client.public_bytes(Encoding.PEM))
    done = subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary", "-recip", "cert.pem",
         "-inkey", "key.pem"],
        input=one.get_payload(decode=True), capture_output=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    signed, _ = decode(done.stdout, asn1Spec=rfc5652.SignedData())
    package, _ = decode(
        bytes(signed["encapContentInfo"]["eContent"]), asn1Spec=rfc5958.AsymmetricKeyPackage()
    )
    assert len(package) == 1
    (certificate,) = certificates_of(two.get_payload().encode())
    inside = der.read(bytes(signed["encapContentInfo"]["eContent"]), der.SEQUENCE).raw()
    found: Any = load_der_private_key(inside, None)
    assert found.public_key() == certificate.public_key()


def test_est_31_a_key_to_nobody_is_not_made(world: World) -> None:
    world.change(server_keys=True)
    client = world.enrolled(body_of(make_csr()))
    body = body_of(with_recipient(make_csr(), b"k" * 20))
    says(world.ask("serverkeygen", body, client=client), 400, "another key")
    says(world.ask("serverkeygen", body, user="alice"), 400, "no certificate")
    assert world.bench.events("key.generated") == []


# -- the rest ---------------------------------------------------------------------------------


def test_est_43_csrattrs_can_be_switched_off(world: World) -> None:
    answer = world.ask("csrattrs")
    assert (answer.status, answer.content_type) == (200, "application/csrattrs")
    world.change(options={"csr_attributes": False})
    assert world.ask("csrattrs").status == 204


def test_csrattrs_follow_the_profile(world: World) -> None:
    before = world.ask("csrattrs").body
    world.change(options={"key": "p384"})
    after = base64.b64decode(world.ask("csrattrs").body)
    assert der.oid("1.3.132.0.34") in after
    assert after != base64.b64decode(before)


def test_fullcmc_is_refused_in_words(world: World) -> None:
    answer = world.ask("fullcmc", b"x", user="alice")
    says(answer, 501, "simpleenroll")


def test_a_refusal_can_be_explained(world: World) -> None:
    answer = world.ask("simpleenroll", b"nonsense!", user="alice")
    identifier = answer.body.decode().rpartition("[")[2].rstrip("]\n")
    (record,) = drive(world.bench.journal.explain(identifier))
    assert '"est.base64"' in record.data


def test_another_tenants_certificates_renew_nothing_here(world: World) -> None:
    first = world.enrolled(body_of(make_csr()))
    b = world.bench
    drive(b.objects.put(ADMIN, "*", "tenant", "other", {}))

    def move(connection: Any) -> None:
        connection.execute(tables.certificates.update().values(tenant="other"))

    drive(b.database.write(move))
    says(world.ask("simplereenroll", body_of(make_csr()), client=first), 403, "not issued here")


def test_renewal_opens_when_the_endpoint_says_so(world: World) -> None:
    world.change(renewal={"window_days": 30})
    first = world.enrolled(body_of(make_csr()))
    says(world.ask("simplereenroll", body_of(make_csr()), client=first), 400, "too early")
    left = first.not_valid_after_utc - world.bench.clock()
    world.bench.clock.time += left - timedelta(days=10)
    assert world.ask("simplereenroll", body_of(make_csr()), client=first).status == 200
