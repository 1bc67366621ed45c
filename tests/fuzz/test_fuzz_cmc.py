"""CMC from the outside: any octets get an answer, and only a good request enrols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import cmc_client as client
from tests.fuzz.mutations import judge, mutated
from tests.unit.cmc_world import FULL, World, name, world
from tests.unit.cmp_world import issued_by, new_key, self_signed
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmc import codec, controls, layers, requests, witnesses
from tmad.wire import authenticated, cms, der
from tmad.wire.signatures import Algorithm, Policy

VECTORS = Path(__file__).parents[1] / "vectors" / "cmc"
MESSAGES = [path.read_bytes() for path in sorted(VECTORS.glob("message-*.der"))]
DATA = [path.read_bytes() for path in sorted(VECTORS.glob("pkidata-*.der"))]
# An answer is signed, which is slow on a busy machine.
FEW = settings(max_examples=50, suppress_health_check=list(HealthCheck))


@given(st.binary(max_size=400) | mutated(st.sampled_from(DATA)))
def test_decode_is_a_value_or_malformed(data: bytes) -> None:
    result = judge(codec.decode, data)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED
    else:
        assert result.requests_der in data
        assert all(request.der in data for request in result.requests if hasattr(request, "der"))


READERS = (
    controls.octets, controls.transaction_id, controls.text, controls.decrypted_pop,
    controls.get_crl, controls.get_cert, controls.revoke_request, controls.certificate_id,
    controls.ids, controls.references, controls.mod_cert_template, controls.add_extensions,
    controls.lra_pop_witness, controls.status_info,
)  # fmt: skip
VALUES = [
    value
    for octets in DATA
    for control in codec.decode(octets).controls
    for value in control.values
] + [client.status_v2(2, 1, text="no")]


@given(mutated(st.sampled_from(VALUES)), st.sampled_from(READERS))
def test_controls_are_values_or_malformed(value: bytes, reader: Any) -> None:
    try:
        der.scan(value, elements=codec.ELEMENTS, depth=codec.DEPTH)
    except Fault:
        return  # as little as the PKIData around it would be read
    result = judge(reader, codec.Control(1, codec.REG_INFO, (value,)))
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED


WITNESSES = [client.witness("s", b"x"), client.link_by_pbkdf2("s", b"x", rounds=10_000)[1]]
NAMES = [client.new_name(name("a"), [x509.DNSName("a.example")])]


@given(mutated(st.sampled_from(WITNESSES + NAMES)))
def test_witnesses_are_bounded(value: bytes) -> None:
    names = judge(controls.change_subject_name, value)
    if isinstance(names, Fault):
        assert names.code is FaultCode.MALFORMED
    witness = judge(controls.witness, value)
    if isinstance(witness, Fault):
        assert witness.code is FaultCode.MALFORMED
        return
    found = judge(witnesses.is_linked, witness, client_secret(), "", b"r", Policy())
    if isinstance(found, Fault):
        assert found.code in (FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM)


def client_secret() -> Secret:
    return Secret("s")


@given(st.binary(max_size=400) | mutated(st.sampled_from(MESSAGES)))
def test_layers_are_values_or_faults(data: bytes) -> None:
    octets = judge(layers.normalise, data)
    if isinstance(octets, Fault):
        assert octets.code is FaultCode.MALFORMED
        return
    layer = judge(layers.decode, octets)
    if isinstance(layer, Fault):
        assert layer.code in (FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM)
    elif isinstance(layer, cms.SignedData):
        judge(layers.the_signer, layer)
        for signer in layer.signers:
            judge(layers.certificate_of, layer, signer)
            judge(layers.check_digest, layer, signer, Policy())


SEALED = client.authenticated(client.pki_data(), b"password", rounds=1_000)


@given(mutated(st.sampled_from([SEALED])))
def test_authenticated_data_is_bounded(data: bytes) -> None:
    try:
        octets = layers.normalise(data)
    except Fault:
        return
    found = judge(authenticated.decode, octets)
    if isinstance(found, Fault):
        assert found.code in (FaultCode.MALFORMED, FaultCode.BAD_ALGORITHM)
        return
    assert found.recipient.rounds in authenticated.ROUNDS
    right = judge(authenticated.is_made_with, found, client_secret(), Policy())
    assert isinstance(right, Fault) or not right


REQUESTS = [codec.decode(octets).requests for octets in DATA]
TAGGED = [request.der for found in REQUESTS for request in found if hasattr(request, "der")]


@given(mutated(st.sampled_from(TAGGED)))
def test_requests_are_values_or_faults(tagged: bytes) -> None:
    octets = der.sequence(der.sequence(), der.sequence(tagged), der.sequence(), der.sequence())
    try:
        data = codec.decode(octets)
    except Fault:
        return
    for request in data.requests:
        found = judge(requests.read, request, Policy())
        if isinstance(found, Fault):
            assert found.code in (
                FaultCode.MALFORMED, FaultCode.UNSUPPORTED, FaultCode.BAD_ALGORITHM,
                FaultCode.BAD_PROOF, FaultCode.REJECTED,
            )  # fmt: skip
        else:
            judge(found.is_named, b"k")


# -- the whole door -------------------------------------------------------------------------


class Door:
    """One world for all examples."""

    def __init__(self) -> None:
        self.world: World = world(options={"envelopes": True})
        self.world.secrets.admit = lambda *arguments: None  # type: ignore[method-assign]
        self.known = self.world.known(uses=None)
        self.holder = self.world.enroll_by_secret()
        self.authority = self.world.authority_holder()

    def post(self, data: bytes, media_type: str = FULL) -> int:
        answer = self.world.send(data, media_type=media_type)
        assert answer.status in (200, 400)
        if answer.status == 200:
            layers.decode(answer.body)
        return answer.status


DOOR = Door()


def recorded() -> list[bytes]:
    """Return one good message of each kind, as the door would take it."""
    reference, secret = DOOR.known
    key = new_key()
    asked = [client.tcr(1, client.csr(key, name("dev1")))]
    named = [(7, client.IDENTIFICATION, client.utf8(reference))]
    own = client.csr(key, DOOR.holder.certificate.subject)
    batch = [(9, client.BATCH, client.numbers(3))]
    proved = client.signed(
        client.pki_data(client.proof(reference, secret, asked), asked), no_signature=b"k"
    )
    return [
        proved,
        client.authenticated(
            client.pki_data(named, asked), (reference + secret).encode(), rounds=1_000
        ),
        client.signed(client.pki_data(requests=[client.tcr(1, own)]), DOOR.holder),
        client.signed(client.pki_data(batch, messages=[(3, proved)]), DOOR.authority),
    ]


RECORDED = recorded()
BEFORE = DOOR.world.issued_by_cmc()


@FEW
@given(mutated(st.sampled_from(RECORDED), most=2))
def test_no_changed_message_is_served(data: bytes) -> None:
    """Bit flips, truncation, exchanged parts: whatever is changed breaks what covers it.

    An identity proof covers the requests alone: with it other controls may be said, and the same
    certificate is issued.
    """
    judge(DOOR.post, data)
    assert DOOR.world.issued_by_cmc() <= BEFORE + len(RECORDED)


@st.composite
def well_signed_nonsense(draw: st.DrawFn) -> bytes:
    """A message by somebody who is known, with a content that makes little sense."""
    content = draw(st.binary(max_size=100) | mutated(st.sampled_from(DATA)))
    if draw(st.booleans()):
        reference, secret = DOOR.known
        return client.authenticated(content, (reference + secret).encode(), rounds=1_000)
    holder = DOOR.authority if draw(st.booleans()) else DOOR.holder
    return client.signed(content, holder)


@FEW
@given(well_signed_nonsense())
def test_well_signed_nonsense_is_answered(data: bytes) -> None:
    """Whoever is known may ask anything: each answer is CMC, and nobody gets more than his own."""
    judge(DOOR.post, data)


@FEW
@given(st.binary(max_size=200) | mutated(st.just(client.csr(new_key(), name("dev1")))))
def test_simple_nonsense_is_answered(data: bytes) -> None:
    judge(DOOR.post, data, "application/pkcs10")


def test_the_world_still_works_afterwards() -> None:
    assert DOOR.world.enroll_by_secret("afterwards").certificate


# -- the dearest messages (security.md, G-BAD-3: under 50 ms each) ---------------------------


def test_many_rounds_of_somebody_whose_reference_is_known() -> None:
    named = [(7, client.IDENTIFICATION, client.utf8(DOOR.known[0]))]
    judge(DOOR.post, client.authenticated(client.pki_data(named), b"wrong", rounds=50_000))
    link = client.link_by_pbkdf2(DOOR.known[1], b"r", rounds=10_000)
    asked = [client.tcr(1, client.csr(new_key(), name("dev1"), attributes=[link]))]
    content = client.pki_data(
        [*client.proof(*DOOR.known, asked), (client.LINK_RANDOM, client.octets(b"s"))], asked
    )
    judge(DOOR.post, client.signed(content, no_signature=b"k"))


def test_as_many_pieces_as_are_read() -> None:
    pieces = [(number, client.REG_INFO, client.octets(b"")) for number in range(1, 240)]
    judge(DOOR.post, client.signed(client.pki_data(pieces), DOOR.holder))
    empty = der.sequence(*[der.sequence(der.integer(n), der.oid("1.2"), der.tlv(der.SET))
                           for n in range(1, 300)])  # fmt: skip
    content = der.sequence(empty, der.sequence(), der.sequence(), der.sequence())
    judge(DOOR.post, client.signed(content, DOOR.holder))


def test_as_many_certificates_as_are_looked_at() -> None:
    maker = self_signed(new_key(), "CA")
    holder = issued_by(client.Holder(maker.certificate, maker.key), "x" * 60, new_key())  # type: ignore[arg-type]
    extra = [self_signed(new_key(), f"{number}" * 20).certificate for number in range(19)]
    message = client.signed(
        client.pki_data(), client.Holder(holder.certificate, holder.key),
        certificates=[holder.certificate, *extra],
    )  # fmt: skip
    judge(DOOR.post, message)


def test_an_algorithm_that_nobody_knows_is_told_so() -> None:
    witness = controls.Witness(
        key=Algorithm(der.oid("1.2")), mac=Algorithm(der.oid("1.2")), value=b""
    )
    found = judge(witnesses.is_linked, witness, client_secret(), "", b"", Policy())
    assert isinstance(found, Fault)
