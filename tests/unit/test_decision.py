"""Who may join the network: each refusal, each rule, and what an answer may hold (E-40..E-45)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.hierarchy_world import ADMIN
from tests.network_world import MAC, NetworkWorld, a_visit
from tests.support import drive
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.network.logins import Admitted
from tmad.signer import algorithms
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import people, radius_sessions, tables
from tmad.storage.database import Database


@pytest.fixture
def world() -> NetworkWorld:
    world = NetworkWorld().prepare()
    world.policy()
    return world


# -- what lets in --------------------------------------------------------------------------------


def test_a_good_certificate_is_let_in(world: NetworkWorld) -> None:
    certificate = world.issue()
    admitted = world.login(certificate)
    assert admitted.user_name == "laptop-7.example.test"
    assert (admitted.policy, admitted.rule) == ("staff", "all")
    assert admitted.session_timeout == 86_400
    assert admitted.attributes == (("Termination-Action", 1),)
    assert admitted.certificate is not None
    assert int.from_bytes(admitted.certificate[1]) == certificate.serial_number
    assert admitted.person is None
    assert admitted.device is None
    assert not admitted.monitored
    assert world.count(tables.radius_sessions, id=admitted.session) == 1


def test_e44_an_admission_is_journaled_with_all_that_was_known(world: NetworkWorld) -> None:
    certificate = world.issue()
    admitted = world.login(certificate, resumed=True)
    record = world.last("network.admitted")
    assert record["serial"] == f"{certificate.serial_number:x}".rjust(len(record["serial"]), "0")
    assert record["authority"] == "issuing"
    assert record["outer_identity"] == "anonymous@elsewhere.test"
    assert record["calling_station"] == MAC
    assert (record["client"], record["ssid"]) == ("ap-1", "staff")
    assert (record["tls"], record["resumed"]) == ("TLSv1.3", True)
    assert record["user_name"] == admitted.user_name
    assert "mallory@outside.test" not in str(admitted)


def test_the_owner_comes_before_the_names(world: NetworkWorld) -> None:
    world.person("alice", groups=("engineering",))
    world.person("bob")
    certificate = world.issue(names=(x509.RFC822Name("bob@example.test"),), owner="person:alice")
    admitted = world.login(certificate)
    assert (admitted.user_name, admitted.person) == ("alice", "alice")


@pytest.mark.parametrize(
    ("names", "dn", "person"),
    [
        ((x509.RFC822Name("alice@example.test"),), "CN=x1", "alice"),  # by its address
        ((x509.DNSName("nobody.test"),), "CN=Alice", "alice"),  # by the common name
        ((x509.RFC822Name("bob@realm.test"),), "CN=x1", "bob"),  # without the realm
        ((x509.RFC822Name("bob@other.test"),), "CN=x1", None),  # a realm that is not ours
    ],
)
def test_e42_names_of_a_certificate_mean_people(
    world: NetworkWorld, names: Any, dn: str, person: str | None
) -> None:
    tenant = {"principals": {"realms": ["realm.test"]}}
    drive(world.objects.put(ADMIN, "*", "tenant", "default", tenant))
    world.person("alice", mail="alice@example.test")
    world.person("bob")
    admitted = world.login(world.issue(names=names, dn=dn))
    assert admitted.person == person


def test_e42_the_order_of_names_is_the_tenants(world: NetworkWorld) -> None:
    world.person("alice")
    world.person("laptop")
    certificate = world.issue(names=(x509.RFC822Name("alice@realm.test"),), dn="CN=laptop")
    realms = {"realms": ["realm.test"]}
    for order, expected in ((["cn", "email"], "laptop"), (["email"], "alice")):
        document = {"principals": {"order": order, **realms}}
        drive(world.objects.put(ADMIN, "*", "tenant", "default", document))
        assert world.login(certificate).person == expected


def test_an_address_that_two_people_have_means_neither(world: NetworkWorld) -> None:
    world.person("alice", mail="office@example.test")
    world.person("bob", mail="office@example.test")
    admitted = world.login(world.issue(names=(x509.RFC822Name("office@example.test"),)))
    assert admitted.person is None


def test_a_device_is_known_by_its_name_and_its_owner_is_responsible(world: NetworkWorld) -> None:
    world.person("alice", groups=("engineering",))
    world.device("laptop-7.example.test", owner="alice")
    admitted = world.login(world.issue())
    assert admitted.device == "laptop-7.example.test"
    assert admitted.person == "alice"
    assert admitted.user_name == "laptop-7.example.test"


def test_a_mac_address_lets_nobody_in(world: NetworkWorld) -> None:
    world.device("laptop-9", mac=MAC)
    world.policy({"name": "known", "when": {"devices": ["*"]}})
    assert world.refused(world.issue()).rule == "network.policy"


# -- what is refused -------------------------------------------------------------------------------


def revoked(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.login(certificate)
    world.revoke(certificate)
    return certificate


def held(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.hold(certificate)
    return certificate


def key_compromised(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.revoke(certificate, 1)
    return certificate


def same_key_compromised(world: NetworkWorld) -> x509.Certificate:
    key = algorithms.generate(KeyAlgorithm.P256)
    first, second = world.issue(key=key), world.issue(key=key)
    world.login(second)
    world.revoke(first, 1)
    return second


def void(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.change(tables.certificates, certificate, state="void", sha256=None)
    return certificate


def expired(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.clock.time = certificate.not_valid_after_utc
    return certificate


def not_yet_valid(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.clock.time = certificate.not_valid_before_utc - timedelta(seconds=1)
    return certificate


def server_certificate(world: NetworkWorld) -> x509.Certificate:
    return world.issue(
        "www.example.test", profile="tls-server", names=(x509.DNSName("www.example.test"),)
    )


def disabled_owner(world: NetworkWorld) -> x509.Certificate:
    world.person("alice")
    certificate = world.issue(owner="person:alice")
    world.login(certificate)
    world.change_person("alice", disabled_at=world.clock())
    return certificate


def disabled_by_name(world: NetworkWorld) -> x509.Certificate:
    world.person("laptop-7", disabled_at=world.clock())
    return world.issue()


def ended_owner(world: NetworkWorld) -> x509.Certificate:
    world.person("alice", valid_until=world.clock())
    return world.issue(owner="person:alice")


def deleted_owner(world: NetworkWorld) -> x509.Certificate:
    return world.issue(owner="person:alice")


def deleted_device(world: NetworkWorld) -> x509.Certificate:
    return world.issue(owner="device:laptop-7")


def blocked_by_owner(world: NetworkWorld) -> x509.Certificate:
    world.device("box", blocked_at=world.clock())
    return world.issue(owner="device:box")


def blocked_by_name(world: NetworkWorld) -> x509.Certificate:
    world.device("laptop-7.example.test", blocked_at=world.clock())
    return world.issue()


def blocked_by_mac(world: NetworkWorld) -> x509.Certificate:
    world.device("other", mac=MAC, blocked_at=world.clock())
    return world.issue()


def owner_of_device_disabled(world: NetworkWorld) -> x509.Certificate:
    world.person("alice", disabled_at=world.clock())
    world.device("laptop-7", owner="alice")
    return world.issue()


def issuer_compromised(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.login(certificate)
    drive(world.ceremony.compromise(ADMIN, "default", "issuing"))
    return certificate


def issuer_withdrawn(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.login(certificate)
    withdraw(world, revoke=True)
    return certificate


def withdraw(world: NetworkWorld, *, revoke: bool) -> None:
    reason = Reason.CESSATION_OF_OPERATION
    drive(world.ceremony.withdraw(ADMIN, "default", "issuing", reason=reason, revoke=revoke))


def root_compromised(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.login(certificate)
    drive(world.ceremony.compromise(ADMIN, "default", "root"))
    return certificate


def issuer_revoked(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    world.login(certificate)
    sub = drive(world.hierarchy.active("default", "issuing")).certificate
    assert sub is not None
    world.revoke(sub, 4)
    return certificate


def issuer_held(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    sub = drive(world.hierarchy.active("default", "issuing")).certificate
    assert sub is not None
    world.hold(sub)
    return certificate


def of_another_tenant(world: NetworkWorld) -> x509.Certificate:
    world.tenant("other")
    world.prepare("other")
    return world.issue(tenant="other")


def of_nobody(world: NetworkWorld) -> x509.Certificate:
    return NetworkWorld().prepare().issue()


def never_issued(world: NetworkWorld) -> x509.Certificate:
    certificate = world.issue()
    drive(
        world.database.write(
            lambda connection: connection.execute(
                tables.certificates.delete().where(tables.certificates.c.profile == "wifi-client")
            )
        )
    )
    return certificate


REFUSALS = [
    (revoked, "network.revoked", "REVOKED"),
    (held, "network.held", "HOLD"),
    (key_compromised, "network.compromised-key", "REVOKED"),
    (same_key_compromised, "network.compromised-key", "REVOKED"),
    (void, "network.void", "REVOKED"),
    (expired, "network.expired", "EXPIRED"),
    (not_yet_valid, "network.not-yet-valid", "NOT_YET_VALID"),
    (server_certificate, "network.purpose", "EKU"),
    (disabled_owner, "network.owner-disabled", "OWNER_DISABLED"),
    (disabled_by_name, "network.owner-disabled", "OWNER_DISABLED"),
    (ended_owner, "network.owner-expired", "OWNER_DISABLED"),
    (deleted_owner, "network.owner-absent", "OWNER_DISABLED"),
    (deleted_device, "network.owner-absent", "OWNER_DISABLED"),
    (blocked_by_owner, "network.device-blocked", "OWNER_DISABLED"),
    (blocked_by_name, "network.device-blocked", "OWNER_DISABLED"),
    (blocked_by_mac, "network.device-blocked", "OWNER_DISABLED"),
    (owner_of_device_disabled, "network.owner-disabled", "OWNER_DISABLED"),
    (issuer_compromised, "network.issuer-compromised", "REVOKED"),
    (root_compromised, "network.issuer-revoked", "REVOKED"),
    (issuer_withdrawn, "network.issuer-revoked", "REVOKED"),
    (issuer_revoked, "network.issuer-revoked", "REVOKED"),
    (issuer_held, "network.issuer-revoked", "REVOKED"),
    (of_another_tenant, "network.wrong-tenant", "WRONG_CA"),
    (of_nobody, "network.wrong-authority", "WRONG_CA"),
    (never_issued, "network.unknown-certificate", "UNKNOWN_CERT"),
]


@pytest.mark.parametrize(
    ("prepare", "rule", "reason"), REFUSALS, ids=[case[0].__name__ for case in REFUSALS]
)
def test_e45_each_refusal_says_why(
    world: NetworkWorld, prepare: Any, rule: str, reason: str
) -> None:
    certificate = prepare(world)
    before = world.count(tables.radius_sessions)
    fault = world.refused(certificate)
    assert fault.rule == rule
    assert fault.code in (FaultCode.UNAUTHENTICATED, FaultCode.FORBIDDEN)
    record = world.record(fault.explain_id)
    assert record["kind"] == "network.refused"
    assert (record["reason"], record["rule"]) == (reason, rule)
    assert record["detail"]
    assert record["advice"]
    assert record["serial"]
    assert record["calling_station"] == MAC
    assert world.count(tables.radius_sessions) == before
    # And again, as a resumed session shows the same certificate.
    assert world.refused(certificate, resumed=True).rule == rule


def test_what_a_withdrawn_authority_issued_stays_good_as_ocsp_says(world: NetworkWorld) -> None:
    certificate = world.issue()
    withdraw(world, revoke=False)
    assert world.login(certificate).policy == "staff"


# -- what is remembered from the login before --------------------------------------------------


def silently(world: NetworkWorld, certificate: x509.Certificate, **values: Any) -> None:
    """Change a certificate's row as nobody of ours does: without a word to any cache."""
    world.change(tables.certificates, certificate, **values)


