"""Two tenants with the same names for everything: neither sees, asks or changes the other's."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID

from tests import scep_client as client
from tests.daemon import Daemon
from tests.scep_client import Identity, Message
from tests.system.commands import Commands, commands_of
from tests.system.desk import Desk, desk_of
from tests.system.test_refusals_ocsp import cert_id, request
from tests.system.visitor import Visitor, knock, new_key

UNAUTHORIZED = ocsp.OCSPResponseStatus.UNAUTHORIZED
ALICE = "person:alice"
REFUSED = 2


@dataclass
class Tenant:
    """What one of the two has; "device.example.test" exists in both."""

    name: str
    door: Visitor
    slug: str
    device: Identity
    waiting: Message
    secret_id: str = ""
    request_id: str = ""
    serial: str = ""


@dataclass
class World:
    daemon: Daemon
    desk: Desk
    commands: Commands
    tenants: dict[str, Tenant] = field(default_factory=dict)

    @property
    def a(self) -> Tenant:
        return self.tenants["alpha"]

    @property
    def b(self) -> Tenant:
        return self.tenants["beta"]

    def ask(self, issuer: x509.Certificate, serial: int, path: str) -> ocsp.OCSPResponse:
        body = request(cert_id(issuer, serial))
        answer = knock(self.daemon.url, "POST", path, body)[2]
        return ocsp.load_der_ocsp_response(answer)

    def state(self, tenant: Tenant) -> str:
        """Return what OCSP says of a tenant's device."""
        number = tenant.device.certificate.serial_number
        return self.ask(tenant.door.ca, number, f"/ocsp/{tenant.slug}").certificate_status.name

    def crl(self, slug: str) -> x509.CertificateRevocationList:
        status, _, body = knock(self.daemon.url, "GET", f"/crl/{slug}.crl")
        assert status == 200
        return x509.load_der_x509_crl(body)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node = Daemon(tmp_path_factory.mktemp("node")).start()
    try:
        with desk_of(node) as desk:
            commands = commands_of(node)
            world = World(node, desk, commands)
            for name in ("alpha", "beta"):
                world.tenants[name] = _furnish(world, name)
            desk.put("grant", "alice", {"subject": ALICE, "role": "administrator"}, "alpha")
            yield world
    finally:
        node.kill()


def _furnish(world: World, name: str) -> Tenant:
    desk, daemon = world.desk, world.daemon
    desk.tenant(name)
    desk.endpoint(f"{name}-devices", tenant=name)
    desk.endpoint(f"{name}-manual", tenant=name, authenticate=["manual"])
    door = Visitor(f"{daemon.url}/scep/{name}-devices")
    device = door.enroll(desk.secret(f"{name}-devices", tenant=name), "device.example.test")
    manual = Visitor(f"{daemon.url}/scep/{name}-manual")
    waiting = manual.request(key=new_key(), name="waiting.example.test", transaction="same-id")
    assert manual.send(waiting).status == client.PENDING
    tenant = Tenant(name, door, f"{name}.issuing", device, waiting)
    tenant.serial = f"{device.certificate.serial_number:x}"
    run = world.commands.json
    tenant.secret_id = run("enroll-secret", "list", "--tenant", name)[0]["id"]
    tenant.request_id = run("request", "list", "--tenant", name)[0]["id"]
    return tenant


def _identifying(tenant: Tenant) -> tuple[str, ...]:
    """Return what would betray a tenant wherever it appears."""
    return (
        tenant.name,
        tenant.serial,
        tenant.secret_id,
        tenant.request_id,
        f"{tenant.door.ca.serial_number:x}",
    )


# -- the command line ---------------------------------------------------------------------------

LISTS = (
    ("cert", "list"),
    ("cert", "list", "--name", "device.example.test"),
    ("request", "list"),
    ("enroll-secret", "list"),
    ("endpoint", "list"),
    ("ca", "list"),
    ("ca", "show", "issuing"),
    ("ca", "history", "issuing"),
    ("ca", "export", "issuing"),
    ("crl", "show", "issuing"),
    ("profile", "list"),
    ("profile", "show", "device"),
    ("profile", "history", "device"),
    ("grant", "list"),
    ("audit", "tail", "-n", "10000"),
    ("export",),
)


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_holds_what_is_the_tenants_own(command: tuple[str, ...], world: World) -> None:
    own = world.commands.run(*command, "--tenant", "alpha", "-o", "json").out
    others = world.commands.run(*command, "--tenant", "beta", "-o", "json").out
    assert own
    for word in _identifying(world.b):
        assert word not in own.lower().replace(":", "")
    for word in _identifying(world.a):
        assert word not in others.lower().replace(":", "")


