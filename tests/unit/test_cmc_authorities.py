"""Registration authorities over CMC: what they wrap, change and vouch for (RFC 10002, 6.5)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import x25519
from pyasn1_alt_modules import rfc5280, rfc6402

from tests import cmc_client as client
from tests.cmc_client import (
    BAD_CERT_ID,
    BAD_IDENTITY,
    BAD_REQUEST,
    FAILED,
    SUCCESS,
    integer,
    numbers,
    pki_data,
    signed,
    tcr,
)
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmc_world import World, name, world
from tests.unit.cmp_world import new_key
from tmad.ca.status import Reason

SAN = "2.5.29.17"


@pytest.fixture
def w() -> World:
    return world()


def names(*texts: str) -> bytes:
    return x509.SubjectAlternativeName([x509.DNSName(text) for text in texts]).public_bytes()


def dns_of(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


def wrapped(w: World, key: Any, *, number: int = 201, common: str = "dev1") -> bytes:
    """Return a client's own full request, shown by a shared secret."""
    reference, secret = w.known()
    requests = [tcr(number, client.csr(key, name(common)))]
    return signed(pki_data(client.proof(reference, secret, requests), requests), key=key)


def unproved(key: Any, *, number: int = 201, common: str = "dev1") -> bytes:
    """Return a client's full request that shows nothing but its key."""
    return signed(pki_data(requests=[tcr(number, client.csr(key, name(common)))]), key=key)


# -- simple requests in the authority's own message -----------------------------------------


def test_an_authority_asks_for_many(w: World) -> None:
    ra = w.authority_holder()
    keys = [new_key() for _ in range(3)]
    requests = [tcr(n, client.csr(key, name(f"dev{n}"))) for n, key in enumerate(keys, 1)]
    answer = w.ask(signed(pki_data([(50, client.TRANSACTION, integer(1))], requests), ra))
    assert answer.statuses == [(SUCCESS, (n,), None) for n in (1, 2, 3)]
    for number, key in enumerate(keys, 1):
        assert answer.certified(key).subject == name(f"dev{number}")


def test_an_authority_vouches_for_possession(w: World) -> None:
    ra = w.authority_holder()
    key = new_key()
    request = client.crm(7, key, name("dev1"), proof="keyEncipherment")
    content = pki_data([(50, client.LRA_WITNESS, client.vouch(0, [7]))], [request])
    answer = w.ask(signed(content, ra))
    assert answer.certified(key)
    request = client.crm(7, new_key(), name("dev2"), proof="raVerified")
    assert w.ask(signed(pki_data(requests=[request]), ra)).certificates


def test_an_authority_changes_its_own_requests(w: World) -> None:
    ra = w.authority_holder()
    key = new_key()
    requests = [tcr(1, client.csr(key, name("draft"), names=[x509.DNSName("old.example.test")]))]
    change = client.modify(
        [0], [1], subject=name("final"), extensions=[(SAN, names("a.example.test"))]
    )
    answer = w.ask(signed(pki_data([(50, client.MOD_TEMPLATE, change)], requests), ra))
    certificate = answer.certified(key)
    assert certificate.subject == name("final")
    assert dns_of(certificate) == ["a.example.test"]
    # And takes away.
    key = new_key()
    requests = [tcr(1, client.csr(key, name("dev2"), names=[x509.DNSName("old.example.test")]))]
    change = client.modify([0], [1], extensions=[(SAN, names("any.example.test"))], replace=False)
    answer = w.ask(signed(pki_data([(50, client.MOD_TEMPLATE, change)], requests), ra))
    with pytest.raises(x509.ExtensionNotFound):
        dns_of(answer.certified(key))


@pytest.mark.parametrize("field", ["publicKey", "serialNumber", "issuer"])
def test_an_authority_changes_names_and_extensions_only(w: World, field: str) -> None:
    ra = w.authority_holder()
    template = rfc6402.ModCertTemplate()
    template["pkiDataReference"].extend([0])
    template["certReferences"].extend([1])
    inside = template["certTemplate"]
    if field == "publicKey":
        plain = client.decode(client.spki(new_key().public_key()), rfc5280.SubjectPublicKeyInfo())
        key_info = inside["publicKey"].clone()
        key_info["algorithm"] = plain["algorithm"]
        key_info["subjectPublicKey"] = plain["subjectPublicKey"]
        inside["publicKey"] = key_info
    elif field == "serialNumber":
        inside["serialNumber"] = 5
    else:
        inside["issuer"]["rdnSequence"] = client.decode(
            name("x").public_bytes(), rfc5280.RDNSequence()
        )
    requests = [tcr(1, client.csr(new_key(), name("dev1")))]
    controls = [(50, client.MOD_TEMPLATE, client.encode(template))]
    answer = w.ask(signed(pki_data(controls, requests), ra))
    assert answer.statuses == [(FAILED, (1,), BAD_REQUEST)], answer.told


