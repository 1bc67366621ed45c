"""An ACME client on certbot's library, for what the command-line clients cannot do."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import josepy as jose
from acme import client, messages
from acme.jws import JWS
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.unit.validation_world import certificate as make_certificate
from tests.unit.validation_world import heard, server, tls_context

ACME_IDENTIFIER = "1.3.6.1.5.5.7.1.31"


class Account:
    """One account and what it does; requests trust one CA file."""

    def __init__(self, directory: str, trust: Path, *, is_rsa: bool = False) -> None:
        self.key: Any
        if is_rsa:
            self.key = jose.JWKRSA(key=rsa.generate_private_key(65537, 2048))
        else:
            self.key = jose.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
        self.net = client.ClientNetwork(self.key, alg=jose.RS256 if is_rsa else jose.ES256)
        self.net.verify_ssl = str(trust)  # type: ignore[assignment]  # requests takes a file
        self.acme = client.ClientV2(client.ClientV2.get_directory(directory, self.net), self.net)

    def register(self, **more: Any) -> messages.RegistrationResource:
        new = messages.NewRegistration.from_data(terms_of_service_agreed=True, **more)
        return self.acme.new_account(new)

    def post(self, url: str, payload: Any) -> Any:
        """Post any JSON as the account; None is POST-as-GET."""
        if payload is None:
            return self.acme._post_as_get(url)
        return self.acme._post(url, _Plain(payload))

    def order(
        self, csr: x509.CertificateSigningRequest, solve: Any, **more: Any
    ) -> x509.Certificate:
        """Order what a CSR asks for; ``solve(account, authorisation)`` answers challenges."""
        made = self.acme.new_order(csr.public_bytes(Encoding.PEM), **more)
        for authorization in made.authorizations:
            if authorization.body.status != messages.STATUS_VALID:
                solve(self, authorization)
        return self.finish(made)

    def finish(self, made: messages.OrderResource) -> x509.Certificate:
        done = self.acme.poll_and_finalize(made, _soon(30))
        return x509.load_pem_x509_certificates(done.fullchain_pem.encode())[0]

    def renew_replacing(self, name: str, certid: str) -> Any:
        """Order with ``replaces`` (RFC 9773, 5), which certbot's library leaves out."""
        answer = self.post(self.acme.directory["newOrder"], {
            "identifiers": [{"type": "dns", "value": name}], "replaces": certid,
        })  # fmt: skip
        return answer.json()

    def begin(self, authorization: messages.AuthorizationResource, kind: str) -> str:
        """Return the key authorisation of a challenge."""
        return next(
            challenge.chall.key_authorization(self.key)
            for challenge in authorization.body.challenges
            if challenge.chall.typ == kind
        )

    def answer(self, authorization: messages.AuthorizationResource, kind: str) -> None:
        """Say that a challenge is ready, and wait for the outcome."""
        for challenge in authorization.body.challenges:
            if challenge.chall.typ == kind:
                self.acme.answer_challenge(challenge, challenge.chall.response(self.key))
        end = time.monotonic() + 40
        while time.monotonic() < end:
            found = self.post(authorization.uri, None).json()
            if found["status"] == "valid":
                return
            if found["status"] == "invalid":
                raise AssertionError(found)
            time.sleep(0.2)
        raise AssertionError("no outcome of the challenge")

    def answer_plain(self, authorization: str, url: str, payload: Any) -> dict[str, Any]:
        """Post to a challenge that certbot's library does not know; return the authorisation."""
        self.post(url, payload)
        end = time.monotonic() + 40
        while time.monotonic() < end:
            found: dict[str, Any] = self.post(authorization, None).json()
            if found["status"] != "pending":
                return found
            time.sleep(0.2)
        raise AssertionError("no outcome of the challenge")

    def change_key(self) -> None:
        """Take another key (RFC 8555, 7.3.5)."""
        new = jose.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))
        url = self.acme.directory["keyChange"]
        assert self.net.account is not None
        change = {
            "account": self.net.account.uri,
            "oldKey": self.key.public_key().fields_to_partial_json()
            | {"kty": self.key.public_key().typ},
        }
        inner = JWS.sign(json.dumps(change).encode(), key=new, alg=jose.ES256, nonce=None, url=url)
        self.post(url, json.loads(inner.json_dumps()))
        self.key = self.net.key = new


class _Plain(jose.JSONDeSerializable):
    """JSON as it is."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def to_partial_json(self) -> Any:
        return self._value

    @classmethod
    def from_json(cls, jobj: Any) -> Any:
        return cls(jobj)


def _soon(seconds: float) -> Any:
    return datetime.now() + timedelta(seconds=seconds)  # noqa: DTZ005  as the library compares


def make_csr(*names: x509.GeneralName, key: Any = None, common_name: str = "") -> Any:
    """Return a CSR."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), SHA256())


@contextlib.contextmanager
def http_solver(port: int) -> Iterator[Any]:
    """Answer http-01 on loopback; yield the function that solves."""
    answers: dict[str, str] = {}

    def serve(connection: socket.socket) -> None:
        # A validator that has run out of patience says nothing at all.
        path = [*heard(connection).split(), b"", b""][1].decode()
        body = answers.get(path, "").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    def solve(account: Account, authorization: messages.AuthorizationResource) -> None:
        said = account.begin(authorization, "http-01")
        answers[f"/.well-known/acme-challenge/{said.partition('.')[0]}"] = said
        account.answer(authorization, "http-01")

    solve.answers = answers  # type: ignore[attr-defined]
    with server(serve, port=port):
        yield solve


@contextlib.contextmanager
def alpn_solver(port: int, folder: Path) -> Iterator[Any]:
    """Answer tls-alpn-01 on loopback, with Python's ssl; yield the function that solves."""
    contexts: list[ssl.SSLContext] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):
            contexts[-1].wrap_socket(connection, server_side=True).close()

    def solve(account: Account, url: str, name: x509.GeneralName) -> dict[str, Any]:
        found = account.post(url, None).json()
        (challenge,) = [each for each in found["challenges"] if each["type"] == "tls-alpn-01"]
        said = f"{challenge['token']}.{thumbprint(account.key)}"
        digest = b"\x04\x20" + sha256(said.encode()).digest()
        shown, key = make_certificate(name, extensions=((ACME_IDENTIFIER, True, digest),))
        contexts.append(tls_context(folder, shown, key, ("acme-tls/1",)))
        return account.answer_plain(url, challenge["url"], {})

    with server(serve, port=port):
        yield solve


def thumbprint(key: Any) -> str:
    """Return the RFC 7638 thumbprint of an account key."""
    return base64.urlsafe_b64encode(key.thumbprint()).rstrip(b"=").decode()