def test_the_lists_are_not_empty(world: World) -> None:
    run = world.commands.json
    for tenant in (world.a, world.b):
        serials = [
            row["serial"].replace(":", "") for row in run("cert", "list", "--tenant", tenant.name)
        ]
        assert tenant.serial in [serial.lower().lstrip("0") for serial in serials]
        assert len(run("endpoint", "list", "--tenant", tenant.name)) == 2


def _strangers(tenant: Tenant) -> list[tuple[str, ...]]:
    """Return every command that names one thing of a tenant."""
    fingerprint = tenant.device.certificate.fingerprint(client._HASHES["sha256"]).hex()
    return [
        ("cert", "show", tenant.serial),
        ("cert", "show", fingerprint),
        ("cert", "export", tenant.serial),
        ("cert", "revoke", tenant.serial, "--reason", "key-compromise"),
        ("cert", "revoke", fingerprint),
        ("cert", "hold", tenant.serial),
        ("cert", "release", tenant.serial),
        ("request", "show", tenant.request_id),
        ("request", "approve", tenant.request_id),
        ("request", "deny", tenant.request_id),
        ("request", "comment", tenant.request_id, "hello"),
        ("enroll-secret", "revoke", tenant.secret_id),
        ("enroll-secret", "create", "--endpoint", f"scep/{tenant.name}-devices"),
        ("endpoint", "show", f"scep/{tenant.name}-devices"),
        ("endpoint", "disable", f"scep/{tenant.name}-devices"),
        ("endpoint", "set", f"scep/{tenant.name}-devices", "enabled=false"),
        ("endpoint", "history", f"scep/{tenant.name}-devices"),
        ("endpoint", "delete", f"scep/{tenant.name}-devices"),
    ]


def _untouched(world: World) -> None:
    assert [world.state(tenant) for tenant in (world.a, world.b)] == ["GOOD", "GOOD"]
    for tenant in (world.a, world.b):
        manual = Visitor(f"{world.daemon.url}/scep/{tenant.name}-manual")
        assert manual.send(manual.poll(tenant.waiting)).status == client.PENDING


def test_what_is_the_others_is_not_found(world: World) -> None:
    """The same answer as for what exists nowhere: nothing can be learnt from it."""
    for command in _strangers(world.b):
        refused = world.commands.run(*command, "--tenant", "alpha", expect=None)
        assert refused.code == REFUSED, (command, refused)
        assert refused.out == "", command
        for word in ("beta", "device.example.test", "forbidden", "permission"):
            assert word not in refused.err.replace(f"{world.b.name}-devices", ""), command
    _untouched(world)


def test_with_a_grant_in_one_tenant_nothing_is_done_in_the_other(world: World) -> None:
    """--as: the other tenant is as one that does not exist."""
    mine = world.commands.run("--as", ALICE, "--tenant", "alpha", "cert", "show", world.a.serial)
    assert "device.example.test" in mine.out
    everything = [
        *_strangers(world.b),
        *LISTS,
        ("ca", "renew", "issuing"),
        ("crl", "build", "issuing"),
    ]
    for command in everything:
        told = set()
        for tenant in ("beta", "no-such-tenant"):
            done = world.commands.run("--as", ALICE, "--tenant", tenant, *command, expect=None)
            assert done.code == REFUSED, (command, done)
            assert done.out == "", command
            words = done.err.splitlines()[0].replace(tenant, "…")
            told.add(" ".join(w for w in words.split() if not w.startswith("[")))
        assert len(told) == 1, (command, told)
    _untouched(world)
    # Somebody without any grant is nobody, everywhere.
    for tenant in ("alpha", "beta"):
        world.commands.run("--as", "person:mallory", "--tenant", tenant, "cert", "list", expect=2)


def test_a_grant_in_one_tenant_does_not_reach_what_belongs_to_all(world: World) -> None:
    for command in (
        ("tenant", "create", "gamma"),
        ("audit", "tail", "--all-tenants"),
        ("audit", "export"),
        ("audit", "verify"),
        ("export", "--all-tenants"),
    ):
        done = world.commands.run("--as", ALICE, "--tenant", "alpha", *command, expect=None)
        assert done.code in (1, REFUSED), (command, done)
        assert "beta" not in done.out + done.err
    shown = world.commands.run("--as", ALICE, "tenant", "list", "-o", "json", expect=None)
    assert "beta" not in shown.out


def test_refusals_are_journaled_where_they_happened(world: World) -> None:
    world.commands.run("--as", ALICE, "--tenant", "beta", "cert", "list", expect=2)
    newest = world.desk.refusals("certificate", "beta")[-1]
    assert (newest["rule"], newest["tenant"]) == ("access.tenant", "beta")
    assert newest["values"]["actor"] == ALICE


# -- SCEP ---------------------------------------------------------------------------------------


def _failed(reply: client.Reply, fail_info: str) -> None:
    assert (reply.status, reply.fail_info, reply.content) == (client.FAILURE, fail_info, None)


