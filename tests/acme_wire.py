"""A small ACME client over TLS, and a web server that answers its http-01 challenges.

It signs with tests/unit/acme_world.py, keeps its connection, and repeats what got no answer with
a new nonce, as RFC 8555, 6.5 tells clients to.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.acme_world import JOSE, algorithm, b64, jwk, make_csr, sign, thumbprint

PATIENCE = 120.0  # seconds; what a worker that died has begun is free after 30


@dataclass
class Reply:
    """An answer: ``body`` is its JSON, ``raw`` the octets."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)

    @property
    def problem(self) -> str:
        if self.status < 400:
            return ""
        return str(self.body["type"]).rsplit(":")[-1]


@dataclass
class Client:
    """One account at one directory; ``ca`` is a file with the root."""

    directory: str
    ca: str
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    kid: str = ""
    is_patient: bool = True  # asks again when the server is away
    repeated: int = 0
    _nonce: str = ""
    _connection: http.client.HTTPSConnection | None = None
    _places: dict[str, str] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        if not self._places:
            self._places = self.send("GET", self.directory).body
        return self._places

    def send(self, method: str, url: str, body: bytes | None = None) -> Reply:
        """Send once; OSError or HTTPException when there is no answer."""
        parts = urlsplit(url)
        if self._connection is None:
            context = ssl.create_default_context(cafile=self.ca)
            self._connection = http.client.HTTPSConnection(
                str(parts.hostname), parts.port or 443, context=context, timeout=20
            )
        try:
            self._connection.request(method, parts.path, body, {"Content-Type": JOSE})
            answer = self._connection.getresponse()
            reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        except BaseException:
            self.close()
            raise
        self._nonce = reply.headers.get("Replay-Nonce", self._nonce)
        return reply

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def post(self, url: str, payload: Any = "", *, key: Any = None) -> Reply:
        """Sign and send until there is an answer; with ``key``, as whoever has that one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                reply = self._post(url, payload, key)
            except (OSError, http.client.HTTPException):
                if not self.is_patient or time.monotonic() > deadline:
                    raise
            else:
                if reply.problem != "badNonce" and reply.status != 503:
                    return reply
                if time.monotonic() > deadline:
                    return reply
            self.repeated += 1
            time.sleep(0.1)

    def _post(self, url: str, payload: Any, key: Any) -> Reply:
        if not self._nonce:
            self.send("HEAD", self.places["newNonce"])
        nonce, self._nonce = self._nonce, ""
        signer = key or self.key
        header: dict[str, Any] = {"alg": algorithm(signer), "nonce": nonce, "url": url}
        header |= {"kid": self.kid} if self.kid and key is None else {"jwk": jwk(signer)}
        return self.send("POST", url, sign(signer, header, payload))

    def register(self, **payload: Any) -> Client:
        """Get an account."""
        reply = self.post(self.places["newAccount"], payload)
        assert reply.status in (200, 201), reply.raw
        self.kid = reply.headers["Location"]
        return self

    def order(self, *names: str, **other: Any) -> Reply:
        wanted = [{"type": "ip" if name[0].isdigit() else "dns", "value": name} for name in names]
        return self.post(self.places["newOrder"], {"identifiers": wanted, **other})

    def prove(self, order: Reply, desk: Desk, kind: str = "http-01") -> None:
        """Answer every challenge of a kind that an order still needs."""
        for url in order.body["authorizations"]:
            found = self.post(url).body
            if found["status"] != "pending":
                continue
            (challenge,) = [each for each in found["challenges"] if each["type"] == kind]
            token = challenge["token"]
            desk.answers[token] = f"{token}.{b64(thumbprint(self.key))}"
            reply = self.post(challenge["url"], {})
            assert reply.status == 200, reply.raw

    def settled(self, url: str, *states: str) -> Reply:
        """Look at an order until it is in one of the states."""
        deadline = time.monotonic() + PATIENCE
        while True:
            reply = self.post(url)
            assert reply.status == 200, reply.raw
            if reply.body["status"] in states:
                return reply
            assert time.monotonic() < deadline, reply.raw
            time.sleep(0.05)

    def issued(self, *names: str, desk: Desk | None = None) -> x509.Certificate:
        """Go all the way, whatever happens in between; return the certificate."""
        order = self.order(*names)
        assert order.status == 201, order.raw
        url = order.headers["Location"]
        if desk is not None:
            self.prove(order, desk)
        request = make_csr(*names)
        found = self.settled(url, "ready", "invalid")
        while found.body["status"] != "valid":
            assert found.body["status"] != "invalid", found.raw
            if found.body["status"] == "ready":
                self.post(found.body["finalize"], {"csr": b64(request)})
            # A process that dies leaves it ready again, after a while.
            found = self.settled(url, "ready", "valid", "invalid")
        return x509.load_pem_x509_certificates(self.post(found.body["certificate"]).raw)[0]


class Desk:
    """A web server that answers challenges; ``answers`` maps tokens to key authorisations.

    For any other token it answers for the account with the ``thumbprint``, if there is one.
    """

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.thumbprint = ""
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                token = self.path.rsplit("/", 1)[-1]
                common = f"{token}.{desk.thumbprint}" if desk.thumbprint else ""
                text = desk.answers.get(token, common).encode()
                self.send_response(200 if text else 404)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("0.0.0.0", 0), Handler)  # all of 127.0.0.0/8
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def desk() -> Iterator[Desk]:
    """Run a web server for challenges."""
    made = Desk()
    try:
        yield made
    finally:
        made.close()
