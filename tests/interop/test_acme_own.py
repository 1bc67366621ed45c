"""ACME by certbot's library, for what command lines cannot say: ARI, addresses, key change,
deactivation, other authorities, databases, tokens, processes."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from acme import messages
from acme.errors import ConflictError
from acme.errors import Error as ACMEError
from acme.messages import Error as Problem
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acme_client import Account, alpn_solver, http_solver, make_csr
from tests.interop.acme_world import ACMENode, a_node, dns_names
from tests.postgres import start_cluster
from tests.softhsm import create_token
from tests.unit.validation_world import redirect, saying, server

pytestmark = pytest.mark.interop

A = x509.DNSName("a.example.test")
HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
ALGORITHMS = ["rsa-2048", "p384", "ed25519", "ml-dsa-65"]


node = a_node()


def account(node: ACMENode, label: str = "default", **more: Any) -> Account:
    found = Account(node.directory(label), node.trust, **more)
    found.register()
    return found


def issued_with_http(
    node: ACMENode, who: Account, *names: x509.GeneralName, **more: Any
) -> x509.Certificate:
    with http_solver(node.http_port) as solve:
        return who.order(make_csr(*names), solve, **more)


def certid(certificate: x509.Certificate) -> str:
    """Return the CertID of RFC 9773, 4.1, by the book."""
    aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    number = certificate.serial_number
    octets = number.to_bytes(number.bit_length() // 8 + 1)
    assert aki.key_identifier is not None
    return ".".join(
        base64.urlsafe_b64encode(each).rstrip(b"=").decode()
        for each in (aki.key_identifier, octets)
    )


def renewal_window(node: ACMENode, who: Account, certificate: x509.Certificate) -> Any:
    answer = who.net.get(f"{who.acme.directory['renewalInfo']}/{certid(certificate)}",
                         content_type="application/json")  # fmt: skip
    assert int(answer.headers["Retry-After"]) > 0
    return messages.RenewalInfo.from_json(answer.json()).suggested_window


def test_ari_says_when_and_a_renewal_says_what_it_replaces(node: ACMENode) -> None:
    who = account(node)
    first = issued_with_http(node, who, A)
    pem = first.public_bytes(Encoding.PEM)
    when, _ = who.acme.renewal_time(pem)
    assert when is not None
    assert first.not_valid_before_utc < when < first.not_valid_after_utc
    made = who.renew_replacing("a.example.test", certid(first))
    assert made["replaces"] == certid(first)
    # The name was validated just now.
    assert made["status"] == "ready"
    csr = base64.urlsafe_b64encode(make_csr(A).public_bytes(Encoding.DER)).rstrip(b"=")
    done = who.post(made["finalize"], {"csr": csr.decode()}).json()
    assert done["status"] in ("processing", "valid")
    # The library's word for 409, which is alreadyReplaced's.
    with pytest.raises(ConflictError):
        who.renew_replacing("a.example.test", certid(first))


def test_ari_of_a_revoked_certificate_lies_in_the_past(node: ACMENode) -> None:
    who = account(node, is_rsa=True)
    certificate = issued_with_http(node, who, A)
    assert renewal_window(node, who, certificate).end > datetime.now(UTC)
    who.acme.revoke(certificate, 1)
    window = renewal_window(node, who, certificate)
    assert window.start < window.end < datetime.now(UTC)
    shown = node.daemon.json("cert", "show", f"{certificate.serial_number:x}")
    assert shown["status"] == "revoked"


def test_an_address_by_http_01(node: ACMENode) -> None:
    certificate = issued_with_http(node, account(node), HERE)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [HERE]


@pytest.mark.parametrize("name", [HERE, A], ids=["address", "name"])
def test_tls_alpn_01(node: ACMENode, tmp_path: Path, name: x509.GeneralName) -> None:
    who = account(node)
    made = who.acme.new_order(make_csr(name).public_bytes(Encoding.PEM))
    with alpn_solver(node.tls_port, tmp_path) as solve:
        found = solve(who, made.authorizations[0].uri, name)
    assert found["status"] == "valid", found
    certificate = who.finish(made)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [name]


def test_a_key_changes_and_the_old_one_is_no_more(node: ACMENode) -> None:
    who = account(node)
    issued_with_http(node, who, A)
    old = who.key
    who.change_key()
    issued_with_http(node, who, A)
    who.net.key = old
    with pytest.raises(Problem):
        who.acme.new_order(make_csr(A).public_bytes(Encoding.PEM))


def test_what_is_deactivated_counts_no_more(node: ACMENode) -> None:
    who = account(node)
    issued_with_http(node, who, A)
    pem = make_csr(A).public_bytes(Encoding.PEM)
    again = who.acme.new_order(pem)
    assert again.body.status.name == "ready"
    who.acme.deactivate_authorization(again.authorizations[0])
    with pytest.raises((Problem, ACMEError)):
        who.finish(again)
    assert who.acme.new_order(pem).body.status.name == "pending"
    assert who.net.account is not None
    who.acme.deactivate_registration(who.net.account)
    with pytest.raises(Problem) as caught:
        who.acme.new_order(pem)
    assert caught.value.code == "unauthorized"


def test_others_orders_are_not_ones_own(node: ACMENode) -> None:
    """T-ACME-09: what A made, asked for with B's key."""
    one, two = account(node), account(node)
    made = one.acme.new_order(make_csr(A).public_bytes(Encoding.PEM))
    challenge = made.authorizations[0].body.challenges[0]
    urls = [made.uri, made.authorizations[0].uri, challenge.uri, made.body.finalize]
    for url in urls:
        with pytest.raises(Problem) as caught:
            two.post(url, None)
        assert caught.value.code in ("unauthorized", "malformed")