@pytest.mark.parametrize("kind", [client.GET_CERT, client.GET_CRL])
def test_scep_48_the_others_certificates_and_crls_are_not_there(kind: str, world: World) -> None:
    mine = world.a.door.query(kind, world.a.device.certificate, world.a.device)
    assert world.a.door.send(mine).status == client.SUCCESS
    for who in (world.a.device, world.b.device):
        theirs = world.a.door.query(kind, world.b.device.certificate, who)
        _failed(world.a.door.send(theirs), "4")


def test_scep_46_the_others_request_cannot_be_polled(world: World) -> None:
    """Both have a request under the same transaction id."""
    for own, other in ((world.a, world.b), (world.b, world.a)):
        door = Visitor(f"{world.daemon.url}/scep/{own.name}-manual")
        _failed(door.send(door.poll(other.waiting)), "4")
        assert door.send(door.poll(own.waiting)).status == client.PENDING


def test_the_others_certificate_renews_nothing_and_his_challenge_enrols_nobody(
    world: World,
) -> None:
    before = world.desk.issued()
    _failed(world.a.door.send(world.a.door.renewal(world.b.device)), "2")
    secret = world.desk.secret("beta-devices", tenant="beta")
    _failed(world.a.door.send(world.a.door.request(secret)), "2")
    assert world.desk.issued() == before
    # It was not used up by that.
    world.b.door.enroll(secret)


# -- OCSP and CRL -------------------------------------------------------------------------------


def test_ocsp_of_one_tenant_says_nothing_of_the_other(world: World) -> None:
    for own, other in ((world.a, world.b), (world.b, world.a)):
        number = other.device.certificate.serial_number
        answer = world.ask(other.door.ca, number, f"/ocsp/{own.slug}")
        assert answer.response_status is UNAUTHORIZED
        # Their serial number is not ours, either.
        answer = world.ask(own.door.ca, number, f"/ocsp/{own.slug}")
        assert answer.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
        own_number = own.device.certificate.serial_number
        answer = world.ask(own.door.ca, own_number, f"/ocsp/{own.slug}")
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
        # Once it was answered, too: nothing comes out of the cache of the other.
        answer = world.ask(own.door.ca, own_number, f"/ocsp/{other.slug}")
        assert answer.response_status is UNAUTHORIZED


def test_a_crl_holds_only_the_tenants_own_serials(world: World) -> None:
    gone: dict[str, x509.Certificate] = {}
    for tenant in (world.a, world.b):
        secret = world.desk.secret(f"{tenant.name}-devices", tenant=tenant.name)
        gone[tenant.name] = tenant.door.enroll(secret).certificate
        serial = f"{gone[tenant.name].serial_number:x}"
        world.commands.run("cert", "revoke", serial, "--tenant", tenant.name)
    for tenant in (world.a, world.b):
        crl = world.crl(tenant.slug)
        assert crl.is_signature_valid(tenant.door.ca.public_key())  # type: ignore[arg-type]
        assert {entry.serial_number for entry in crl} == {gone[tenant.name].serial_number}
    _untouched(world)


def test_each_certificate_points_to_its_own_authoritys_addresses(world: World) -> None:
    for tenant in (world.a, world.b):
        extensions = tenant.device.certificate.extensions
        for oid in (
            ExtensionOID.CRL_DISTRIBUTION_POINTS,
            ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ):
            text = str(extensions.get_extension_for_oid(oid).value)
            assert f"/{tenant.slug}" in text
        assert tenant.device.certificate.issuer == tenant.door.ca.subject


def test_a_door_is_in_one_tenant_whatever_the_others_make(world: World) -> None:
    """A URL names no tenant, so a label that is taken is taken for all; it says not by whom."""
    taken = world.commands.run(
        "endpoint", "create", "scep", "beta-devices", "--ca", "issuing", "--profile", "device",
        "--tenant", "alpha", expect=2,
    )  # fmt: skip
    assert "beta " not in taken.err
    assert "tenant beta" not in taken.err
    _untouched(world)


def _get(world: World, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", world.daemon.http_port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_no_public_address_lists_what_there_is(world: World) -> None:
    for path in ("/", "/scep", "/scep/", "/crl", "/crl/", "/ocsp/alpha", "/aia", "/aia/"):
        assert _get(world, path) in (200, 400, 404)
        body = knock(world.daemon.url, "GET", path)[2]
        assert b"beta" not in body
        assert b"alpha" not in body


def test_nothing_of_all_this_is_an_error_of_ours(world: World) -> None:
    """Runs last."""
    assert "Traceback" not in world.daemon.log.read_text()
    assert os.path.getsize(world.daemon.log) > 0
    audited: Any = world.commands.json("audit", "verify")
    assert audited["intact"] is True