# -- full requests of clients ---------------------------------------------------------------


def test_a_batch_gets_an_answer_for_each(w: World) -> None:
    """RFC 10002, B.2: two clients, one of whom is refused."""
    ra = w.authority_holder()
    key = new_key()
    good, bad = wrapped(w, key), unproved(new_key())
    controls = [
        (102, client.BATCH, numbers(1, 2)),
        (103, client.ADD_EXTENSIONS,
         client.add_extensions(1, [201], [(SAN, names("dev1.example.test"))])),
        (104, client.TRANSACTION, integer(77)),
    ]  # fmt: skip
    answer = w.ask(signed(pki_data(controls, messages=[(1, good), (2, bad)]), ra))
    assert answer.statuses == [(SUCCESS, (102,), None)]
    assert answer.controls[client.TRANSACTION] == [integer(77)]
    assert answer.controls[client.BATCH_RESPONSES] == [numbers(1, 2)]
    certificate = answer.inner(1).certified(key)
    assert dns_of(certificate) == ["dev1.example.test"]
    assert answer.inner(2).statuses == [(FAILED, (201,), BAD_IDENTITY)]


def test_the_outermost_authority_has_the_last_word(w: World) -> None:
    ra = w.authority_holder()
    key = new_key()
    inner = pki_data(
        [(9, client.BATCH, numbers(3)),
         (10, client.MOD_TEMPLATE, client.modify([3], [201], subject=name("inner")))],
        messages=[(3, wrapped(w, key))],
    )  # fmt: skip
    outer = pki_data(
        [(9, client.BATCH, numbers(5)),
         (10, client.MOD_TEMPLATE, client.modify([5, 3], [201], subject=name("outer")))],
        messages=[(5, signed(inner, ra))],
    )  # fmt: skip
    answer = w.ask(signed(outer, ra))
    certificate = answer.inner(5).inner(3).certified(key)
    assert certificate.subject == name("outer")


@pytest.mark.parametrize("path", ["request", "proof"])
def test_an_authority_stands_for_an_identity(w: World, path: str) -> None:
    ra = w.authority_holder()
    key = new_key()
    message = unproved(key)
    leads = [1]
    if path == "proof":
        # A secret that only the authority knows: here nobody could check it.
        requests = [tcr(201, client.csr(key, name("dev1")))]
        proved = client.witness("theirs", client.sequence_of(requests))
        content = pki_data([(88, client.PROOF_V2, proved)], requests)
        message = signed(content, key=key)
        leads = [1, 88]
    controls = [(5, client.RA_IDENTITY, numbers(*leads))]
    answer = w.ask(signed(pki_data(controls, messages=[(1, message)]), ra))
    assert answer.inner(1).certified(key).subject == name("dev1")
    # Without it nobody knows who that is.
    answer = w.ask(signed(pki_data([(5, client.BATCH, numbers(1))], messages=[(1, message)]), ra))
    assert answer.inner(1).statuses[0][::2] == (FAILED, BAD_IDENTITY)


def test_a_wrapped_key_that_only_decrypts(w: World) -> None:
    rules = {
        "via": ["cmc"],
        "keys": {"algorithms": ["x25519"]},
        "subject": {"attributes": {"CN": {}}},
        "extensions": {"key_usage": ["key_agreement"]},
    }
    ra = w.authority_holder()
    drive(w.objects.put(ADMIN, "default", "profile", "agreeing", rules))
    drive(w.open("cmc", "iot", profile="agreeing", registration_authorities=["cmc-ra"]))
    key = x25519.X25519PrivateKey.generate()
    request = client.crm(201, key, name("dev1"), proof="keyEncipherment")
    message = signed(pki_data(requests=[request]), no_signature=b"k")
    identity = (5, client.RA_IDENTITY, numbers(1))
    possession = (6, client.LRA_WITNESS, client.vouch(1, [201]))
    content = pki_data([identity, possession], messages=[(1, message)])
    assert w.ask(signed(content, ra)).inner(1).certified(key)


