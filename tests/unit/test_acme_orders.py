"""ACME orders: names, challenges, requests, certificates; and everything that must not be had."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.support import drive
from tests.unit.acme_world import (
    BASE,
    Answer,
    Client,
    World,
    approvals,
    b64,
    fixtures,
    make_csr,
    make_csr_of,
    ready,
    sign,
    thumbprint,
)
from tests.unit.ca_bench import ADMIN
from tests.unit.scep_core import make_certificate
from tmad.ca.acme import certid
from tmad.ca.acme.validating import AT_ONCE, LEASE
from tmad.ca.requests import DomainControl, EndpointID, EnrollmentRequest, Issued, Proof
from tmad.ca.status import Reason
from tmad.ca.validation.contract import Problem
from tmad.errors import Fault, FaultCode
from tmad.storage import certificates
from tmad.storage.tables import acme_authorizations

world, client, shared = fixtures()


def set_authorization(world: World, url: str, **values: Any) -> None:
    """Change a row as time or another worker would."""

    def change(connection: Any) -> None:
        table = acme_authorizations
        done = connection.execute(
            table.update().where(table.c.id == url.rsplit("/")[-1]).values(**values)
        )
        assert done.rowcount == 1

    drive(world.bench.database.write(change))


def row_of(world: World, certificate: x509.Certificate) -> Any:
    digest = certificate.fingerprint(hashes.SHA256())
    return drive(world.bench.database.read(certificates.by_sha256, "default", digest))


# -- the whole way --------------------------------------------------------------------------------


def test_the_whole_way(world: World, client: Client) -> None:
    order = client.order("b.example.test", "a.example.test", "B.example.test", "192.0.2.1")
    assert (order.status, order.body["status"]) == (201, "pending")
    assert [each["value"] for each in order.body["identifiers"]] == [
        "a.example.test", "b.example.test", "192.0.2.1",
    ]  # fmt: skip
    assert order.body["expires"].endswith("Z") and "." not in order.body["expires"]  # noqa: PT018
    for url in order.body["authorizations"]:
        found = client.post(url)
        assert found.body["status"] == "pending"
        assert {each["status"] for each in found.body["challenges"]} == {"pending"}
        chosen = found.body["challenges"][0]
        assert client.post(chosen["url"]).body == chosen  # POST-as-GET starts nothing
        begun = client.post(chosen["url"], {})
        assert begun.body["status"] == "processing"
        assert f'<{url}>;rel="up"' in begun.links
        assert begun.headers["Retry-After"] == "3"
        assert client.post(chosen["url"], {}).body["status"] == "processing"
    world.work()
    (question, *_) = world.judge.asked
    assert question.key_authorization == f"{question.token}.{b64(thumbprint(client.key))}"
    assert question.account_url == client.kid
    url = order.headers["Location"]
    assert client.post(url).body["status"] == "ready"
    done = client.finalize(order)
    assert (done.status, done.body["status"]) == (200, "valid")
    assert done.headers["Location"] == url  # ACME-36
    assert client.post(url).body == done.body
    answer = client.post(done.body["certificate"])
    assert answer.type == "application/pem-certificate-chain"
    leaf, *above = x509.load_pem_x509_certificates(answer.raw)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"a.example.test", "b.example.test"}
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]
    assert answer.raw.endswith(b"-----END CERTIFICATE-----\n")
    assert b"\n\n" not in answer.raw
    leaf.verify_directly_issued_by(above[0])
    assert client.finalize(order).problem == "orderNotReady"


def test_names_once_shown_are_good_again(client: Client) -> None:
    ready(client, "a.example.test")
    assert client.order("a.example.test").body["status"] == "ready"
    assert client.order("a.example.test", "b.example.test").body["status"] == "pending"
    assert client.order("*.a.example.test").body["status"] == "pending"


def test_a_certificate_comes_in_der_too(world: World, client: Client) -> None:
    done = client.finalize(ready(client, "a.example.test"))
    headers = {"content-type": "application/jose+json", "accept": "application/pkix-cert"}
    url = done.body["certificate"]
    answer = world.send(url, sign(client.key, client.header(url), ""), headers=headers)
    assert x509.load_der_x509_certificate(answer.raw)
    assert any('rel="up"' in link for link in answer.links)


def test_another_chain_is_offered(world: World, client: Client) -> None:
    b = world.bench
    (issuer,) = drive(b.hierarchy.generations("default", "devices"))
    assert issuer.certificate is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(issuer.certificate.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Elsewhere")]))
        .public_key(issuer.public_key)
        .serial_number(7)
        .not_valid_before(b.clock())
        .not_valid_after(b.clock() + timedelta(days=9))
    )
    cross = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    world.change(options={"alternate_chains": [cross.public_bytes(Encoding.PEM).decode()]})
    done = client.finalize(ready(client, "a.example.test"))
    first = client.post(done.body["certificate"])
    (link,) = [each for each in first.links if "alternate" in each]
    other = client.post(link[1 : link.index(">")])
    assert x509.load_pem_x509_certificates(other.raw)[1:] == [cross]
    assert client.post(done.body["certificate"] + "/2").status == 404
    assert client.post(done.body["certificate"] + "/x").status == 404


def test_a_wildcard_needs_dns(world: World, client: Client) -> None:
    """T-ACME-10."""
    order = client.order("*.example.test")
    found = client.post(order.body["authorizations"][0]).body
    assert found["identifier"] == {"type": "dns", "value": "example.test"}
    assert found["wildcard"] is True
    assert [each["type"] for each in found["challenges"]] == ["dns-01"]
    client.prove(order, "dns-01")
    assert client.finalize(order).body["status"] == "valid"
    world.change(options={"challenges": ["http-01"]})
    assert client.order("*.b.example.test").problem == "rejectedIdentifier"
    # A good wildcard is none for the name itself, nor the other way round.
    assert client.order("example.test").body["status"] == "pending"


def test_an_address_has_no_dns(client: Client) -> None:
    order = client.order("192.0.2.1", "2001:db8::1")
    for url in order.body["authorizations"]:
        kinds = [each["type"] for each in client.post(url).body["challenges"]]
        assert kinds == ["http-01", "tls-alpn-01"]


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("dns", "", "malformed"),
        ("dns", "a.test.", "malformed"),
        ("dns", "a.test:80", "malformed"),
        ("dns", "192.0.2.1", "malformed"),
        ("dns", "bücher.test", "malformed"),
        ("dns", "a.*.test", "malformed"),
        ("dns", "*.*.test", "malformed"),
        ("dns", "*a.test", "malformed"),
        ("dns", "a..test", "malformed"),
        ("dns", "a" * 64 + ".test", "malformed"),
        ("dns", "a_b.test", "rejectedIdentifier"),
        ("ip", "192.0.2.01", "malformed"),
        ("ip", "2001:DB8::1", "malformed"),
        ("ip", "[2001:db8::1]", "malformed"),
        ("ip", "2001:db8::1%eth0", "malformed"),
        ("ip", "a.test", "malformed"),
        ("email", "a@b.test", "unsupportedIdentifier"),
        ("permanent-identifier", "SN 1", "malformed"),
        ("permanent-identifier", "SN1", "rejectedIdentifier"),
    ],
)
def test_identifiers_that_are_refused(shared: Client, kind: str, value: str, word: str) -> None:
    answer = shared.post("new-order", {"identifiers": [{"type": kind, "value": value}]})
    assert answer.problem == word


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"identifiers": []},
        {"identifiers": "a.test"},
        {"identifiers": ["a.test"]},
        {"identifiers": [{"type": "dns"}]},
        {"identifiers": [{"type": "dns", "value": f"a{n}.test"} for n in range(101)]},
        {
            "identifiers": [{"type": "dns", "value": "a.test"}],
            "notAfter": "0001-01-01T00:00:00+09:00",
        },
        {"identifiers": [{"type": "dns", "value": "a.test"}], "profile": 7},
    ],
)
def test_orders_that_make_no_sense(shared: Client, payload: dict[str, Any]) -> None:
    assert shared.post("new-order", payload).problem == "malformed"


# -- requests -------------------------------------------------------------------------------------


def test_the_request_must_be_for_the_order(client: Client) -> None:
    order = ready(client, "a.example.test", "b.example.test")
    both = ("a.example.test", "b.example.test")
    dns = [x509.DNSName(name) for name in both]
    for request in (
        make_csr("a.example.test"),
        make_csr(*both, "c.example.test"),
        make_csr(*both, "192.0.2.1"),
        make_csr("c.example.test"),
        make_csr(*both, common="c.example.test"),
        make_csr_of([*dns, x509.RFC822Name("a@example.test")]),
        make_csr_of([*dns, x509.UniformResourceIdentifier("https://a.example.test/")]),
        make_csr_of([*dns, x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]),
        make_csr_of([*dns, x509.DirectoryName(x509.Name([]))]),
        make_csr_of([*dns, x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\1a")]),
        make_csr(*both, key=client.key),
        make_csr(*both, key=rsa.generate_private_key(65537, 1024)),
        make_csr(*both)[:-1] + b"\0",
        b"\x30\0",
        b"nothing",
    ):
        answer = client.finalize(order, request)
        assert (answer.status, answer.problem) == (400, "badCSR")
        # ACME-35: a failure leaves the order ready.
        assert client.post(order.headers["Location"]).body["status"] == "ready"
    assert client.post(order.body["finalize"], {"csr": "é"}).problem == "badCSR"
    assert client.post(order.body["finalize"], {}).problem == "badCSR"
    upper = make_csr("A.example.test", "b.example.test", common="b.Example.test")
    assert client.finalize(order, upper).body["status"] == "valid"


def test_what_nobody_has_shown_is_left_out_of_the_subject(client: Client) -> None:
    order = ready(client, "a.example.test")
    request = make_csr("a.example.test", common="a.example.test", organization="Somebody Else")
    done = client.finalize(order, request)
    leaf = x509.load_pem_x509_certificates(client.post(done.body["certificate"]).raw)[0]
    assert leaf.subject.rfc4514_string() == "CN=a.example.test"


def test_the_names_in_the_common_name_alone_will_do(client: Client) -> None:
    order = ready(client, "a.example.test")
    done = client.finalize(order, make_csr(common="a.example.test"))
    assert done.body["status"] == "valid"


def test_the_profile_has_the_last_word(world: World, client: Client) -> None:
    """T-ACME-06: the profile's rules hold, whatever was shown."""
    drive(
        world.bench.objects.put(
            ADMIN, "default", "profile", "inside",
            {"via": ["acme"], "subject": {"allow_empty": True},
             "names": {"dns": {"patterns": ["*.inside.test"]}}},
        )
    )  # fmt: skip
    world.change(profile="inside")
    answer = client.finalize(ready(client, "a.example.test"))
    assert (answer.status, answer.problem) == (400, "rejectedIdentifier")
    assert "[" in answer.body["detail"]  # the explain id
    done = client.finalize(ready(client, "a.inside.test"))
    assert done.body["status"] == "valid"