def test_what_is_remembered_is_asked_by_the_transaction(world: NetworkWorld) -> None:
    world.person("ada")
    certificate = world.issue(owner="person:ada")
    assert world.login(certificate).person == "ada"
    sessions = world.count(tables.radius_sessions)
    silently(world, certificate, state="revoked", revoked_at=world.clock(), reason=4)
    assert world.refused(certificate, resumed=True).rule == "network.revoked"
    assert world.refused(certificate, resumed=True).rule == "network.revoked"
    assert world.count(tables.radius_sessions) == sessions
    silently(world, certificate, state="good", revoked_at=None, reason=None)
    assert world.login(certificate).person == "ada"
    world.person("bob")
    silently(world, certificate, owner="person:bob")
    assert world.login(certificate).person == "bob"


def test_nobody_is_refused_by_what_is_remembered(world: NetworkWorld) -> None:
    world.person("ada")
    world.person("bob", disabled_at=world.clock())
    certificate = world.issue(owner="person:ada")
    world.login(certificate)
    silently(world, certificate, owner="person:bob")
    assert world.refused(certificate).rule == "network.owner-disabled"
    world.login(other := world.issue("second", owner="person:ada"))
    world.change_person("ada", disabled_at=world.clock())
    silently(world, other, owner="")
    assert world.login(other).person is None


