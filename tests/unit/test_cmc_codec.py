"""CMC structures: what an independent encoder writes is read, and what we write it reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pyasn1_alt_modules import rfc6402

from tests import cmc_client as client
from tests.unit.cmc_world import name
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.protocols.cmc import codec, controls, layers, requests, witnesses
from tmad.protocols.cmc.codec import FailInfo, Status, StatusInfo
from tmad.wire import authenticated, cms, der
from tmad.wire.authenticated import AuthenticatedData
from tmad.wire.signatures import Age, Algorithm, Policy

VECTORS = Path(__file__).parents[1] / "vectors" / "cmc"
MODERN, LEGACY = Policy(), Policy(Age.LEGACY)
SECRET = "a secret of the vectors"


def vector(title: str) -> bytes:
    return (VECTORS / f"{title}.der").read_bytes()


def control(title: str, oid: bytes) -> codec.Control:
    (found,) = codec.decode(vector(title)).of_type(oid)
    return found


# -- vectors --------------------------------------------------------------------------------


def test_every_vector_is_described_and_every_pkidata_read() -> None:
    readme = (VECTORS / "README.md").read_text()
    for path in sorted(VECTORS.glob("*.der")):
        assert f"`{path.name}`" in readme
        if not path.stem.startswith(("message-", "response-")):
            data = codec.decode(path.read_bytes())
            again = client.decode(path.read_bytes(), rfc6402.PKIData())
            assert [c.id for c in data.controls] == [
                int(c["bodyPartID"]) for c in again["controlSequence"]
            ]
            assert data.requests_der == client.encode(again["reqSequence"])


def test_an_identity_proof_of_the_vectors_holds() -> None:
    data = codec.decode(vector("pkidata-identity-proof-v2"))
    witness = controls.witness(data.only(codec.IDENTITY_PROOF_V2).value)  # type: ignore[union-attr]
    reference = controls.text(data.only(codec.IDENTIFICATION))  # type: ignore[arg-type]
    assert reference == "4711"
    for secret, words, covered, is_right in (
        (SECRET, reference, data.requests_der, True),
        (SECRET, "", data.requests_der, False),
        ("another", reference, data.requests_der, False),
        (SECRET, reference, data.requests_der[:-1] + b"x", False),
    ):
        assert witnesses.is_identity(witness, Secret(secret), words, covered, MODERN) is is_right


def test_a_pop_link_of_the_vectors_holds() -> None:
    for title in ("pkidata-pop-link-pkcs10", "pkidata-pop-link-crmf"):
        data = codec.decode(vector(title))
        random = controls.octets(data.only(codec.POP_LINK_RANDOM))  # type: ignore[arg-type]
        wish = requests.read(data.requests[0], MODERN)
        assert wish.link is not None
        assert witnesses.is_linked(wish.link, Secret(SECRET), "4711", random, MODERN)
        assert not witnesses.is_linked(wish.link, Secret("x"), "4711", random, MODERN)


def test_signed_and_authenticated_vectors_hold() -> None:
    layer = layers.decode(layers.normalise(vector("message-signed")))
    assert isinstance(layer, cms.SignedData)
    signer = layers.the_signer(layer)
    assert signer is not None
    shown = layers.certificate_of(layer, signer)
    assert shown is not None
    cms.verify(layer, signer, shown.certificate.public_key(), MODERN)
    layer = layers.decode(layers.normalise(vector("message-no-signature")))
    assert isinstance(layer, cms.SignedData)
    signer = layers.the_signer(layer)
    assert signer is not None
    assert layers.is_unsigned(signer)
    layers.check_digest(layer, signer, MODERN)
    sealed = layers.decode(layers.normalise(vector("message-authenticated")))
    assert isinstance(sealed, AuthenticatedData)
    assert authenticated.is_made_with(sealed, Secret("4711" + SECRET), MODERN)
    assert not authenticated.is_made_with(sealed, Secret(SECRET), MODERN)


def test_controls_of_the_vectors_say_what_the_readme_says() -> None:
    revoke = controls.revoke_request(control("pkidata-revoke", codec.REVOKE_REQUEST))
    assert (revoke.certificate.serial, revoke.reason) == (0x1234, 1)
    assert revoke.invalidity_date == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert revoke.passphrase is not None
    assert revoke.passphrase.reveal() == SECRET.encode()
    assert revoke.comment == "lost in a taxi"
    assert SECRET not in repr(revoke)
    cert = controls.get_cert(control("pkidata-lookups", codec.GET_CERT))
    assert cert.serial == 0x1234
    crl = controls.get_crl(control("pkidata-lookups", codec.GET_CRL))
    assert crl.at == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert crl.issuer == cert.issuer == name("vector CA").public_bytes()
    change = controls.mod_cert_template(control("pkidata-authority", codec.MOD_CERT_TEMPLATE))
    assert (change.path, change.requests, change.replaces) == ((1, 2), (201,), False)
    added = controls.add_extensions(control("pkidata-authority", codec.ADD_EXTENSIONS))
    assert (added.path, added.requests) == ((1,), (201,))
    vouched = controls.lra_pop_witness(control("pkidata-authority", codec.LRA_POP_WITNESS))
    assert vouched == (0, (201, 202))
    done = controls.references(control("pkidata-authority", codec.CONTROL_PROCESSED))
    assert done == ((7,), (1, 2, 3))
    assert controls.ids(control("pkidata-authority", codec.BATCH_REQUESTS)) == (1, 2)
    decrypted = controls.decrypted_pop(control("pkidata-decrypted-pop", codec.DECRYPTED_POP))
    assert decrypted.request == 201
    data = codec.decode(vector("pkidata-decrypted-pop"))
    value = Secret(bytes(range(32)))
    assert witnesses.is_proof(
        decrypted.algorithm,
        decrypted.value,
        value,
        data.requests[0].der,  # type: ignore[union-attr]
    )


# -- what is written ------------------------------------------------------------------------


def test_statuses_are_read_by_pyasn1() -> None:
    at = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    for info in (
        StatusInfo(status=Status.SUCCESS, parts=((1,), (2, 3))),
        StatusInfo(status=Status.FAILED, parts=((1,),), text="no", fail_info=FailInfo.BAD_TIME),
        StatusInfo(status=Status.PENDING, parts=((1,),), token=b"token", again_at=at),
    ):
        read = client.decode(info.encode(), rfc6402.CMCStatusInfoV2())
        assert client.encode(read) == info.encode()
        old = client.decode(info.encode_old(), rfc6402.CMCStatusInfo())
        assert client.encode(old) == info.encode_old()


def test_a_response_is_read_by_pyasn1() -> None:
    octets = codec.pki_response(
        [(codec.TRANSACTION_ID, der.integer(5)), (codec.AUTH_DATA, der.integer(1))],
        [(1, cms.degenerate())],
    )
    read = client.decode(octets, rfc6402.PKIResponse())
    assert client.encode(read) == octets
    assert [int(c["bodyPartID"]) for c in read["controlSequence"]] == [2, 3]
    data = codec.pki_data([(codec.TRANSACTION_ID, der.integer(5))])
    assert client.encode(client.decode(data, rfc6402.PKIData())) == data


# -- bounds ---------------------------------------------------------------------------------


def test_rounds_of_strangers_are_bounded() -> None:
    """T-CMP-02's rule: numbers that a stranger chose buy no time."""
    parameters = der.sequence(der.octets(b"s" * 16), der.integer(2**31), der.integer(32))
    key = Algorithm(der.oid("1.2.840.113549.1.5.12"), parameters)
    witness = controls.Witness(key=key, mac=witnesses.HMAC_SHA256, value=b"")
    with pytest.raises(Fault) as caught:
        witnesses.is_linked(witness, Secret("s"), "", b"", MODERN)
    assert caught.value.code is FaultCode.BAD_ALGORITHM
    message = client.authenticated(client.pki_data(), b"s", rounds=60_000)
    with pytest.raises(Fault) as caught:
        authenticated.decode(message)
    assert caught.value.rule == "wire.authenticated.rounds"


def test_old_algorithms_are_a_policys_question() -> None:
    witness = witnesses.old(b"\0" * 20)
    with pytest.raises(Fault):
        witnesses.is_identity(witness, Secret("s"), "", b"", MODERN)
    assert not witnesses.is_identity(witness, Secret("s"), "", b"", LEGACY)


def test_a_proof_value_is_a_key_of_64_octets_at_most() -> None:
    long = Secret(b"v" * 64 + b"more")
    assert witnesses.proof_of(long, b"r") == witnesses.proof_of(Secret(b"v" * 64), b"r")


def test_a_transaction_differs_by_what_is_asked_and_by_whom() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    octets = client.pki_data(requests=[client.tcr(1, client.csr(key, name("a")))])
    wish = requests.read(codec.decode(octets).requests[0], MODERN)
    found = {
        requests.transaction_of(wish, sender, number)
        for sender in (b"a", b"b")
        for number in (b"", b"1")
    }
    assert len(found) == 4