@pytest.mark.parametrize("bad", ["pending", "invalid", "deactivated", "expired", "gone"])
@pytest.mark.parametrize("count", [2, 5])
def test_every_name_counts(world: World, client: Client, bad: str, count: int) -> None:
    """T-ACME-01: one of N names that is not authorised, at each place."""
    names = [f"n{number}.example.test" for number in range(count)]
    order = ready(client, *names)
    for url in order.body["authorizations"]:
        found = drive(
            world.acme.orders.authorization(
                drive(world.bench.endpoints.by_id(EndpointID("acme", "default"))),
                client.kid.rsplit("/")[-1],
                url.rsplit("/")[-1],
            )
        )
        if bad == "expired":
            set_authorization(world, url, expires_at=world.bench.clock())
        elif bad == "gone":
            set_authorization(world, url, account="nobody")
        else:
            set_authorization(world, url, state=bad)
        assert client.finalize(order).problem == "orderNotReady"
        with pytest.raises(Fault) as raised:
            drive(world.bench.authority.enroll(enrollment(client, order, names)))
        assert raised.value.rule == "acme.order.state"
        set_authorization(
            world, url, state="valid", expires_at=found.expires_at, account=found.account
        )
    assert client.finalize(order).body["status"] == "valid"


def enrollment(
    client: Client, order: Answer, names: list[str], *, account: str = "", key: Any = None
) -> EnrollmentRequest:
    """Return what a responder that checks nothing would hand to the core."""
    order_id = order.headers["Location"].rsplit("/")[-1]
    key = key or ec.generate_private_key(ec.SECP256R1())
    return EnrollmentRequest(
        via="acme",
        endpoint=EndpointID("acme", client.label),
        public_key=key.public_key(),
        subject=x509.Name([]),
        names=tuple(x509.DNSName(name) for name in names),
        proof=Proof.CSR_SIGNATURE,
        credential=DomainControl(account=account or client.kid.rsplit("/")[-1], order=order_id),
        transaction=order_id,
    )


