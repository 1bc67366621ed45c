"""What a time-stamping authority grants, refuses, signs with and writes down."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import ValidationError

from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.tsa_world import POLICY, World, query
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.protocols.tsa.responder import EndpointOptions
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage import tables
from tmad.wire import der

EXTENSION = der.explicit(0, der.sequence(der.oid("1.2.3"), der.octets(b"")))
SIGNERS = ("p256", "p384", "p521", "rsa-2048", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87")


@pytest.fixture
def world() -> World:
    return World()


def records(world: World, kind: str) -> list[dict[str, Any]]:
    columns = tables.journal.c

    def find(connection: sa.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            sa.select(columns.object, columns.data).where(columns.kind == kind)
        )
        return [{**json.loads(row.data), "object": row.object} for row in rows]

    return drive(world.bench.database.read(find))


def test_tsa_05_and_06_a_token(world: World) -> None:
    stamp = world.stamp(query())
    info = stamp.info.native
    assert info["policy"] == POLICY
    assert info["message_imprint"]["hashed_message"] == hashlib.sha256(b"what is stamped").digest()
    assert info["gen_time"] == world.bench.clock()
    assert info["accuracy"]["seconds"] == 1
    assert info["nonce"] == 42
    assert info["ordering"] is False
    assert stamp.info["tsa"].dump().endswith(stamp.certificate.subject.public_bytes())
    # RFC 5816: the signer's certificate, by its SHA-256 hash, is signed along.
    attributes = {each["type"].native: each["values"] for each in stamp.signer_info["signed_attrs"]}
    assert set(attributes) == {"content_type", "message_digest", "signing_certificate_v2"}
    (identifier,) = attributes["signing_certificate_v2"][0]["certs"]
    encoded = stamp.certificate.public_bytes(Encoding.DER)
    assert identifier["cert_hash"].native == hashlib.sha256(encoded).digest()
    assert identifier["issuer_serial"]["serial_number"].native == stamp.certificate.serial_number
    assert stamp.certificates == [encoded]  # its issuer is a root, which is not sent


def test_tsa_06_no_certificate_unless_asked_for(world: World) -> None:
    assert world.stamp(query(certificate=False)).certificates == []


def test_tsa_07_the_signer_is_for_time_stamping_alone(world: World) -> None:
    certificate = world.stamp(query()).certificate
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert usage.critical
    assert list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    # A token can be checked for two years after the last one that this key signs.
    assert certificate.not_valid_after_utc - world.bench.clock() > timedelta(days=1090)
    current = drive(world.services.service_certificates.current("tsa", "tsa/default"))
    assert current.renew_at - world.bench.clock() <= timedelta(days=365)


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"])
def test_tsa_03_imprints(name: str, world: World) -> None:
    assert world.stamp(query(name)).info["message_imprint"].dump() in query(name)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_each_kind_of_signer(algorithm: str) -> None:
    stamp = World({"signer_algorithm": algorithm}).stamp(query())
    assert KeyAlgorithm(algorithm).value == algorithm
    assert stamp.info["policy"].native == POLICY


def test_the_signer_fits_an_authority_whose_kind_of_key_signs_no_messages() -> None:
    world = World(algorithm=KeyAlgorithm.ED448)
    assert world.stamp(query()).certificate.public_key().curve.name == "secp521r1"
    with pytest.raises(ValidationError, match="SHAKE256"):
        EndpointOptions(policy=POLICY, signer_algorithm="ed448")


def test_tsa_03_what_is_refused_and_how(world: World) -> None:
    assert world.fails(b"garbage") == "bad_data_format"
    assert world.fails(query("sha1")) == "bad_alg"
    assert world.fails(query(policy="1.2.3")) == "unaccepted_policy"
    assert world.fails(query(tail=EXTENSION)) == "unaccepted_extensions"
    assert records(world, "timestamp.made") == []


def test_sha1_and_policies_by_option() -> None:
    world = World({"sha1": True, "policies": ["1.2.3"], "hashes": ["sha512"]})
    assert world.stamp(query("sha1", policy="1.2.3")).info["policy"].native == "1.2.3"
    assert world.stamp(query("sha512", policy=POLICY)).info["policy"].native == POLICY
    assert world.fails(query("sha256")) == "bad_alg"


def test_tsa_01_paths_and_types(world: World) -> None:
    for tail in (b"", b"/", b"/default"):
        assert world.post(query(), tail=tail).status == 200
    assert world.post(query(), tail=b"/a/b").status == 404
    assert world.post(query(), tail=b"/\xff").status == 404
    assert world.post(query(), headers={"content-type": "text/plain"}).status == 415
    assert world.post(query(), headers={}).status == 415
    with pytest.raises(Fault) as caught:  # the edge says 404
        world.post(query(), tail=b"/other")
    assert caught.value.code is FaultCode.NOT_FOUND


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match="policy"):
        EndpointOptions()
    for bad in ({"policy": "x"}, {"policies": ("1",)}, {"accuracy_ms": 1}, {"digits": 0}):
        with pytest.raises(ValidationError):
            EndpointOptions(**({"policy": POLICY} | bad))


# -- time -------------------------------------------------------------------------------------


def test_tsa_08_a_clock_that_nobody_keeps_right(world: World) -> None:
    world.bound = None
    assert world.fails(query()) == "time_not_available"
    world.bound = 1.0  # as wrong as is promised at most, and a millisecond is cut off
    assert world.fails(query()) == "time_not_available"
    world.bound = 0.99
    world.stamp(query())


def test_tsa_08_a_clock_that_an_administrator_vouches_for() -> None:
    world = World({"clock": "vouched"})
    world.bound = None
    world.stamp(query())
    world.bench.clock.advance(seconds=0.5)
    world.stamp(query())
    world.bench.clock.advance(seconds=-3)
    assert world.fails(query()) == "time_not_available"
    world.bench.clock.advance(seconds=3)
    world.stamp(query())


def test_tsa_08_a_step_is_believed_when_the_clock_is_synchronised(world: World) -> None:
    world.bench.clock.advance(seconds=-100)
    world.stamp(query())
    world.bound = None
    world.change(options={**world.options, "clock": "vouched"})
    world.stamp(query())  # measured from the step on
    world.bench.clock.advance(hours=1)
    world.since_boot += 3600
    world.stamp(query())


def test_tsa_08_a_step_while_the_token_waits_for_the_key(world: World) -> None:
    world.stamp(query())
    use = world.bench.keyring.use

    async def slow(key_id, operation):
        world.bench.clock.advance(minutes=5)
        return await use(key_id, operation)

    world.bench.keyring.use = slow
    assert world.fails(query()) == "time_not_available"
    assert len(records(world, "timestamp.made")) == 1


def test_the_time_is_that_of_the_signature_and_not_of_the_request(world: World) -> None:
    world.stamp(query())
    begin = world.bench.clock()
    use = world.bench.keyring.use

    async def slow(key_id, operation):
        world.bench.clock.advance(minutes=5)
        world.since_boot += 300
        return await use(key_id, operation)

    world.bench.keyring.use = slow
    assert world.stamp(query()).info["gen_time"].native == begin + timedelta(minutes=5)


# -- serial numbers and records ---------------------------------------------------------------


def test_serial_numbers_need_no_memory(world: World) -> None:
    serials = {world.stamp(query()).serial for _ in range(50)}
    world.responder = world.another()  # another worker, or after a crash
    serials |= {world.stamp(query()).serial for _ in range(50)}
    assert len(serials) == 100
    assert all(0 < serial < 2**159 for serial in serials)
    assert max(serials) > 2**150


def test_each_token_stands_in_the_journal_before_it_leaves(world: World) -> None:
    stamp = world.stamp(query("sha512"))
    (record,) = records(world, "timestamp.made")
    assert record["object"] == "endpoint/tsa/default"
    assert record["serial"] == f"{stamp.serial:x}"
    assert record["digest"] == hashlib.sha512(b"what is stamped").hexdigest()
    assert record["signer"] == f"{stamp.certificate.serial_number:x}"
    assert record["peer"] == "192.0.2.7"

    async def broken(*events):
        raise Fault(FaultCode.UNAVAILABLE, "the database is away")

    world.bench.journal.write = broken
    assert world.fails(query()) == "system_failure"


def test_tokens_are_counted_where_that_is_enough() -> None:
    world = World({"journal": "count"})
    for _ in range(3):
        world.stamp(query())
        world.bench.clock.advance(seconds=1)
        world.since_boot += 1
    assert records(world, "timestamp.made") == []
    write = world.bench.journal.write

    async def broken(*events):
        # One is made while the record is being written.
        world.stamp(query())
        raise Fault(FaultCode.UNAVAILABLE, "the database is away")

    world.bench.journal.write = broken
    with pytest.raises(Fault):
        drive(world.responder.count())
    world.bench.journal.write = write
    drive(world.responder.count())
    drive(world.responder.count())
    (record,) = records(world, "timestamp.counted")
    assert record["count"] == 4
    assert record["since"] < record["until"]


# -- the signer -------------------------------------------------------------------------------


def change_status(world: World, reason: Reason | None) -> int:
    current = drive(world.services.service_certificates.current("tsa", "tsa/default"))
    serial = current.certificate.serial_number
    revocation = world.bench.revocation
    if reason is None:
        drive(revocation.release(ADMIN, "default", current.issuer_id, serial))
    else:
        drive(revocation.revoke(ADMIN, "default", current.issuer_id, serial, reason))
    return serial


def test_a_revoked_signer_is_followed_by_another_at_the_very_next_request(world: World) -> None:
    world.stamp(query())
    old = change_status(world, Reason.KEY_COMPROMISE)
    assert world.stamp(query()).certificate.serial_number != old
    other = world.another()
    world.responder = other
    assert world.stamp(query()).certificate.serial_number != old


def test_a_signer_on_hold_signs_nothing_until_it_is_released(world: World) -> None:
    world.stamp(query())
    held = change_status(world, Reason.CERTIFICATE_HOLD)
    assert world.fails(query()) == "system_failure"
    assert change_status(world, None) == held
    assert world.stamp(query()).certificate.serial_number == held


def test_the_key_is_changed_after_a_year_and_old_tokens_stay_good(world: World) -> None:
    old = world.stamp(query()).certificate
    world.bench.clock.advance(days=366)
    world.since_boot += 366 * 86_400
    assert drive(world.services.service_certificates.renew_due()) == 1
    assert world.stamp(query()).certificate != old
    assert old.not_valid_after_utc > world.bench.clock() + timedelta(days=700)


def test_a_profile_that_is_not_for_time_stamping(world: World) -> None:
    world.change(profile="tls-server")
    assert world.fails(query()) == "system_failure"
    world.change(profile="timestamping")
    world.stamp(query())


def test_an_error_of_ours_tells_nothing(world: World) -> None:
    async def broken(key_id, operation):
        raise RuntimeError("secret words")

    world.stamp(query())
    world.bench.keyring.use = broken
    assert world.fails(query()) == "system_failure"
    assert b"secret" not in world.post(query()).body
