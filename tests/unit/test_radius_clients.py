"""RADIUS clients: the longest prefix, sealed secrets that overlap, and what was seen of them."""

from __future__ import annotations

import ipaddress
import secrets as randomness
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.managed.objects import TENANT, Objects
from tmad.network.clients import RADIUS_CLIENT, Client, RadiusClients
from tmad.signer.seal import Seal
from tmad.storage.changes import Changes
from tmad.storage.database import Database

ADMIN = Actor.administrator("local:test")


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database.in_memory(clock=self.clock)
        self.journal = Journal(self.database, "test", self.clock)
        self.seal = Seal(randomness.token_bytes(32))
        changes = Changes(self.database)
        self.objects = Objects(
            self.database, self.journal, changes, self.clock, (TENANT, RADIUS_CLIENT)
        )
        self.clients = self.another()
        for tenant in ("acme", "other"):
            drive(self.objects.put(ADMIN, "*", "tenant", tenant, {}))

    def another(self) -> RadiusClients:
        """Return the service as another process has it."""
        return RadiusClients(
            self.database, self.journal, Changes(self.database), self.seal, self.clock
        )

    def put(self, name: str, *prefixes: str, tenant: str = "acme", **document: Any) -> None:
        drive(
            self.objects.put(
                ADMIN, tenant, "radius-client", name, {"prefixes": list(prefixes), **document}
            )
        )

    def find(self, address: str) -> Client:
        found = drive(self.clients.find(address))
        assert found is not None
        return found

    def set_secret(self, name: str, **options: Any) -> bytes:
        return drive(self.clients.set_secret(ADMIN, "acme", name, **options)).reveal()

    def good(self, address: str = "192.0.2.1") -> list[bytes]:
        return [each.reveal() for each in self.find(address).good_secrets(self.clock)]


@pytest.fixture
def world() -> World:
    return World()


def refused(coroutine: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        drive(coroutine)
    return caught.value


def test_the_longest_prefix_wins_over_all_tenants(world: World) -> None:
    world.put("wide", "192.0.0.0/16")
    world.put("site", "192.0.2.0/24", tenant="other")
    world.put("one", "192.0.2.7")
    world.put("six", "2001:db8::/32")
    assert world.find("192.0.3.1").name == "wide"
    assert (world.find("192.0.2.1").tenant, world.find("192.0.2.1").name) == ("other", "site")
    assert world.find("192.0.2.7").name == "one"
    assert world.find("::ffff:192.0.2.7").name == "one"
    assert world.find("2001:db8::5%eth0").name == "six"
    for stranger in ("198.51.100.1", "2001:db9::1", "not an address"):
        assert drive(world.clients.find(stranger)) is None


def test_a_change_is_seen_at_the_next_question_everywhere(world: World) -> None:
    other = world.another()
    assert drive(other.find("192.0.2.1")) is None
    world.put("site", "192.0.2.0/24")
    found = drive(other.find("192.0.2.1"))
    assert found is not None
    assert not list(found.good_secrets(world.clock))
    world.set_secret("site")
    found = drive(other.find("192.0.2.1"))
    assert found is not None
    assert len(list(found.good_secrets(world.clock))) == 1
    drive(world.objects.delete(ADMIN, "acme", "radius-client", "site"))
    assert drive(other.find("192.0.2.1")) is None


def test_what_belongs_to_one_client_is_refused_to_another(world: World) -> None:
    world.put("site", "192.0.2.0/24", radsec={"names": ["Proxy.example.test"]})
    for document in (
        {"prefixes": ["192.0.2.99/24"]},
        {"radsec": {"names": ["proxy.example.test."]}},
    ):
        for tenant in ("acme", "other"):
            fault = refused(world.objects.put(ADMIN, tenant, "radius-client", "second", document))
            assert (fault.code, fault.rule) == (FaultCode.CONFLICT, "radius.client.taken")
            # One tenant learns nothing of another's clients.
            assert ("site" in fault.detail) == (tenant == "acme")
    world.put("site", "192.0.2.0/24", "198.51.100.0/24")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"prefixes": ["192.0.2.0/33"]},
        {"prefixes": ["::ffff:192.0.2.0/120"]},
        {"prefixes": ["192.0.2.0/24"], "methods": ["eap-md5"]},
        {"prefixes": ["192.0.2.0/24"], "methods": ["pap", "pap"]},
        {"prefixes": ["192.0.2.0/24"], "radsec": {"fingerprints": ["00"]}},
        {"prefixes": ["192.0.2.0/24"], "radsec": {"names": ["*.example.test"]}},
        {"prefixes": ["192.0.2.0/24"], "coa": {"address": "nas.example.test"}},
        {"prefixes": ["192.0.2.0/24"], "tags": ["Not A Tag"]},
        {"prefixes": ["192.0.2.0/24"], "require_message_authenticator": "maybe"},
    ],
)
def test_documents_that_make_no_sense_are_refused(world: World, document: Any) -> None:
    fault = refused(world.objects.put(ADMIN, "acme", "radius-client", "bad", document))
    assert fault.rule == "document.invalid"