@pytest.mark.parametrize("is_known", [True, False], ids=["standby", "just-now"])
def test_while_nothing_can_be_written_what_is_remembered_is_looked_at(
    world: NetworkWorld, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    certificate = world.issue()
    world.login(certificate)

    def fails(*_: object) -> None:
        raise Fault(FaultCode.UNAVAILABLE, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "is_writing", not is_known)
        patch.setattr(Database, "why_not_writing", "failed" if is_known else "")
        patch.setattr(world.journal, "append", fails)
        world.login(certificate)
    silently(world, certificate, state="revoked", revoked_at=world.clock(), reason=4)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "is_writing", not is_known)
        patch.setattr(Database, "why_not_writing", "failed" if is_known else "")
        patch.setattr(world.journal, "append", fails)
        assert world.refused(certificate).rule == "network.revoked"


# -- decided some messages before the answer ---------------------------------------------------


def confirm(world: NetworkWorld, admitted: Admitted, *chain: x509.Certificate) -> None:
    drive(world.admission.confirm(a_visit(), admitted, "eap-tls", chain=chain))


def is_live(world: NetworkWorld, admitted: Admitted) -> bool:
    row = drive(world.database.read(radius_sessions.by_id, admitted.session))
    assert row is not None
    return row.is_live


def test_what_still_holds_when_the_last_message_comes_is_let_in(world: NetworkWorld) -> None:
    world.person("ada")
    world.policy({"name": "one", "simultaneous": 1})
    certificate = world.issue("ada", owner="person:ada")
    admitted = world.login(certificate)
    confirm(world, admitted, certificate)
    # Whatever else has changed; and its own session is not one too many.
    world.revoke(world.issue("other"))
    world.person("bob")
    confirm(world, admitted, certificate)
    assert is_live(world, admitted)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda world, certificate: world.revoke(certificate), "network.revoked"),
        (lambda world, certificate: world.hold(certificate), "network.held"),
        (
            lambda world, certificate: world.change_person("ada", disabled_at=world.clock()),
            "network.owner-disabled",
        ),
        (
            lambda world, certificate: world.device("ada.example.test", blocked_at=world.clock()),
            "network.device-blocked",
        ),
        (
            lambda world, certificate: world.policy({"name": "no", "then": "reject"}),
            "network.rejected",
        ),
        (
            lambda world, certificate: world.policy({"name": "all", "reply": {"vlan": 7}}),
            "network.changed",
        ),
    ],
)
def test_nobody_gets_in_by_keeping_the_last_message_back(
    world: NetworkWorld, change: Any, rule: str
) -> None:
    world.person("ada")
    certificate = world.issue("ada", owner="person:ada")
    admitted = world.login(certificate)
    change(world, certificate)
    with pytest.raises(Fault) as caught:
        confirm(world, admitted, certificate)
    assert caught.value.rule == rule
    assert world.record(caught.value.explain_id)["session"] == admitted.session
    assert not is_live(world, admitted)


def test_a_person_who_is_disabled_before_the_last_message_stays_out(world: NetworkWorld) -> None:
    world.person("ada")
    person = drive(world.database.read(people.by_name, "default", "ada"))
    admitted = drive(world.admission.person(a_visit(), person, "peap-mschapv2"))
    confirm(world, admitted)
    world.change_person("ada", disabled_at=world.clock())
    with pytest.raises(Fault) as caught:
        confirm(world, admitted)
    assert caught.value.rule == "network.owner-disabled"
    assert not is_live(world, admitted)
