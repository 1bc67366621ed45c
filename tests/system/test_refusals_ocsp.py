"""OCSP against everybody who asks badly (security 2.4, pki-protocols 8.4).

One bounded answer for each, never "good" for what was not issued, and the next client is served.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from asn1crypto import algos, core, ocsp, parser  # type: ignore[import-untyped]  # ships no types
from asn1crypto import x509 as ax509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp as asked

from tests import scep_client as client
from tests.daemon import Daemon
from tests.system.desk import Desk, desk_of
from tests.system.visitor import Visitor, knock

SUCCESSFUL = asked.OCSPResponseStatus.SUCCESSFUL
MALFORMED = asked.OCSPResponseStatus.MALFORMED_REQUEST
UNAUTHORIZED = asked.OCSPResponseStatus.UNAUTHORIZED
NONCE = "1.3.6.1.5.5.7.48.1.2"
# RFC 9919 keeps clients from answers that are larger than what Windows would read.
LONGEST_ANSWER = 20_000


@dataclass
class World:
    """A daemon with a few certificates, good and revoked."""

    daemon: Daemon
    desk: Desk
    ca: x509.Certificate
    good: x509.Certificate
    revoked: x509.Certificate
    issued: list[x509.Certificate]

    def post(self, body: bytes, path: str = "/ocsp") -> tuple[int, dict[str, str], bytes]:
        """Ask by POST."""
        return knock(self.daemon.url, "POST", path, body)

    def ask(self, body: bytes, path: str = "/ocsp") -> asked.OCSPResponse:
        """Ask by POST and read the answer, which is one whatever was asked."""
        status, headers, answer = self.post(body, path)
        assert (status, headers["content-type"]) == (200, "application/ocsp-response")
        assert len(answer) < LONGEST_ANSWER
        return asked.load_der_ocsp_response(answer)

    def next_client_is_served(self) -> None:
        """Ask about a good certificate, with a nonce: the answer is signed now."""
        nonce = os.urandom(32)
        answer = self.ask(request(cert_id(self.ca, self.good.serial_number), nonce=nonce))
        assert answer.certificate_status is asked.OCSPCertStatus.GOOD
        assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
        (responder,) = answer.certificates
        responder.verify_directly_issued_by(self.ca)
        key = responder.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert answer.signature_hash_algorithm is not None
        key.verify(
            answer.signature, answer.tbs_response_bytes, ec.ECDSA(answer.signature_hash_algorithm)
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    node = Daemon(tmp_path_factory.mktemp("node")).start()
    try:
        with desk_of(node) as desk:
            desk.endpoint("devices")
            door = Visitor(f"{node.url}/scep/devices")
            secret = desk.secret("devices", static=True)
            issued = [door.enroll(secret).certificate for _ in range(5)]
            desk.revoke(issued[1], 1)
            yield World(node, desk, door.ca, issued[0], issued[1], issued)
    finally:
        node.kill()


def cert_id(ca: x509.Certificate, serial: int, name: str = "sha1") -> Any:
    """Return what a client says of one certificate."""
    hashed = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "md5": hashes.MD5()}[name]
    theirs = ax509.Certificate.load(ca.public_bytes(serialization.Encoding.DER))

    def digest(data: bytes) -> bytes:
        context = hashes.Hash(hashed)
        context.update(data)
        return context.finalize()

    return ocsp.CertId(
        {
            "hash_algorithm": algos.DigestAlgorithm({"algorithm": name}),
            "issuer_name_hash": digest(theirs.subject.dump()),
            "issuer_key_hash": digest(bytes(theirs.public_key["public_key"])),
            "serial_number": serial,
        }
    )


def request(*cert_ids: Any, nonce: bytes | None = None, **more: Any) -> bytes:
    """Return an OCSPRequest; ``nonce`` in the two OCTET STRINGs of RFC 9654."""
    asks: dict[str, Any] = {"request_list": [{"req_cert": each} for each in cert_ids], **more}
    if nonce is not None:
        value = core.ParsableOctetString(core.OctetString(nonce).dump())
        asks["request_extensions"] = [{"extn_id": NONCE, "extn_value": value}]
    der: bytes = ocsp.OCSPRequest({"tbs_request": asks}).dump()
    return der


def test_the_request_of_these_tests_is_a_good_one(world: World) -> None:
    world.next_client_is_served()
    answer = world.ask(request(cert_id(world.ca, world.revoked.serial_number, "sha256")))
    assert answer.certificate_status is asked.OCSPCertStatus.REVOKED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x82" * 2_000,
        os.urandom(8_192),
        b"GET / HTTP/1.1\r\n\r\n",
        request(),
    ],
    ids=["empty", "x", "tag", "sequence", "indefinite", "4GB", "deep", "random", "http", "no-id"],
)
def test_garbage_is_malformed(body: bytes, world: World) -> None:
    assert world.ask(body).response_status is MALFORMED
    world.next_client_is_served()


def test_a_good_request_with_one_octet_more_or_less_is_malformed(world: World) -> None:
    good = request(cert_id(world.ca, world.good.serial_number))
    for body in (good + b"\0", good[:-1], good[1:], good + good):
        assert world.ask(body).response_status is MALFORMED
    world.next_client_is_served()


@pytest.mark.parametrize("path", ["/ocsp/", "/ocsp"])
@pytest.mark.parametrize("size", [8_193, 1_000_000])
def test_what_is_too_large_is_not_read(size: int, path: str, world: World) -> None:
    assert world.post(bytes(size), path)[0] == 413
    world.next_client_is_served()


def test_ten_thousand_single_requests(world: World) -> None:
    """T-OCSP-03: too large as a whole; and a hundred is the most that one message may ask."""
    single = parser.emit(0, 1, 16, cert_id(world.ca, 1).dump())
    der = parser.emit(0, 1, 16, single * 10_000)
    for _ in ("tbsRequest", "OCSPRequest"):
        der = parser.emit(0, 1, 16, der)
    assert len(ocsp.OCSPRequest.load(der)["tbs_request"]["request_list"]) == 10_000
    assert world.post(der)[0] == 413
    hundred = [cert_id(world.ca, n) for n in range(1, 101)]
    status, _, answer = world.post(request(*hundred))
    assert status == 200
    parsed = ocsp.OCSPResponse.load(answer)
    singles = parsed["response_bytes"]["response"].parsed["tbs_response_data"]["responses"]
    assert [single["cert_status"].name for single in singles] == ["unknown"] * 100
    assert world.ask(request(*hundred, cert_id(world.ca, 101))).response_status is MALFORMED
    world.next_client_is_served()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 32, 33, 128, 129, 4_096])
def test_ocsp_14_nonce_lengths(length: int, world: World) -> None:
    nonce = os.urandom(length)
    answer = world.ask(request(cert_id(world.ca, world.good.serial_number), nonce=nonce))
    if not 1 <= length <= 128:
        assert answer.response_status is MALFORMED
    else:
        assert answer.certificate_status is asked.OCSPCertStatus.GOOD
        found = [e.value.nonce for e in answer.extensions if isinstance(e.value, x509.OCSPNonce)]
        # RFC 9654, 2.1: 16 to 32 must be answered, the others may be.
        assert found in ([[nonce]] if 16 <= length <= 32 else [[nonce], []])
    world.next_client_is_served()


_NAMES = {
    "directory_name": ax509.Name.build({"common_name": "x" * 60}),
    "dns_name": "a.test",
    "rfc822_name": "a@a.test",
    "ip_address": "192.0.2.1",
    "uniform_resource_identifier": "http://a.test/",
    "registered_id": "1.2.3",
}


@pytest.mark.parametrize("kind", _NAMES)
def test_t_ocsp_03_requestor_names_of_every_type(kind: str, world: World) -> None:
    """CVE-2020-1971: a name of another type in a place where two are compared."""
    who = ax509.GeneralName(kind, _NAMES[kind])
    asks = request(cert_id(world.ca, world.good.serial_number), requestor_name=who)
    assert world.ask(asks).certificate_status is asked.OCSPCertStatus.GOOD
    world.next_client_is_served()


def test_ocsp_11_an_unknown_critical_extension_is_malformed(world: World) -> None:
    one = cert_id(world.ca, world.good.serial_number)
    for critical, status in ((True, MALFORMED), (False, SUCCESSFUL)):
        unknown = {"extn_id": "1.2.3.4", "critical": critical, "extn_value": b"\x05\x00"}
        assert world.ask(request(one, request_extensions=[unknown])).response_status is status


# -- who is not asked ---------------------------------------------------------------------------


def _stranger() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    return client.self_signed(key, "another CA").certificate


def test_ocsp_20_an_issuer_that_is_not_ours(world: World) -> None:
    theirs = cert_id(_stranger(), world.good.serial_number)
    for path in ("/ocsp", "/ocsp/issuing", "/ocsp/root", "/ocsp/nobody"):
        assert world.ask(request(theirs), path).response_status is UNAUTHORIZED
    # Beside one that is ours, it is unknown, never good.
    ours = cert_id(world.ca, world.good.serial_number)
    _, _, answer = world.post(request(theirs, ours, theirs))
    parsed = ocsp.OCSPResponse.load(answer)
    singles = parsed["response_bytes"]["response"].parsed["tbs_response_data"]["responses"]
    assert [single["cert_status"].name for single in singles] == ["unknown", "good", "unknown"]
    world.next_client_is_served()


def test_ocsp_02_another_key_under_the_name_of_ours_is_not_ours(world: World) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(world.ca.subject)
    fake = (
        builder.issuer_name(world.ca.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(world.ca.not_valid_before_utc)
        .not_valid_after(world.ca.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    asks = request(cert_id(fake, world.good.serial_number))
    assert world.ask(asks).response_status is UNAUTHORIZED


def test_an_unknown_hash_and_another_authoritys_path(world: World) -> None:
    one = world.good.serial_number
    assert world.ask(request(cert_id(world.ca, one, "md5"))).response_status is UNAUTHORIZED
    asks = request(cert_id(world.ca, one))
    assert world.ask(asks, "/ocsp/issuing").certificate_status is asked.OCSPCertStatus.GOOD
    assert world.ask(asks, "/ocsp/root").response_status is UNAUTHORIZED


def test_openssl_is_told_the_same(
    world: World, tmp_path: Path, require_client: Callable[[str], str]
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(_stranger().public_bytes(serialization.Encoding.PEM))
    done = subprocess.run(
        [require_client("openssl"), "ocsp", "-issuer", stranger, "-serial", "1", "-url",
         f"{world.daemon.url}/ocsp"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert "unauthorized (6)" in done.stdout + done.stderr


# -- what was never issued ----------------------------------------------------------------------


class Line:
    """One kept connection, for many questions."""

    def __init__(self, world: World) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", world.daemon.http_port)
        self._ca = world.ca

    def status_of(self, serial: int, name: str = "sha1") -> asked.OCSPCertStatus:
        self._connection.request("POST", "/ocsp", request(cert_id(self._ca, serial, name)))
        answer = asked.load_der_ocsp_response(self._connection.getresponse().read())
        assert answer.response_status is SUCCESSFUL
        assert answer.serial_number == serial
        return answer.certificate_status

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *unused: object) -> None:
        self._connection.close()


def test_t_ocsp_01_what_was_never_issued_is_never_good(world: World) -> None:
    real = {certificate.serial_number for certificate in world.issued}
    guesses = {serial + step for serial in real for step in range(-20, 21)} - real
    guesses |= {int.from_bytes(os.urandom(20)) >> 1 for _ in range(40)}
    guesses |= {0, 1, 2**31, 2**159 - 1, 2**160 - 1, 2**2_000, -1, -world.good.serial_number}
    assert len(guesses) > 200
    with Line(world) as line:
        for serial in guesses:
            assert line.status_of(serial, "sha256") is asked.OCSPCertStatus.UNKNOWN
            assert line.status_of(serial) is asked.OCSPCertStatus.UNKNOWN
        for serial in real - {world.revoked.serial_number}:
            assert line.status_of(serial) is asked.OCSPCertStatus.GOOD


def test_what_was_asked_for_before_it_existed_is_good_once_it_does(world: World) -> None:
    """No "unknown" is kept: a client may ask about the serial that it gets a moment later."""
    answers = []
    door = Visitor(f"{world.daemon.url}/scep/devices")
    secret = world.desk.secret("devices", lifetime=timedelta(minutes=5))
    certificate = door.enroll(secret).certificate
    with Line(world) as line:
        for serial in (certificate.serial_number ^ 1, certificate.serial_number):
            answers.append(line.status_of(serial))
    assert answers == [asked.OCSPCertStatus.UNKNOWN, asked.OCSPCertStatus.GOOD]


# -- methods and connections --------------------------------------------------------------------


def _get_path(world: World) -> str:
    asks = request(cert_id(world.ca, world.good.serial_number))
    return "/ocsp/" + quote(base64.b64encode(asks), safe="")


def test_methods(world: World) -> None:
    path = _get_path(world)
    asks = request(cert_id(world.ca, world.good.serial_number))
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        status, headers, _ = knock(world.daemon.url, method, "/ocsp", asks)
        assert status == 405
        assert headers["allow"] == "GET, HEAD, POST"
    got = knock(world.daemon.url, "GET", path)
    status, headers, body = knock(world.daemon.url, "HEAD", path)
    assert (status, body) == (200, b"")
    for name in ("content-type", "content-length", "etag", "expires", "last-modified"):
        assert headers[name] == got[1][name]
    assert asked.load_der_ocsp_response(got[2]).certificate_status is asked.OCSPCertStatus.GOOD
    world.next_client_is_served()


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        ("", 200),
        ("/", 200),
        ("/%%%", 200),
        ("/MEUwQzBBMD8wPTAJ", 200),
        ("/issuing/not-base64!", 200),
        ("/../../etc/passwd", 200),
        ("/" + "M" * 16_384, 414),
    ],
)
def test_a_get_that_carries_no_request(tail: str, status: int, world: World) -> None:
    answer, _, body = knock(world.daemon.url, "GET", f"/ocsp{tail}")
    assert answer == status
    if status == 200:
        assert asked.load_der_ocsp_response(body).response_status is MALFORMED
    world.next_client_is_served()


def test_an_error_is_never_kept_by_a_cache(world: World) -> None:
    for body in (b"x", request(cert_id(_stranger(), 1)), request(cert_id(world.ca, 1))):
        status, headers, _ = world.post(body)
        assert (status, headers["cache-control"]) == (200, "no-store")
        path = "/ocsp/" + quote(base64.b64encode(body), safe="")
        assert knock(world.daemon.url, "GET", path)[1]["cache-control"] == "no-store"


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _resident_octets(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_clients_that_connect_and_close_without_a_byte(world: World) -> None:
    """`openssl ocsp -port` spins for ever after one of these (performance 5.9)."""
    assert world.daemon.process is not None
    pid = world.daemon.process.pid
    world.next_client_is_served()
    descriptors = _descriptors(pid)
    for number in range(200):
        silent = socket.create_connection(("127.0.0.1", world.daemon.http_port))
        if number % 2:
            # A reset instead of an orderly end.
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        silent.close()
    world.next_client_is_served()
    time.sleep(0.2)
    before = _processor_seconds(pid)
    time.sleep(1)
    assert _processor_seconds(pid) - before < 0.5
    assert _descriptors(pid) <= descriptors + 2
    world.next_client_is_served()


def test_t_ocsp_03_memory_does_not_grow_with_what_strangers_ask(world: World) -> None:
    assert world.daemon.process is not None
    pid = world.daemon.process.pid
    with Line(world) as line:
        for _ in range(500):
            line.status_of(int.from_bytes(os.urandom(20)) >> 1)
        before = _resident_octets(pid)
        for _ in range(3_000):
            line.status_of(int.from_bytes(os.urandom(20)) >> 1)
    assert _resident_octets(pid) - before < 4 << 20
    assert "Traceback" not in world.daemon.log.read_text()
