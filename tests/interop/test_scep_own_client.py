"""The tests' own SCEP client against the running daemon: what no packaged client can do."""

from __future__ import annotations

import base64
import urllib.parse
import urllib.request

import pytest
from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests import scep_client as client
from tests.daemon import Daemon

pytestmark = pytest.mark.interop
KEY = rsa.generate_private_key(65537, 2048)


def ra_of(url: str) -> x509.Certificate:
    status, headers, body = client.fetch(url, "GetCACert")
    assert (status, headers["content-type"]) == (200, "application/x-x509-ca-ra-cert")
    first = cms.ContentInfo.load(body)["content"]["certificates"][0]
    return x509.load_der_x509_certificate(first.chosen.dump())


def pkcs_req(
    ra: x509.Certificate, secret: str, key: rsa.RSAPrivateKey = KEY, **how: object
) -> client.Message:
    request = client.make_csr(key, "own.example.test", challenge=secret)
    return client.make_message(
        client.make_envelope(request, ra),
        client.self_signed(key),
        **how,  # type: ignore[arg-type]
    )


def send(
    url: str, message: client.Message, ra: x509.Certificate, *, post: bool = True
) -> client.Reply:
    status, headers, body = client.fetch(url, "PKIOperation", message.der, post=post)
    assert (status, headers["content-type"]) == (200, "application/x-pki-message"), body
    return client.read_reply(body, message, ra)


@pytest.mark.parametrize("post", [True, False])
def test_enrolment_and_retransmission(daemon: Daemon, post: bool) -> None:
    url = daemon.endpoint(f"own-{'post' if post else 'get'}")
    ra = ra_of(url)
    message = pkcs_req(ra, daemon.secret(url.removeprefix(f"{daemon.url}/")))
    first = send(url, message, ra, post=post)
    assert first.status == client.SUCCESS, first.text
    assert first.certificates[0].public_key() == KEY.public_key()
    # SCEP-45: sent again, the same certificate and no second one.
    assert send(url, message, ra, post=post).certificates == first.certificates


def test_gen_03_plus_in_a_get_stays_a_plus(daemon: Daemon) -> None:
    """Apple escapes only the equals sign; the daemon must not turn + into a space."""
    url = daemon.endpoint("own-plus")
    ra = ra_of(url)
    message = pkcs_req(ra, daemon.secret("scep/own-plus"))
    text = base64.b64encode(message.der).decode()
    assert "+" in text
    target = f"{url}?operation=PKIOperation&message={urllib.parse.quote(text, safe='+/')}"
    with urllib.request.urlopen(target, timeout=20) as answer:
        assert client.read_reply(answer.read(), message, ra).status == client.SUCCESS


def test_refusals_have_the_documented_codes_and_the_next_client_is_served(daemon: Daemon) -> None:
    url = daemon.endpoint("own-bad")
    ra = ra_of(url)
    stranger = client.self_signed(rsa.generate_private_key(65537, 2048)).certificate
    wrong = [
        (pkcs_req(ra, "no such challenge"), "2"),
        (pkcs_req(ra, "x", spoil_signature=True), "1"),
        (pkcs_req(ra, "x", message_type="18"), "2"),
        (pkcs_req(ra, "x", signers=2), "2"),
        (pkcs_req(ra, "x", digest="md5"), "0"),
        (pkcs_req(stranger, "x"), "1"),
    ]
    for message, fail_info in wrong:
        reply = send(url, message, ra)
        assert (reply.status, reply.fail_info) == (client.FAILURE, fail_info)
    assert client.fetch(url, "PKIOperation", b"garbage", post=True)[0] == 400
    assert client.fetch(f"{daemon.url}/scep/nobody", "GetCACaps")[0] == 404
    good = pkcs_req(ra, daemon.secret("scep/own-bad"))
    assert send(url, good, ra).status == client.SUCCESS


def test_scep_48_get_cert_and_get_crl(daemon: Daemon) -> None:
    url = daemon.endpoint("own-query")
    ra = ra_of(url)
    issued = send(url, pkcs_req(ra, daemon.secret("scep/own-query")), ra).certificates[0]
    own = client.self_signed(KEY)
    wanted = client.make_envelope(client.issuer_and_serial(issued), ra)
    reply = send(url, client.make_message(wanted, own, message_type="21"), ra)
    assert reply.certificates == [issued]
    reply = send(url, client.make_message(wanted, own, message_type="22"), ra)
    ca = x509.load_pem_x509_certificate(daemon.pem("issuing").read_bytes())
    assert reply.crls[0].is_signature_valid(ca.public_key())  # type: ignore[arg-type]


def test_challenge_of_another_endpoint(daemon: Daemon) -> None:
    daemon.endpoint("own-one")
    url = daemon.endpoint("own-two")
    ra = ra_of(url)
    reply = send(url, pkcs_req(ra, daemon.secret("scep/own-one")), ra)
    assert (reply.status, reply.fail_info) == (client.FAILURE, "2")