def test_the_core_binds_the_names_to_the_order(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    enroll = world.bench.authority.enroll
    other = Client(world).register()
    for names, account, rule in (
        (["b.example.test"], "", "acme.names"),
        (["a.example.test", "b.example.test"], "", "acme.names"),
        ([], "", "acme.names"),
        (["a.example.test"], other.kid.rsplit("/")[-1], "acme.order.state"),
        (["a.example.test"], "nobody", "acme.account.absent"),
    ):
        with pytest.raises(Fault) as raised:
            drive(enroll(enrollment(client, order, names, account=account)))
        assert raised.value.rule == rule
        assert raised.value.explain_id
    request = enrollment(client, order, ["a.example.test"], key=client.key)
    with pytest.raises(Fault) as raised:
        drive(enroll(request))
    assert raised.value.rule == "acme.account-key"
    assert isinstance(drive(enroll(enrollment(client, order, ["a.example.test"]))), Issued)
    with pytest.raises(Fault) as raised:
        drive(enroll(enrollment(client, order, ["a.example.test"])))
    assert raised.value.rule == "acme.order.used"


def test_an_order_is_no_credential_elsewhere(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    drive(world.bench.open("est", "default", authenticate=["challenge"], profile="tls-server"))
    request = replace(
        enrollment(client, order, ["a.example.test"]), via="est",
        endpoint=EndpointID("est", "default"),
    )  # fmt: skip
    with pytest.raises(Fault) as raised:
        drive(world.bench.authority.enroll(request))
    assert raised.value.rule == "credential.kind"


def test_what_changes_while_it_is_issued_counts(world: World, client: Client) -> None:
    """T-ACME-01, -08: looked at again in the transaction that issues."""
    order = ready(client, "a.example.test")
    url = order.body["authorizations"][0]
    ordering: Any = world.bench.authority._ordering
    before = ordering.for_request

    def late(*arguments: Any) -> Any:
        made = before(*arguments)
        set_authorization(world, url, state="deactivated")
        return made

    ordering.for_request = late
    answer = client.finalize(order)
    assert (answer.status, answer.problem) == (403, "orderNotReady")


def test_two_requests_get_one_certificate(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    request = make_csr("a.example.test")
    assert client.finalize(order, request).body["status"] == "valid"
    assert client.finalize(order, request).problem == "orderNotReady"
    assert client.finalize(order).problem == "orderNotReady"


def test_a_failure_of_ours_leaves_the_order_ready(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    keyring: Any = world.bench.keyring
    use = keyring.use

    async def fail(*arguments: Any) -> Any:
        raise outage()

    keyring.use = fail
    assert client.finalize(order).status == 503
    keyring.use = use
    assert client.post(order.headers["Location"]).body["status"] == "ready"
    assert client.finalize(order).body["status"] == "valid"


def outage() -> Fault:
    return Fault(FaultCode.UNAVAILABLE, "the token is away", rule="signer.unavailable")


# -- approval -------------------------------------------------------------------------------------


def test_somebody_approves(world: World, client: Client) -> None:
    world.change(approval="manual")
    order = ready(client, "a.example.test")
    waiting = client.finalize(order)
    assert (waiting.status, waiting.body["status"]) == (200, "processing")
    assert waiting.headers["Retry-After"]
    assert client.finalize(order).problem == "orderNotReady"
    desk = approvals(world)
    (request,) = drive(desk.list(ADMIN, "default", state="pending"))
    assert request.applicant == f"acme:{client.kid.rsplit('/')[-1]}"
    world.bench.clock.advance(days=10)  # the order itself has expired meanwhile
    drive(desk.approve(ADMIN, "default", request.id))
    done = client.post(order.headers["Location"])
    assert done.body["status"] == "valid"
    assert client.post(done.body["certificate"]).status == 200


def test_somebody_denies(world: World, client: Client) -> None:
    world.change(approval="manual")
    order = ready(client, "a.example.test")
    client.finalize(order)
    desk = approvals(world)
    (request,) = drive(desk.list(ADMIN, "default", state="pending"))
    drive(desk.deny(ADMIN, "default", request.id, comment="not this one"))
    found = client.post(order.headers["Location"]).body
    assert found["status"] == "invalid"
    assert found["error"]["detail"] == "not this one"


def test_an_approval_comes_too_late_for_a_closed_account(world: World, client: Client) -> None:
    world.change(approval="manual")
    client.finalize(ready(client, "a.example.test"))
    client.post(client.kid, {"status": "deactivated"})
    desk = approvals(world)
    (request,) = drive(desk.list(ADMIN, "default", state="pending"))
    with pytest.raises(Fault) as raised:
        drive(desk.approve(ADMIN, "default", request.id))
    assert raised.value.rule == "acme.account.state"


# -- authorisations and challenges ----------------------------------------------------------------


def test_others_things_are_not_there(world: World, client: Client) -> None:
    """T-ACME-09: every address of A with B's key."""
    order = ready(client, "a.example.test")
    done = client.finalize(order)
    authorization = order.body["authorizations"][0]
    other = Client(world).register()
    for url in (
        order.headers["Location"], authorization, done.body["certificate"],
        client.post(authorization).body["challenges"][0]["url"],
    ):  # fmt: skip
        assert other.post(url).status == 404
        assert client.post(url).status == 200
    assert other.post(authorization, {"status": "deactivated"}).status == 404
    assert other.finalize(order, make_csr("a.example.test")).status == 404
    assert other.post(f"{authorization.replace('authz', 'challenge')}/http-01", {}).status == 404


def test_a_failed_challenge_ends_the_order(world: World, client: Client) -> None:
    world.judge.good = set()
    order = client.order("a.example.test")
    client.prove(order)
    found = client.post(order.body["authorizations"][0]).body
    assert found["challenges"][0]["status"] == "processing"
    assert found["challenges"][0]["error"]["type"].endswith(":unauthorized")
    world.work(2)
    assert len(world.judge.asked) == 3  # ACME-45
    found = client.post(order.body["authorizations"][0]).body
    assert found["status"] == "invalid"
    (challenge,) = found["challenges"]
    assert challenge["status"] == "invalid"
    assert challenge["error"]["type"].endswith(":unauthorized")
    assert "[" in challenge["error"]["detail"]
    ended = client.post(order.headers["Location"]).body
    assert ended["status"] == "invalid"
    assert ended["error"]["type"].endswith(":unauthorized")
    assert client.finalize(order).problem == "orderNotReady"


def test_a_second_attempt_may_succeed(world: World, client: Client) -> None:
    world.judge.good = set()
    order = client.order("a.example.test")
    client.prove(order)
    world.judge.good = {"a.example.test"}
    world.work()
    assert client.post(order.headers["Location"]).body["status"] == "ready"


def test_some_failures_are_final(world: World, client: Client) -> None:
    world.judge.good, world.judge.problem = set(), Problem.CAA
    order = client.order("a.example.test")
    client.prove(order)
    assert len(world.judge.asked) == 1
    error = client.post(order.headers["Location"]).body["error"]
    assert (error["type"].rsplit(":")[-1], error["status"]) == ("caa", 403)


def test_caa_is_looked_at_again(world: World, client: Client) -> None:
    world.change(options={"validation": {"caa_identities": ["ca.example.test"]}})
    ready(client, "a.example.test")
    world.judge.forbidden = {"a.example.test"}
    order = client.order("a.example.test")
    assert client.finalize(order).body["status"] == "valid"  # asked a moment ago
    world.bench.clock.advance(hours=9)
    order = client.order("a.example.test")
    assert (client.finalize(order).status, client.finalize(order).problem) == (403, "caa")
    world.judge.forbidden = set()
    assert client.finalize(order).body["status"] == "valid"


def test_another_worker_takes_over(world: World, client: Client) -> None:
    order = client.order("a.example.test")
    found = client.post(order.body["authorizations"][0]).body
    client.post(found["challenges"][0]["url"], {})
    world.close()  # the worker dies before it has looked
    other = world.process()
    assert drive(other.validations.run_due()) == 0  # nobody knows that it did
    world.bench.clock.advance(seconds=LEASE.total_seconds())
    assert drive(other.validations.run_due()) == 1
    assert drive(world.acme.validations.run_due()) == 0  # nobody else may
    world.close()  # it dies while it is at it
    world.bench.clock.advance(minutes=2)
    world.work()
    assert client.post(order.headers["Location"]).body["status"] == "ready"


def test_who_has_no_room_leaves_a_challenge_to_others(world: World, client: Client) -> None:
    names = [f"n{number}.example.test" for number in range(AT_ONCE + 3)]
    order = client.order(*names)
    for url in order.body["authorizations"]:
        client.post(client.post(url).body["challenges"][0]["url"], {})
    other = world.process()
    assert drive(other.validations.run_due()) == 3
    assert drive(world.process().validations.run_due()) == 0
    world.work()
    assert sorted(each.identifier.value for each in world.judge.asked) == sorted(names)
    assert client.post(order.headers["Location"]).body["status"] == "ready"


def test_a_chain_is_written_as_others_write_it(client: Client) -> None:
    order = ready(client, "a.example.test")
    raw = client.post(client.finalize(order).body["certificate"]).raw
    found = x509.load_pem_x509_certificates(raw)
    assert len(found) > 1 or found[0].issuer != found[0].subject
    assert raw == b"".join(each.public_bytes(Encoding.PEM) for each in found)


def test_who_has_room_again_goes_on(world: World, client: Client) -> None:
    names = [f"n{number}.example.test" for number in range(AT_ONCE + 3)]
    order = client.order(*names)
    for url in order.body["authorizations"]:
        client.post(client.post(url).body["challenges"][0]["url"], {})
    while world.later:  # and nobody looks at the clock
        drive(world.later.pop(0))
    assert len(world.judge.asked) == len(names)
    assert client.post(order.headers["Location"]).body["status"] == "ready"


def test_a_challenge_whose_workers_all_die_fails(world: World, client: Client) -> None:
    order = client.order("a.example.test")
    found = client.post(order.body["authorizations"][0]).body
    client.post(found["challenges"][0]["url"], {})
    for _ in range(4):
        world.close()
        drive(world.process().validations.run_due())
        world.bench.clock.advance(minutes=2)
    error = client.post(order.headers["Location"]).body["error"]
    assert error["type"].endswith(":serverInternal")


def test_a_challenge_of_a_closed_account_is_not_tried(world: World, client: Client) -> None:
    order = client.order("a.example.test")
    found = client.post(order.body["authorizations"][0]).body
    client.post(found["challenges"][0]["url"], {})
    client.post(client.kid, {"status": "deactivated"})
    world.work(3)
    assert world.judge.asked == []


def test_authorisations_are_given_up(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    url = order.body["authorizations"][0]
    assert client.post(url, {"status": "valid"}).problem == "malformed"
    assert client.post(url, {"status": "deactivated"}).body["status"] == "deactivated"
    assert client.post(url, {"status": "deactivated"}).status == 409
    assert client.post(order.headers["Location"]).body["status"] == "invalid"
    assert client.finalize(order).problem == "orderNotReady"
    assert client.order("a.example.test").body["status"] == "pending"


def test_challenges_that_cannot_be_chosen(client: Client) -> None:
    order = client.order("a.example.test")
    first, second, *_ = client.post(order.body["authorizations"][0]).body["challenges"]
    assert client.post(first["url"].replace("http-01", "none"), {}).status == 404
    assert client.post(first["url"].replace("http-01", "none")).status == 404
    assert client.post(first["url"], []).problem == "malformed"
    assert client.post(first["url"], {}).status == 200
    assert client.post(second["url"], {}).status == 409


def test_time_ends_orders_and_authorisations(world: World, client: Client) -> None:
    order = ready(client, "a.example.test")
    world.bench.clock.advance(days=8)
    assert client.post(order.headers["Location"]).body["status"] == "invalid"
    assert client.finalize(order).problem == "orderNotReady"
    assert client.order("a.example.test").body["status"] == "ready"
    world.bench.clock.advance(days=30)
    assert client.post(order.body["authorizations"][0]).body["status"] == "expired"
    assert client.order("a.example.test").body["status"] == "pending"
    world.bench.clock.advance(days=60)
    assert drive(world.acme.orders.forget()) > 0
    assert client.post(order.headers["Location"]).status == 404


def test_names_are_authorised_before_they_are_ordered(world: World, client: Client) -> None:
    payload = {"identifier": {"type": "dns", "value": "a.example.test"}}
    assert client.post("new-authz", payload).status == 404
    world.change(options={"preauthorization": True})
    found = client.post("new-authz", payload)
    assert (found.status, found.body["status"]) == (201, "pending")
    client.post(found.body["challenges"][0]["url"], {})
    world.work()
    assert client.post(found.headers["Location"]).body["status"] == "valid"
    assert client.post("new-authz", payload).headers["Location"] == found.headers["Location"]
    assert client.order("a.example.test").body["status"] == "ready"
    wild = {"identifier": {"type": "dns", "value": "*.a.example.test"}}
    assert client.post("new-authz", wild).problem == "malformed"
    assert client.post("new-authz", {}).problem == "malformed"


def test_a_device_gets_a_certificate_for_the_key_that_it_attested(world: World) -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    drive(
        world.bench.objects.put(
            ADMIN, "default", "profile", "attested",
            {"via": ["acme"], "subject": {"attributes": {"CN": {}}},
             "names": {"unknown": "drop"}},
        )
    )  # fmt: skip
    world.change(options={"challenges": ["device-attest-01"]}, profile="attested")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    world.judge.attested = hashlib.sha256(spki).digest()
    client = Client(world).register()
    wanted = {"identifiers": [{"type": "permanent-identifier", "value": "SN-17"}]}
    order = client.post("new-order", wanted)
    client.prove(order, "device-attest-01")
    assert world.judge.asked[0].payload == b"{}"
    answer = client.finalize(order, make_csr(common="SN-17", key=other))
    assert answer.problem == "badCSR"
    assert client.finalize(order, make_csr(common="SN-18", key=key)).problem == "badCSR"
    assert client.finalize(order, make_csr(common="SN-17", key=key)).body["status"] == "valid"
    # Attested for one certificate: the next one attests anew.
    assert client.post("new-order", wanted).body["status"] == "pending"


# -- what accounts may have -----------------------------------------------------------------------


def test_a_binding_limits_the_names(world: World) -> None:
    eab = world.secret(names=("dns:*.inside.test", "ip:10.0.0.0/8"))
    client = Client(world).register(eab=eab)
    assert client.order("a.inside.test", "10.0.0.1").status == 201
    for name in ("a.outside.test", "192.0.2.1", "inside.test"):
        assert client.order(name).problem == "rejectedIdentifier"
    assert client.order("a.inside.test", "a.outside.test").problem == "rejectedIdentifier"


def test_names_of_a_binding_need_no_challenge(world: World) -> None:
    """ACME-47."""
    world.change(options={"mode": "eab-preauthorized"})
    assert Client(world).post("new-account", {}).problem == "externalAccountRequired"
    client = Client(world).register(eab=world.secret(names=("dns:*.inside.test",)))
    order = client.order("a.inside.test", "*.inside.test")
    assert order.body["status"] == "ready"
    for url in order.body["authorizations"]:
        (challenge,) = client.post(url).body["challenges"]
        assert challenge["status"] == "valid"
    assert client.finalize(order).body["status"] == "valid"
    assert world.judge.asked == []
    assert client.order("a.outside.test").problem == "rejectedIdentifier"
    free = Client(world).register(eab=world.secret())
    assert free.order("a.outside.test").body["status"] == "pending"  # bound to no names


def test_profiles_are_chosen(world: World, client: Client) -> None:
    world.change(
        options={
            "profiles": {"web": {"profile": "tls-server"}, "both": {"profile": "device"}},
            "default_profile": "web",
        }
    )
    order = client.order("a.example.test")
    assert order.body["profile"] == "web"
    assert client.order("a.example.test", profile="other").problem == "invalidProfile"
    chosen = client.order("a.example.test", profile="both")
    client.prove(chosen)
    request = make_csr("a.example.test", common="a.example.test")
    done = client.finalize(chosen, request)
    assert done.body["profile"] == "both"
    leaf = x509.load_pem_x509_certificates(client.post(done.body["certificate"]).raw)[0]
    assert row_of(world, leaf).profile == "device"
    bound = Client(world).register(eab=world.secret(profile="tls-server"))
    assert bound.order("a.example.test", profile="both").problem == "rejectedIdentifier"
    assert bound.order("a.example.test").status == 201


def test_options_that_make_no_sense(world: World) -> None:
    given: Any = (
        {"default_profile": "web"},
        {"profiles": {"web": {"profile": "tls-server"}}},
        {"profiles": {"web": {"profile": "none"}}, "default_profile": "web"},
        {"challenges": []},
        {"challenges": ["http-02"]},
        {"terms_of_service": "ftp://x"},
        {"alternate_chains": ["x"]},
        {"unknown": 1},
    )
    for options in given:
        with pytest.raises(Fault):
            world.change(options=options)
    for methods in (["challenge"], []):
        with pytest.raises(Fault):
            world.change(authenticate=methods)
    with pytest.raises(Fault):
        drive(world.bench.open("est", "x", authenticate=["acme"]))


def test_orders_are_listed(world: World, client: Client) -> None:
    world.change(options={"new_orders_per_3_hours": 0})
    made = [client.order(f"n{number}.example.test") for number in range(52)]
    url = client.post(client.kid).body["orders"]
    first = client.post(url)
    (link,) = [each for each in first.links if 'rel="next"' in each]
    second = client.post(link[1 : link.index(">")])
    found = [*first.body["orders"], *second.body["orders"]]
    assert sorted(found) == sorted(each.headers["Location"] for each in made)
    assert client.post(url, {}).problem == "malformed"
    listed = drive(world.acme.list_orders(ADMIN, "default", limit=60))
    assert {each.state for each in listed} == {"pending"}
    order, authorizations = drive(world.acme.show_order(ADMIN, "default", listed[0].row.id))
    assert (order.state, authorizations[0].value) == ("pending", order.row.identifiers[0][1])
    with pytest.raises(Fault):
        drive(world.acme.show_order(ADMIN, "default", "none"))


def test_orders_and_failures_are_limited(world: World, client: Client) -> None:
    world.change(options={"new_orders_per_3_hours": 3, "failed_validations_per_hour": 1})
    world.judge.good = set()
    order = client.order("a.example.test")
    client.prove(order)
    world.work(2)
    assert client.order("a.example.test").problem == "rateLimited"
    assert client.order("b.example.test").status == 201
    assert client.order("c.example.test").status == 201
    answer = client.order("d.example.test")
    assert (answer.status, answer.problem) == (429, "rateLimited")
    assert int(answer.headers["Retry-After"]) > 0
    assert Client(world).register().order("d.example.test").status == 201
    world.bench.clock.advance(hours=4)
    assert client.order("a.example.test").status == 201


# -- revocation -----------------------------------------------------------------------------------


def revoke(client: Client, certificate: x509.Certificate, key: Any = None, **more: Any) -> Answer:
    payload = {"certificate": b64(certificate.public_bytes(Encoding.DER)), **more}
    if key is None:
        return client.post("revoke-cert", payload)
    return Client(client.world, key=key).post("revoke-cert", payload)


def test_an_account_revokes_its_certificate(world: World, client: Client) -> None:
    leaf = client.issued("a.example.test")[0]
    assert revoke(client, leaf, reason=2).problem == "badRevocationReason"
    assert revoke(client, leaf, reason="x").problem == "badRevocationReason"
    assert revoke(client, leaf, reason=6).problem == "badRevocationReason"
    done = revoke(client, leaf, reason=4)
    assert (done.status, done.raw) == (200, b"")
    row = row_of(world, leaf)
    status = drive(world.bench.status.of(row.issuer_id, row.serial))
    assert (status.state, status.reason) == ("revoked", Reason.SUPERSEDED)
    again = revoke(client, leaf)
    assert (again.status, again.problem) == (400, "alreadyRevoked")


def test_whoever_controls_all_names_revokes(world: World, client: Client) -> None:
    leaf = client.issued("a.example.test", "b.example.test")[0]
    other = Client(world).register()
    assert (revoke(other, leaf).status, revoke(other, leaf).problem) == (403, "unauthorized")
    ready(other, "a.example.test")
    assert revoke(other, leaf).status == 403
    ready(other, "b.example.test")
    assert revoke(other, leaf).status == 200


def test_the_key_of_a_certificate_revokes_it(world: World, client: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    order = ready(client, "a.example.test")
    done = client.finalize(order, make_csr("a.example.test", key=key))
    leaf = x509.load_pem_x509_certificates(client.post(done.body["certificate"]).raw)[0]
    other = ec.generate_private_key(ec.SECP256R1())
    assert revoke(client, leaf, other).status == 403
    assert revoke(client, leaf, key, reason=1).status == 200
    # ACME-50: a key that was given away is never certified again.
    answer = client.finalize(client.order("a.example.test"), make_csr("a.example.test", key=key))
    assert answer.problem == "badCSR"


def test_certificates_of_others_are_not_revoked(world: World, client: Client) -> None:
    (issuer,) = drive(world.bench.hierarchy.generations("default", "devices"))
    assert issuer.certificate is not None
    assert revoke(client, issuer.certificate).status in (403, 404)
    key = ec.generate_private_key(ec.SECP256R1())
    foreign = make_certificate(world.bench.clock, "x", key.public_key(), key, None)
    answer = revoke(client, foreign, key)
    assert (answer.status, answer.problem) == (404, "malformed")
    assert client.post("revoke-cert", {"certificate": "AAAA"}).problem == "malformed"
    assert client.post("revoke-cert", {}).problem == "malformed"


# -- renewal information --------------------------------------------------------------------------


def certificate_id(leaf: x509.Certificate) -> str:
    found = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert found.key_identifier is not None
    return certid.encode(found.key_identifier, leaf.serial_number)


def window(world: World, leaf: x509.Certificate) -> tuple[datetime, datetime]:
    answer = world.get(f"/default/renewal-info/{certificate_id(leaf)}")
    assert answer.status == 200
    assert int(answer.headers["Retry-After"]) > 0
    found = answer.body["suggestedWindow"]
    start, end = (datetime.fromisoformat(found[each]) for each in ("start", "end"))
    assert start < end
    return start, end


def test_the_name_of_a_certificate_is_that_of_the_rfc() -> None:
    # RFC 9773, 4.1.
    text = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    key_identifier = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    assert certid.encode(key_identifier, 0x0087654321) == text
    assert certid.decode(text) == (key_identifier, 0x0087654321)


@pytest.mark.parametrize(
    "text", ["", ".", "a.b", "AAAA", "AAAA.AAAA=", "AAAA.gA", "AAAA.AAE", "AAAA.AQ.AQ", "é.AQ"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(Fault):
        certid.decode(text)


def test_renewal_is_suggested_in_time(world: World, client: Client) -> None:
    leaf = client.issued("a.example.test")[0]
    start, end = window(world, leaf)
    assert leaf.not_valid_after_utc - start == timedelta(days=30)
    assert end < leaf.not_valid_after_utc
    world.change(renewal={"window_days": 7}, options={"renewal_explanation": "https://x.test/"})
    start, _ = window(world, leaf)
    assert leaf.not_valid_after_utc - start == timedelta(days=7)
    answer = world.get(f"/default/renewal-info/{certificate_id(leaf)}")
    assert answer.body["explanationURL"] == "https://x.test/"


def test_what_is_revoked_is_renewed_now(world: World, client: Client) -> None:
    leaf = client.issued("a.example.test")[0]
    revoke(client, leaf)
    assert window(world, leaf)[1] < world.bench.clock()


def test_others_certificates_have_no_window(world: World) -> None:
    for text in ("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE",):
        assert world.get(f"/default/renewal-info/{text}").status == 404
    assert world.get("/default/renewal-info/x").problem == "malformed"


def test_a_certificate_is_replaced_once(world: World, client: Client) -> None:
    name = certificate_id(client.issued("a.example.test")[0])
    assert client.order("b.example.test", replaces=name).problem == "malformed"
    assert client.order("a.example.test", replaces="x").problem == "malformed"
    unknown = name.split(".")[0] + ".AQ"
    assert client.order("a.example.test", replaces=unknown).problem == "malformed"
    other = Client(world).register()
    assert other.order("a.example.test", replaces=name).problem == "malformed"
    left = client.order("a.example.test", replaces=name)
    assert left.body["replaces"] == name
    following = client.order("a.example.test", "b.example.test", replaces=name)
    client.prove(following)
    assert client.finalize(following).body["status"] == "valid"
    answer = client.order("a.example.test", replaces=name)
    assert (answer.status, answer.problem) == (409, "alreadyReplaced")


def test_addresses_are_of_the_configured_host(client: Client) -> None:
    assert client.kid.startswith(BASE)


def test_a_challenge_that_came_too_late_is_not_tried(world: World, client: Client) -> None:
    order = client.order("a.example.test")
    found = client.post(order.body["authorizations"][0]).body
    client.post(found["challenges"][0]["url"], {})
    world.close()
    world.bench.clock.advance(days=8)
    world.work()
    assert world.judge.asked == []
    assert client.post(order.body["authorizations"][0]).body["status"] == "invalid"


def test_what_is_no_message_is_not_journaled(world: World, client: Client) -> None:
    assert "[" not in world.send("/default/new-order", b"x").body["detail"]
    refused = client.post("new-order", {"identifiers": [{"type": "x", "value": "y"}]})
    assert "[" in refused.body["detail"]
