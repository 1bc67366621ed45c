"""device-attest-01 with a TPM that nobody here wrote: swtpm, driven by tpm2-tools.

The key is made in the TPM, an attestation key of the same TPM certifies it, and the certificate
request is signed by the TPM, too. Only the attestation key's certificate comes from a maker
that the test plays.
"""

from __future__ import annotations

import base64
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from tests import attestation as made
from tests.acme_client import Account, make_csr, thumbprint
from tests.daemon import free_ports
from tests.interop.acme_world import ACMENode, run

pytestmark = pytest.mark.interop

ATTESTER, KEY = 0x81010001, 0x81010002
DEVICE = "TPM-4711"
_CERTIFY = 0x148
_PASSWORD = struct.pack(">IHBH", 0x40000009, 0, 1, 0)  # TPM_RS_PW, empty


class SoftwareTPM:
    """swtpm on a port, with an attestation key and a signing key made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port, control = free_ports(2)
        self._process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}",
             "--server", f"type=tcp,port={self._port},bindaddr=127.0.0.1,disconnect",
             "--ctrl", f"type=tcp,port={control},bindaddr=127.0.0.1",
             "--flags", "not-need-init,startup-clear"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._environment = {"TPM2TOOLS_TCTI": f"swtpm:host=127.0.0.1,port={self._port}"}
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._wait()
        self._tool("createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
        common = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
        self._make("attester", ATTESTER, "ecc256:ecdsa-sha256:null", f"{common}|restricted")
        self._make("key", KEY, "ecc256:ecdsa-sha256", common)
        self.attester = self._public(ATTESTER)
        self.public_key = self._public(KEY)

    def _wait(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self._run("getrandom", "1", "--hex").returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("swtpm does not answer")

    def _run(self, tool: str, *words: str) -> subprocess.CompletedProcess[str]:
        return run(self.folder, f"tpm2_{tool}", *words, expect=None, environment=self._environment)

    def _tool(self, tool: str, *words: str) -> None:
        done = self._run(tool, *words)
        assert done.returncode == 0, done.stderr
        # There is no resource manager, and room for three objects.
        self._run("flushcontext", "-t")

    def _make(self, name: str, handle: int, kind: str, attributes: str) -> None:
        self._tool("create", "-C", "primary.ctx", "-G", kind, "-a", attributes, "-u", "pub", "-r",
                   "priv")  # fmt: skip
        self._tool("load", "-C", "primary.ctx", "-u", "pub", "-r", "priv", "-c", f"{name}.ctx")
        self._tool("evictcontrol", "-C", "o", "-c", f"{name}.ctx", f"{handle:#x}")

    def _public(self, handle: int) -> Any:
        self._tool("readpublic", "-c", f"{handle:#x}", "-f", "pem", "-o", "public.pem")
        return load_pem_public_key((self.folder / "public.pem").read_bytes())

    @property
    def public_area(self) -> bytes:
        """TPMT_PUBLIC of the key."""
        self._tool("readpublic", "-c", f"{KEY:#x}", "-f", "tss", "-o", "public.tss")
        return (self.folder / "public.tss").read_bytes()[2:]

    def sign(self, data: bytes) -> bytes:
        (self.folder / "data").write_bytes(data)
        self._tool("sign", "-c", f"{KEY:#x}", "-g", "sha256", "-f", "plain", "-o", "sig", "data")
        return (self.folder / "sig").read_bytes()

    def certify(self, extra: bytes) -> tuple[bytes, bytes]:
        """Send TPM2_Certify, whose qualifyingData tpm2_certify leaves out (Part 3, 18.2)."""
        body = struct.pack(">II", KEY, ATTESTER)
        body += struct.pack(">I", 2 * len(_PASSWORD)) + 2 * _PASSWORD
        body += made.sized(extra) + struct.pack(">H", 0x10)
        command = struct.pack(">HII", 0x8002, 10 + len(body), _CERTIFY) + body
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(command)
            answer = connection.recv(4096)
        _, _, code, _ = struct.unpack_from(">HIII", answer)
        assert code == 0, f"TPM2_Certify: {code:#x}"
        (length,) = struct.unpack_from(">H", answer, 14)
        information = answer[16 : 16 + length]
        scheme, hash_id, size_r = struct.unpack_from(">HHH", answer, 16 + length)
        assert (scheme, hash_id) == (0x18, 0x0B)
        size_s = struct.unpack_from(">H", answer, 16 + length + 6 + size_r)[0]
        signature = answer[16 + length : 16 + length + 8 + size_r + size_s]
        return information, signature

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


class TPMKey(ec.EllipticCurvePrivateKey):
    """The TPM's key as cryptography's builders take one."""

    def __init__(self, tpm: SoftwareTPM) -> None:
        self._tpm = tpm

    def public_key(self) -> ec.EllipticCurvePublicKey:
        key: ec.EllipticCurvePublicKey = self._tpm.public_key
        return key

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        return self._tpm.sign(bytes(data))

    @property
    def curve(self) -> ec.EllipticCurve:
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        return 256

    def exchange(self, *arguments: Any) -> bytes:
        raise NotImplementedError

    def private_numbers(self) -> Any:
        raise NotImplementedError

    def private_bytes(self, *arguments: Any) -> bytes:
        raise NotImplementedError

    def __copy__(self) -> TPMKey:
        return self

    def __deepcopy__(self, memo: Any) -> TPMKey:
        return self


@pytest.fixture(scope="module")
def tpm(
    require_client: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SoftwareTPM]:
    for program in ("swtpm", "tpm2_create"):
        require_client(program)
    found = SoftwareTPM(tmp_path_factory.mktemp("tpm"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def maker() -> made.Maker:
    return made.Maker()


@pytest.fixture(scope="module")
def node(maker: made.Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ACMENode]:
    found = ACMENode(tmp_path_factory.mktemp("acme") / "node")
    root = base64.b64encode(maker.root.public_bytes(Encoding.DER)).decode()
    found.endpoint("devices", "--profile", "device", challenges=["device-attest-01"],
                   **{"validation.attestation_roots": [root]})  # fmt: skip
    found.daemon.start()
    yield found
    found.close()


def begun(node: ACMENode, device: str = DEVICE) -> tuple[Account, Any, str, Any]:
    """Order for a device; return account, order, authorisation and its challenge."""
    who = Account(node.directory("devices"), node.trust)
    who.register()
    answer = who.post(
        who.acme.directory["newOrder"],
        {"identifiers": [{"type": "permanent-identifier", "value": device}]},
    )
    order = answer.json()
    url = order["authorizations"][0]
    (challenge,) = who.post(url, None).json()["challenges"]
    assert challenge["type"] == "device-attest-01"
    return who, order, url, challenge


def statement(
    tpm: SoftwareTPM, maker: made.Maker, said: str, device: str = DEVICE
) -> dict[str, str]:
    """Return what the device posts."""
    information, signature = tpm.certify(sha256(said.encode()).digest())
    now = datetime.now(UTC)
    leaf = maker.sign(
        "",
        tpm.attester,
        (x509.SubjectAlternativeName([made.permanent_identifier(device)]), True),
        (x509.ExtendedKeyUsage([made.AIK]), False),
        since=now - timedelta(hours=1),
        until=now + timedelta(days=1),
    )
    octets = made.cbor({"fmt": "tpm", "attStmt": {
        "ver": "2.0", "alg": -7, "x5c": maker.chain(leaf), "sig": signature,
        "certInfo": information, "pubArea": tpm.public_area,
    }})  # fmt: skip
    return {"attObj": base64.urlsafe_b64encode(octets).rstrip(b"=").decode()}


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def finalized(who: Account, order: Any, key: CertificateIssuerPrivateKeyTypes) -> Any:
    csr = make_csr(key=key, common_name=DEVICE)
    return who.post(order["finalize"], {"csr": b64(csr.public_bytes(Encoding.DER))}).json()


def test_a_key_of_the_tpm_gets_a_certificate_and_another_does_not(
    node: ACMENode, tpm: SoftwareTPM, maker: made.Maker
) -> None:
    who, order, url, challenge = begun(node)
    said = f"{challenge['token']}.{thumbprint(who.key)}"
    found = who.answer_plain(url, challenge["url"], statement(tpm, maker, said))
    assert found["status"] == "valid", found
    with pytest.raises(messages.Error) as caught:
        finalized(who, order, ec.generate_private_key(ec.SECP256R1()))
    assert caught.value.code == "badCSR"
    done = finalized(who, order, TPMKey(tpm))
    pem = who.post(done["certificate"], None).content
    certificate = x509.load_pem_x509_certificates(pem)[0]
    assert certificate.public_key() == tpm.public_key
    assert certificate.subject.rfc4514_string().startswith(f"CN={DEVICE}")


@pytest.mark.parametrize("what", ["replay", "device"])
def test_another_challenge_and_another_device(
    node: ACMENode, tpm: SoftwareTPM, maker: made.Maker, what: str
) -> None:
    who, _, url, challenge = begun(node)
    said = f"{challenge['token']}.{thumbprint(who.key)}"
    if what == "replay":
        posted = statement(tpm, maker, f"x{said}")
    else:
        posted = statement(tpm, maker, said, "TPM-4712")
    found = who.answer_plain(url, challenge["url"], posted)
    assert found["status"] == "invalid"
    (failed,) = found["challenges"]
    assert failed["error"]["type"].endswith("badAttestationStatement")