def test_a_secret_is_random_long_and_sealed(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    first, second = world.set_secret("site"), world.set_secret("site")
    assert first != second
    assert len(first) == 32
    assert world.good() == [second]

    def stored(connection: sa.Connection) -> list[bytes]:
        return list(connection.execute(sa.text("SELECT sealed FROM radius_secrets")).scalars())

    [sealed] = drive(world.database.read(stored))
    assert second not in sealed


def test_rotation_lets_the_old_secret_work_for_a_while(world: World) -> None:
    """R-31."""
    world.put("site", "192.0.2.0/24")
    old = world.set_secret("site")
    new = world.set_secret("site", overlap=timedelta(hours=1))
    assert world.good() == [new, old]
    newest = world.set_secret("site", overlap=timedelta(hours=1))
    assert world.good() == [newest, new]  # two at most
    world.clock.advance(hours=1)
    assert world.good() == [newest]
    drive(world.clients.forget_expired())
    assert world.good() == [newest]
    last = world.set_secret("site")
    assert world.good() == [last]  # without an overlap at once


def test_a_new_client_of_the_same_name_inherits_nothing(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    world.set_secret("site")
    drive(world.objects.delete(ADMIN, "acme", "radius-client", "site"))
    world.put("site", "192.0.2.0/24")
    assert world.good() == []
    assert drive(world.clients.state(ADMIN, "acme", "site")).secret_since is None


def test_a_sealed_secret_of_another_client_is_not_opened(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    world.put("target", "198.51.100.0/24")
    world.set_secret("site")

    def move(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE radius_secrets SET client = 'target'"))

    drive(world.database.write(move))
    assert world.good("198.51.100.1") == []


@pytest.mark.parametrize("text", ["", "has space", "ünicode", "x" * 129, "new\nline"])
def test_secrets_that_cannot_be_typed_everywhere_are_refused(world: World, text: str) -> None:
    world.put("site", "192.0.2.0/24")
    fault = refused(world.clients.set_secret(ADMIN, "acme", "site", Secret(text)))
    assert fault.rule == "document.invalid"


def test_an_absent_client_has_no_secret(world: World) -> None:
    world.put("theirs", "192.0.2.0/24", tenant="other")
    for operation in (world.clients.set_secret, world.clients.state, world.clients.unlearn):
        assert refused(operation(ADMIN, "acme", "theirs")).rule == "radius.client.absent"


def test_a_dry_run_changes_nothing_and_the_journal_holds_no_secret(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    world.set_secret("site", dry_run=True)
    assert world.good() == []
    given = randomness.token_hex(6)
    world.set_secret("site", secret=Secret(given))
    [record] = [
        each
        for each in drive(world.journal.tail("acme"))
        if each.kind == "radius-client.secret-changed"
    ]
    assert given not in str(record)
    assert '"is_short":true' in str(record.data)


def test_auto_learns_once_and_forgets_only_when_told(world: World) -> None:
    """R-08."""
    world.put("site", "192.0.2.0/24", require_message_authenticator="auto")
    assert not world.find("192.0.2.1").must_sign
    drive(world.clients.learn(world.find("192.0.2.1")))
    assert world.find("192.0.2.1").must_sign
    assert drive(world.another().find("192.0.2.1")).must_sign  # type: ignore[union-attr]
    assert drive(world.clients.unlearn(ADMIN, "acme", "site"))
    assert not drive(world.clients.unlearn(ADMIN, "acme", "site"))
    assert not world.find("192.0.2.1").must_sign
    world.put("site", "192.0.2.0/24", require_message_authenticator="yes")
    assert world.find("192.0.2.1").must_sign


def test_what_was_seen_is_written_behind(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    client = world.find("192.0.2.1")
    world.clients.note_seen(client)
    world.clients.note_seen(client, is_unsigned=True)
    seen = world.clock()
    assert drive(world.clients.state(ADMIN, "acme", "site")).seen_at is None
    drive(world.clients.flush())
    world.clock.advance(minutes=1)
    world.clients.note_seen(client)
    drive(world.clients.flush())
    state = drive(world.clients.state(ADMIN, "acme", "site"))
    assert state.seen_at == world.clock()
    assert state.unsigned_at == seen


def _certificate(*names: x509.GeneralName, common_name: str = "x") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    clock = Clock()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock())
        .not_valid_after(clock() + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def test_a_radsec_client_is_known_by_name_or_fingerprint_never_by_common_name(
    world: World,
) -> None:
    """R-30, R-71."""
    pinned = _certificate()
    world.put("named", radsec={"names": ["proxy.example.test", "192.0.2.9"]})
    world.put("pinned", radsec={"fingerprints": [pinned.fingerprint(hashes.SHA256()).hex(":")]})

    def found(certificate: x509.Certificate) -> str | None:
        client = drive(world.clients.find_radsec(certificate))
        return None if client is None else client.name

    assert found(_certificate(x509.DNSName("PROXY.example.test"))) == "named"
    assert found(_certificate(x509.IPAddress(ipaddress.ip_address("192.0.2.9")))) == "named"
    assert found(pinned) == "pinned"
    assert found(_certificate(common_name="proxy.example.test")) is None
    assert found(_certificate(x509.RFC822Name("a@proxy.example.test"))) is None
    assert found(_certificate(x509.DNSName("evil.example.test"))) is None


def test_events_name_who_changed_a_secret(world: World) -> None:
    world.put("site", "192.0.2.0/24")
    world.set_secret("site", overlap=timedelta(hours=2))
    events: list[Any] = drive(world.journal.tail("acme"))
    [record] = [each for each in events if each.kind == "radius-client.secret-changed"]
    assert (record.actor, record.object) == ("local:test", "site")