def test_who_vouches_for_possession_vouches_for_the_identity_too(w: World) -> None:
    """One without the other is popFailed, as RFC 10002, 6.8 lets a server say."""
    ra = w.authority_holder()
    key = new_key()
    reference, secret = w.known()
    request = client.crm(201, key, name("dev1"), proof="keyEncipherment")
    content = pki_data(client.proof(reference, secret, [request]), [request])
    message = signed(content, no_signature=b"k")
    possession = (6, client.LRA_WITNESS, client.vouch(1, [201]))
    answer = w.ask(signed(pki_data([possession], messages=[(1, message)]), ra))
    assert answer.inner(1).statuses == [(FAILED, (201,), client.POP_FAILED)]


def test_what_an_authority_has_processed_is_left_alone(w: World) -> None:
    ra = w.authority_holder()
    key = new_key()
    reference, secret = w.known()
    requests = [tcr(201, client.csr(key, name("dev1")))]
    foreign = [(70, "1.2.3.4", b"\x05\x00"), (71, "1.2.3.5", b"\x05\x00")]
    content = pki_data([*client.proof(reference, secret, requests), *foreign], requests)
    message = signed(content, key=key)
    batch = (5, client.BATCH, numbers(1))
    answer = w.ask(signed(pki_data([batch], messages=[(1, message)]), ra))
    assert answer.inner(1).statuses == [(FAILED, (70, 71), BAD_REQUEST)]
    done = (6, client.PROCESSED, client.processed([1, 70], [1, 71]))
    answer = w.ask(signed(pki_data([batch, done], messages=[(1, message)]), ra))
    assert answer.inner(1).certified(key)
    own = [(7, "1.2.3.4", b"\x05\x00"), (8, client.PROCESSED, client.processed([7]))]
    answer = w.ask(signed(pki_data(own, [tcr(1, client.csr(new_key(), name("x")))]), ra))
    assert answer.certificates


def test_an_authority_lends_its_word_not_its_rights(w: World) -> None:
    """A client's revocation in a message that an authority vouches for is the client's own."""
    ra = w.authority_holder()
    victim = w.enroll_by_secret("victim")
    key = new_key()
    requests = [tcr(201, client.csr(key, name("dev1")))]
    control = (9, client.REVOKE, client.revoke(victim.certificate))
    message = signed(pki_data([control], requests), key=key)
    content = pki_data([(5, client.RA_IDENTITY, numbers(1))], messages=[(1, message)])
    answer = w.ask(signed(content, ra))
    assert answer.inner(1).statuses[0] == (FAILED, (9,), BAD_IDENTITY)
    assert w.status_of(victim.certificate) == "good"
    # Its own revocations are: of what its endpoint has issued.
    answer = w.ask(signed(pki_data([control]), ra))
    assert answer.statuses == [(SUCCESS, (9,), None)]
    assert w.status_of(victim.certificate) == "revoked"


# -- who is one -----------------------------------------------------------------------------

CONTROLS = {
    "batch": (client.BATCH, numbers(1)),
    "modify": (client.MOD_TEMPLATE, client.modify([0], [1], subject=name("root"))),
    "add": (client.ADD_EXTENSIONS, client.add_extensions(0, [1], [(SAN, names("x.example"))])),
    "pop": (client.LRA_WITNESS, client.vouch(0, [1])),
    "identity": (client.RA_IDENTITY, numbers(1)),
    "processed": (client.PROCESSED, client.processed([1])),
}


@pytest.mark.parametrize("control", sorted(CONTROLS))
@pytest.mark.parametrize("who", ["a holder", "a secret"])
def test_nobody_else_says_such_a_thing(w: World, control: str, who: str) -> None:
    key = new_key()
    kind, value = CONTROLS[control]
    requests = [tcr(1, client.csr(key, name("dev1")))]
    controls: list[Any] = [(50, kind, value)]
    if who == "a secret":
        reference, secret = w.known()
        controls += client.proof(reference, secret, requests)
        message = signed(pki_data(controls, requests), key=key)
        before = 0
    else:
        holder = w.enroll_by_secret()
        requests = [tcr(1, client.csr(key, holder.certificate.subject))]
        message = signed(pki_data(controls, requests), holder)
        before = 1
    answer = w.ask(message)
    assert answer.statuses == [(FAILED, (50,), BAD_IDENTITY)]
    assert '"cmc.ra.control"' in w.why(answer)
    assert w.issued_by_cmc() == before


