"""CMP from the outside: any octets get an answer, and only a good request enrols."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import cmp_client as client
from tests.fuzz.mutations import judge, mutated
from tests.support import drive
from tests.unit.cmp_world import World, new_key, self_signed, world
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp import bodies, codec, protection
from tmad.wire import der
from tmad.wire.signatures import Algorithm

VECTORS = Path(__file__).parents[1] / "vectors" / "cmp"
SEEDS = [path.read_bytes() for path in sorted(VECTORS.glob("*.der"))]
# An answer signed by two keys, and pyasn1 that reads it, are slow on a busy machine.
FEW = settings(max_examples=60, suppress_health_check=list(HealthCheck))
KEY = new_key()


@given(st.binary(max_size=400) | mutated(st.sampled_from(SEEDS)))
def test_decode_is_a_value_or_malformed(data: bytes) -> None:
    result = judge(codec.decode, data)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED
    else:
        # What was read is what is protected, octet by octet.
        header, body = result.protected, result.der
        assert der.read(header, der.SEQUENCE).rest() in body


READERS = (
    bodies.read_requests,
    bodies.read_revocations,
    bodies.read_confirmation,
    bodies.read_poll,
    bodies.read_numbers,
    bodies.read_questions,
    bodies.read_error,
    bodies.read_nested,
)
CONTENTS = [codec.decode(seed).content for seed in SEEDS]


@given(mutated(st.sampled_from(CONTENTS)), st.sampled_from(READERS))
def test_bodies_are_values_or_malformed(data: bytes, reader: object) -> None:
    result = judge(reader, data)  # type: ignore[arg-type]
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


@given(
    st.sampled_from([protection.PASSWORD_BASED_MAC, protection.PBMAC1]),
    st.binary(max_size=80) | mutated(st.sampled_from([
        client.Shared("r", "s").algorithm(),
        client.Shared("r", "s", "pbmac1", 2000).algorithm(),
    ])),
)  # fmt: skip
def test_mac_parameters_are_bounded(oid: bytes, parameters: bytes) -> None:
    result = judge(protection.read_mac, Algorithm(oid, parameters))
    if isinstance(result, Fault):
        assert result.code in (FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM)
    else:
        assert result.rounds <= 200_000
        assert len(result.salt) <= 128


class Door:
    """One world for all examples."""

    def __init__(self) -> None:
        self.world: World = world()
        self.world.responder._senders._services.secrets.admit = (  # type: ignore[method-assign]
            lambda *arguments: None
        )
        self.shared = self.world.shared(uses=None)
        self.holder = self.world.enroll()

    def post(self, data: bytes) -> int:
        answer = self.world.post(data)
        assert answer.status in (200, 400, 403)
        if answer.status == 200:
            codec.decode(answer.body)
        return answer.status


DOOR = Door()
WANTED = client.template(subject=client.name("dev1"), public_key=client.spki(KEY.public_key()))
GOOD = der.sequence(client.crmf(WANTED, KEY))


def recorded() -> list[bytes]:
    """Return one good message of each kind, as the door would take it."""
    shared, holder = DOOR.shared, DOOR.holder
    rr = der.sequence(
        der.sequence(client.template(issuer=holder.certificate.issuer, serial=12345), b"")
    )
    return [
        client.message(client.IR, GOOD, shared, transaction=b"a" * 16),
        client.message(client.CR, GOOD, holder, transaction=b"b" * 16),
        client.message(client.RR, rr, holder, transaction=b"c" * 16),
        client.message(
            client.GENM,
            der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.4.17"))),
            holder,
            transaction=b"d" * 16,
        ),
    ]


RECORDED = recorded()


@FEW
@given(mutated(st.sampled_from(RECORDED), most=2))
def test_no_changed_message_is_served(data: bytes) -> None:
    """Bit flips, truncation, exchanged parts: whatever is changed breaks the protection."""
    before = DOOR.world.issued()
    judge(DOOR.post, data)
    unchanged = any(der_equal(data, seed) for seed in RECORDED)
    assert DOOR.world.issued() == before or unchanged


def der_equal(one: bytes, other: bytes) -> bool:
    """Tell whether two messages differ in nothing that is protected (extraCerts are not)."""
    try:
        a, b = codec.decode(one), codec.decode(other)
    except Fault:
        return False
    return (a.protected, a.protection) == (b.protected, b.protection)


@st.composite
def well_protected_nonsense(draw: st.DrawFn) -> bytes:
    """A message by somebody who is known, with a body that makes little sense."""
    content = draw(st.binary(max_size=100) | mutated(st.sampled_from([*CONTENTS, GOOD])))
    try:
        der.scan(content, elements=1000, depth=20)
    except Fault:
        content = der.octets(content)
    credential: client.Credential = DOOR.shared if draw(st.booleans()) else DOOR.holder
    return client.message(
        draw(st.integers(0, 30)),
        content,
        credential,
        transaction=os.urandom(16),
        recipient_nonce=draw(st.none() | st.just(b"r" * 16)),
        version=draw(st.sampled_from([2, 2, 2, 3])),
    )


@FEW
@given(well_protected_nonsense())
def test_well_protected_nonsense_is_answered(data: bytes) -> None:
    """Whoever is known may ask anything: each answer is CMP, and nobody gets more than his own."""
    judge(DOOR.post, data)


def test_the_world_still_works_afterwards() -> None:
    assert DOOR.world.enroll("afterwards").certificate
    assert drive(DOOR.world.exchanges.attend()) >= 0


# -- the dearest messages (security.md, G-BAD-3: under 50 ms each) ---------------------------


def test_many_rounds_of_somebody_whose_reference_is_known() -> None:
    shared = replace(DOOR.shared, rounds=10_000)
    judge(
        DOOR.post, client.message(client.IR, GOOD, shared, transaction=b"r" * 16, value=b"x" * 20)
    )


def test_as_many_pieces_as_are_read() -> None:
    info = der.sequence(der.oid("1.2.3"))
    judge(
        DOOR.post,
        client.message(
            client.GENM, der.sequence(*[info] * 340), DOOR.holder, transaction=b"p" * 16,
            infos=[info] * 340,
        ),
    )  # fmt: skip


def test_as_many_certificates_as_are_looked_at() -> None:
    key = rsa.generate_private_key(65537, 2048)
    names = [x509.DNSName(f"{number}.example.test") for number in range(100)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(client.name("x" * 60))
        .issuer_name(client.name("y" * 60))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2036, 1, 1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    extra = [certificate.public_bytes(Encoding.DER)] * 20
    octets = client.message(
        client.IR, GOOD, client.Holder(certificate, key), transaction=b"c" * 16, extra=extra
    )
    judge(DOOR.post, octets)


def test_the_largest_key_that_signs() -> None:
    numbers = rsa.RSAPublicNumbers(2**64 - 59, (1 << 16_383) + 1)
    certificate = self_signed(rsa.generate_private_key(65537, 2048)).certificate
    octets = certificate.public_bytes(Encoding.DER)
    old = client.spki(certificate.public_key())
    large = client.spki(numbers.public_key())
    tbs = der.read(octets, der.SEQUENCE).raw().replace(old, large)
    inner = der.Reader(tbs[4:]).rest().replace(old, large)
    forged = der.sequence(
        der.sequence(inner),
        der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER),
        der.tlv(der.BIT_STRING, b"\0" + b"s" * 256),
    )
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL_DER)
    message = client.message(
        client.IR, GOOD, None, transaction=b"l" * 16, algorithm=algorithm,
        value=b"\1" * 2048, extra=[forged], sender=client.directory_name(certificate.subject),
    )  # fmt: skip
    judge(DOOR.post, message)
