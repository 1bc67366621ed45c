"""What tests of sessions share: logins, reports, and a small NAS that takes orders (RFC 5176)."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support import Clock
from tmad.identity.credentials import new_id
from tmad.network.clients import Client, RadiusClientDocument, Shared
from tmad.network.logins import Admitted
from tmad.network.sessions import Report
from tmad.network.visit import Visit

NAS_SECRET = b"between-nas-and-tmad"
MAC = "0200000000aa"


def visit(**changes: Any) -> Visit:
    """Return one login at a switch."""
    known: dict[str, Any] = {
        "tenant": "default",
        "client": "switch",
        "tags": (),
        "address": "192.0.2.1",
        "nas_identifier": "sw1",
        "nas_port": "1",
        "nas_port_type": 15,
        "ssid": "",
        "called_station": "0200000000ff",
        "calling_station": MAC,
        "calling_station_sent": "02-00-00-00-00-AA",
        "service_type": 2,
        "user_name": "anonymous",
        "session_key": "A1",
    }
    return Visit(**(known | changes))


def admitted(clock: Clock, **changes: Any) -> Admitted:
    """Return the answer to a login."""
    known: dict[str, Any] = {
        "session": new_id(clock()),
        "user_name": "laptop.example.com",
        "policy": "staff",
        "rule": "all",
        "attributes": (),
        "session_timeout": None,
        "certificate": None,
        "person": None,
        "device": None,
    }
    return Admitted(**(known | changes))


def report(status: int, **changes: Any) -> Report:
    """Return one accounting record of that switch; its content is all that it says."""
    known: dict[str, Any] = {
        "tenant": "default",
        "client": "switch",
        "address": "192.0.2.1",
        "identifier": "sw1",
        "status": status,
        "session_key": "A1",
        "user_name": "laptop.example.com",
        "calling_station": MAC,
        "calling_sent": "02-00-00-00-00-AA",
    }
    known |= changes
    said = {key: str(value) for key, value in known.items() if key not in ("delay", "content")}
    known.setdefault("content", json.dumps(said, sort_keys=True).encode())
    return Report(**known)


def client(secrets: tuple[bytes, ...] = (NAS_SECRET,), **document: Any) -> Client:
    """Return the switch as the RADIUS doors know it."""
    from tmad.events import Secret

    return Client(
        tenant="default",
        name="switch",
        document=RadiusClientDocument.model_validate({"prefixes": ["192.0.2.1/32"]} | document),
        shared=tuple(Shared(Secret(secret), None) for secret in secrets),
        signed_since=None,
    )


@dataclass
class NAS:
    """A dynamic authorization server, written from RFC 5176 and not with tmad's codec.

    ``answer`` gets code and attributes of an authentic request and returns code and
    Error-Cause; None is silence. What is not authentic is dropped and counted.
    """

    secret: bytes = NAS_SECRET
    answer: Callable[[int, dict[int, bytes]], tuple[int, int | None] | None] = (
        lambda code, attributes: (code + 1, None)
    )
    signs: bool = True
    requests: list[tuple[int, dict[int, bytes]]] = field(default_factory=list)
    octets: list[bytes] = field(default_factory=list)
    dropped: int = 0

    def receive(self, datagram: bytes) -> bytes | None:
        """Return the answer to one datagram."""
        self.octets.append(datagram)
        attributes: dict[int, bytes] = {}
        at, places = 20, {}
        while at < len(datagram):
            kind, length = datagram[at], datagram[at + 1]
            attributes[kind] = datagram[at + 2 : at + length]
            places[kind] = at
            at += length
        zeroed = datagram[:4] + bytes(16) + datagram[20:]
        signed = bytearray(zeroed)
        signed[places[80] + 2 : places[80] + 18] = bytes(16)
        if hashlib.md5(zeroed + self.secret).digest() != datagram[4:20] or attributes[
            80
        ] != hmac.digest(self.secret, signed, "md5"):
            self.dropped += 1
            return None
        self.requests.append((datagram[0], attributes))
        decided = self.answer(datagram[0], attributes)
        if decided is None:
            return None
        code, cause = decided
        return self.reply(datagram, code, cause)

    def reply(self, datagram: bytes, code: int, cause: int | None = None) -> bytes:
        """Return an authentic answer to a request."""
        body = b"" if cause is None else bytes((101, 6)) + cause.to_bytes(4)
        if self.signs:
            body = bytes((80, 18)) + bytes(16) + body
        head = bytes((code, datagram[1])) + (20 + len(body)).to_bytes(2)
        if self.signs:
            mac = hmac.digest(self.secret, head + datagram[4:20] + body, "md5")
            body = bytes((80, 18)) + mac + body[18:]
        proof = hashlib.md5(head + datagram[4:20] + body + self.secret).digest()
        return head + proof + body


class ListeningNAS:
    """That server on a UDP port of loopback; used as a context."""

    def __init__(self, nas: NAS) -> None:
        self.nas = nas
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port: int = self._socket.getsockname()[1]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> ListeningNAS:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            try:
                datagram, source = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            answer = self.nas.receive(datagram)
            if answer is not None:
                self._socket.sendto(answer, source)

    def wait_for(self, count: int, seconds: float = 10.0) -> float:
        """Wait until so many requests have come; return the seconds that it took."""
        begin = time.monotonic()
        while len(self.nas.requests) < count:
            assert time.monotonic() - begin < seconds, f"{len(self.nas.requests)} requests"
            time.sleep(0.01)
        return time.monotonic() - begin