def test_the_purpose_alone_and_the_configuration_alone_make_none(w: World) -> None:
    """CMC-23: id-kp-cmcRA and the endpoint's own word, both."""
    configured = w.authority_holder(has_purpose=False)
    requests = [tcr(1, client.csr(new_key(), name("dev1")))]
    answer = w.ask(signed(pki_data(requests=requests), configured))
    assert answer.statuses == [(FAILED, (0,), BAD_IDENTITY)]
    assert '"cmc.ra.purpose"' in w.why(answer)
    other = world()
    ra = other.authority_holder()
    drive(other.open("cmc", "iot", challenge={"recoverable": True}))
    before = other.issued_by_cmc()
    answer = other.ask(signed(pki_data(requests=requests), ra))
    assert answer.statuses == [(FAILED, (1,), BAD_IDENTITY)]
    assert other.issued_by_cmc() == before


def test_an_authority_that_was_revoked_is_none(w: World) -> None:
    ra = w.authority_holder()
    issuer = drive(w.hierarchy.active("default", "devices"))
    number = ra.certificate.serial_number
    drive(w.revocation.revoke(ADMIN, "default", issuer.id, number, Reason.KEY_COMPROMISE))
    requests = [tcr(1, client.csr(new_key(), name("dev1")))]
    answer = w.ask(signed(pki_data(requests=requests), ra))
    assert answer.statuses == [(FAILED, (0,), BAD_IDENTITY)]


@pytest.mark.parametrize(
    "control",
    [
        (client.BATCH, numbers(77)),
        (client.MOD_TEMPLATE, client.modify([77], [1], subject=name("x"))),
        (client.MOD_TEMPLATE, client.modify([0], [77], subject=name("x"))),
        (client.LRA_WITNESS, client.vouch(77, [1])),
        (client.RA_IDENTITY, numbers(77)),
        (client.BATCH, b"\x30\x00"),
    ],
)
def test_a_reference_to_nothing_is_refused(w: World, control: tuple[int, bytes]) -> None:
    ra = w.authority_holder()
    before = w.issued_by_cmc()
    requests = [tcr(1, client.csr(new_key(), name("dev1")))]
    answer = w.ask(signed(pki_data([(50, *control)], requests), ra))
    assert answer.statuses[0][::2] == (FAILED, BAD_REQUEST), answer.told
    assert w.issued_by_cmc() == before


def test_layers_and_requests_are_bounded(w: World) -> None:
    ra = w.authority_holder()
    message = wrapped(w, new_key())
    for _ in range(6):
        content = pki_data([(5, client.BATCH, numbers(1))], messages=[(1, message)])
        message = signed(content, ra)
    answer = w.ask(message)
    for _ in range(4):
        answer = answer.inner(1)
    assert answer.statuses == [(FAILED, (0,), BAD_REQUEST)]
    assert '"cmc.ra.depth"' in w.why(answer)
    junk = signed(
        pki_data([(5, client.BATCH, numbers(1))], messages=[(1, w.ask(message).octets)]), ra
    )
    assert w.ask(junk).inner(1).statuses == [(FAILED, (0,), BAD_REQUEST)]


def test_an_authority_may_not_be_the_holder_of_what_others_have(w: World) -> None:
    ra = w.authority_holder()
    drive(w.open("cmc", "other", challenge={"recoverable": True}))
    other = w.enroll_by_secret_at("other", "dev9")
    control = (9, client.REVOKE, client.revoke(other.certificate))
    assert w.ask(signed(pki_data([control]), ra)).statuses == [(FAILED, (9,), BAD_CERT_ID)]


def test_an_authority_sees_what_its_endpoint_has_issued(w: World) -> None:
    ra = w.authority_holder()
    drive(w.open("cmc", "other", challenge={"recoverable": True}))
    here, there = w.enroll_by_secret("dev1"), w.enroll_by_secret_at("other", "dev9")
    for holder, is_seen in ((here, True), (there, False)):
        value = client.get_cert(holder.certificate.issuer, holder.certificate.serial_number)
        answer = w.ask(signed(pki_data([(5, client.GET_CERT, value)]), ra))
        assert (holder.certificate in answer.certificates) is is_seen