@pytest.mark.long  # ten seconds of retries; test_validation_http01.py has it without them
def test_a_redirect_into_the_appliance_is_not_followed(node: ACMENode) -> None:
    """The server that is asked sends the validator to the appliance's own HTTPS port."""
    node.endpoint("inward", **{"validation.tls_port": node.daemon.https_port})
    who = account(node, "inward")
    made = who.acme.new_order(make_csr(A).public_bytes(Encoding.PEM))
    target = f"https://127.0.0.1:{node.daemon.https_port}/acme/inward/directory"
    with (
        server(saying(redirect(target)), port=node.http_port),
        pytest.raises(AssertionError, match="appliance's own"),
    ):
        who.answer(made.authorizations[0], "http-01")


# -- other keys, other databases, tokens, processes -------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_authorities_with_each_kind_of_key(node: ACMENode, algorithm: str) -> None:
    node.daemon.tmad("ca", "create", algorithm, "--algorithm", algorithm, "--parent", "root")
    node.endpoint(algorithm, "--ca", algorithm)
    certificate = issued_with_http(node, account(node, algorithm), A)
    issuer = x509.load_pem_x509_certificate(node.daemon.pem(algorithm).read_bytes())
    certificate.verify_directly_issued_by(issuer)
    assert dns_names(certificate) == ["a.example.test"]


def test_an_authority_in_a_token(require_client: Callable[[str], str], tmp_path: Path) -> None:
    require_client("softhsm2-util")
    token = create_token(tmp_path / "softhsm")
    node = ACMENode(tmp_path / "node", settings=token.toml, environment=token.environment)
    node.daemon.tmad("ca", "create", "hsm", "--algorithm", "p256", "--parent", "root",
                     "--store", "pkcs11")  # fmt: skip
    node.endpoint("hsm", "--ca", "hsm")
    node.daemon.start()
    try:
        certificate = issued_with_http(node, account(node, "hsm"), A)
        issuer = x509.load_pem_x509_certificate(node.daemon.pem("hsm").read_bytes())
        certificate.verify_directly_issued_by(issuer)
    finally:
        node.close()


def test_postgresql_and_two_workers(tmp_path: Path) -> None:
    node = ACMENode(tmp_path / "node", "--db", start_cluster().empty_database(), workers=2)
    node.daemon.start()
    try:
        # Each request on a connection of its own: both workers take part in one order.
        for _ in range(2):
            who = account(node)
            who.net.session.headers["Connection"] = "close"
            certificate = issued_with_http(node, who, A, x509.DNSName("b.example.test"))
            assert dns_names(certificate) == ["a.example.test", "b.example.test"]
    finally:
        node.close()
