"""Somebody who trusts one root certificate and believes nothing else that he is told.

OpenSSL judges whatever it can read. Debian's 3.0 knows no ML-DSA (spec pki-protocols, 10.7): where
such a key signs, cryptography judges. The addresses are those that stand in the certificates.
"""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from tests.interop.device import run

_BEYOND_OPENSSL = (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)


def write_pem(path: Path, *certificates: x509.Certificate) -> Path:
    """Write certificates into one file."""
    path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in certificates))
    return path


def crl_url(certificate: x509.Certificate) -> str:
    """Return where a certificate says that its CRL is."""
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    [[name]] = [point.full_name for point in points]
    return str(name.value)


def ocsp_url(certificate: x509.Certificate) -> str:
    """Return where a certificate says that its OCSP responder is."""
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    [url] = [
        str(each.access_location.value)
        for each in access
        if each.access_method == AuthorityInformationAccessOID.OCSP
    ]
    return url


def download(url: str, body: bytes | None = None) -> bytes:
    """Get from a URL, or post to it."""
    with urllib.request.urlopen(url, body, timeout=20) as answer:
        content: bytes = answer.read()
        return content


@dataclass(frozen=True)
class Answer:
    """What an OCSP response whose signature was checked says."""

    state: str
    response: ocsp.OCSPResponse


class RelyingParty:
    """Judges what ``chain[0]`` issued; ``chain[-1]`` is the root that it trusts."""

    def __init__(self, folder: Path, chain: Sequence[x509.Certificate]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.chain = tuple(chain)
        self.ca, self.root = chain[0], chain[-1]
        self._ca_file = write_pem(folder / "ca.pem", self.ca)
        self._root_file = write_pem(folder / "root.pem", self.root)
        # openssl takes an empty file for a mistake: the root does no harm there.
        self._upper_file = write_pem(folder / "upper.pem", *(self.chain[:-1] or self.chain))

    @property
    def has_openssl(self) -> bool:
        """Whether openssl can check the signatures of this chain."""
        return not any(isinstance(one.public_key(), _BEYOND_OPENSSL) for one in self.chain)

    def check_chain(self, leaf: x509.Certificate) -> None:
        """Fail unless the certificate leads to the root."""
        if self.has_openssl:
            verdict = self.verdict(leaf)
            assert verdict == "OK", verdict
            return
        path = (leaf, *self.chain)
        for below, above in itertools.pairwise(path):
            below.verify_directly_issued_by(above)
            extensions = above.extensions
            assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
            assert _identifier_of_issuer(below) == _identifier(above)
            assert below.not_valid_after_utc <= above.not_valid_after_utc
        self.root.verify_directly_issued_by(self.root)

    def verdict(self, leaf: x509.Certificate) -> str:
        """Return what ``openssl verify`` says: "OK" or its errors."""
        file = write_pem(self.folder / "leaf.pem", leaf)
        done = run("openssl", "verify", "-x509_strict", *self._trust, file, expect=None)
        shown = (done.stdout + done.stderr).decode().strip()
        return "OK" if done.returncode == 0 and shown == f"{file}: OK" else shown

    def ask_ocsp(self, leaf: x509.Certificate) -> Answer:
        """Ask the responder that the certificate names."""
        return (self._ask_openssl if self.has_openssl else self._ask)(leaf)

    def status(self, leaf: x509.Certificate) -> str:
        """Return "good", "revoked" or "unknown"."""
        return self.ask_ocsp(leaf).state

    def crl(self, leaf: x509.Certificate) -> x509.CertificateRevocationList:
        """Return the CRL that the certificate names, its signature checked."""
        der = download(crl_url(leaf))
        crl = x509.load_der_x509_crl(der)
        assert crl.issuer.public_bytes() == self.ca.subject.public_bytes()
        if self.has_openssl:
            file = self.folder / "crl.der"
            file.write_bytes(der)
            done = run(
                "openssl", "crl", "-inform", "DER", "-in", file, "-noout",
                "-CAfile", self._ca_file,
            )  # fmt: skip
            assert b"verify OK" in done.stderr
        else:
            assert crl.is_signature_valid(self.ca.public_key())  # type: ignore[arg-type]  # a CA's
        return crl

    def is_on_crl(self, leaf: x509.Certificate) -> bool:
        """Tell whether the CRL lists the certificate; openssl must draw the same conclusion."""
        crl = self.crl(leaf)
        found = crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None
        if self.has_openssl:
            list_file = self.folder / "crl.pem"
            list_file.write_bytes(crl.public_bytes(Encoding.PEM))
            done = run(
                "openssl", "verify", "-crl_check", "-CRLfile", list_file, *self._trust,
                write_pem(self.folder / "leaf.pem", leaf), expect=2 if found else 0,
            )  # fmt: skip
            assert (b"certificate revoked" in done.stdout + done.stderr) is found
        return found

    @property
    def _trust(self) -> tuple[str | Path, ...]:
        return "-CAfile", self._root_file, "-untrusted", self._upper_file

    def _ask_openssl(self, leaf: x509.Certificate) -> Answer:
        file = write_pem(self.folder / "leaf.pem", leaf)
        answer = self.folder / "answer.der"
        done = run(
            "openssl", "ocsp", "-issuer", self._ca_file, "-cert", file, "-url", ocsp_url(leaf),
            "-CAfile", self._root_file, "-verify_other", self._upper_file, "-respout", answer,
        )  # fmt: skip
        output = done.stdout.decode() + done.stderr.decode()
        assert "Response verify OK" in output, output
        assert "WARNING" not in output, output  # the nonce came back
        state = output.split(f"{file}: ")[1].split("\n")[0]
        response = ocsp.load_der_ocsp_response(answer.read_bytes())
        self._check_responder(response)
        return Answer(state, response)

    def _ask(self, leaf: x509.Certificate) -> Answer:
        nonce = x509.OCSPNonce(b"an-unlikely-nonce-of-32-octets..")
        request = (
            ocsp.OCSPRequestBuilder()
            .add_certificate(leaf, self.ca, hashes.SHA256())
            .add_extension(nonce, critical=False)
            .build()
        )
        body = download(ocsp_url(leaf), request.public_bytes(Encoding.DER))
        response = ocsp.load_der_ocsp_response(body)
        assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        assert response.extensions.get_extension_for_class(x509.OCSPNonce).value == nonce
        assert response.serial_number == leaf.serial_number
        assert response.issuer_key_hash == request.issuer_key_hash
        responder = self._check_responder(response)
        key: Any = responder.public_key()
        assert isinstance(key, _BEYOND_OPENSSL)
        key.verify(response.signature, response.tbs_response_bytes)
        return Answer(response.certificate_status.name.lower(), response)

    def _check_responder(self, response: ocsp.OCSPResponse) -> x509.Certificate:
        """Return the responder, which the very CA that it answers for certified (OCSP-23)."""
        responder = response.certificates[0]
        responder.verify_directly_issued_by(self.ca)
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
        assert responder.extensions.get_extension_for_class(x509.OCSPNoCheck)
        return responder


def strongswan(
    folder: Path, url: str, name: str, party: RelyingParty, *options: str
) -> x509.Certificate:
    """Enrol with strongSwan, which trusts the party's chain; NAME.key is made unless it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    ra = folder / "ra"
    run(
        "pki", "--scepca", "--url", url, "--caout", folder / "ca", "--raout", ra,
        "--outform", "pem", "--force",
    )  # fmt: skip
    key = folder / f"{name}.key"
    if not key.exists():
        run("openssl", "genrsa", "-traditional", "-out", key, "2048")
    trusted: list[str | Path] = []
    for number, certificate in enumerate(party.chain):
        trusted += ["--cacert", write_pem(folder / f"trusted-{number}.pem", certificate)]
    done = run(
        "pki", "--scep", "--url", url, "--in", key, "--dn", f"C=NL, CN={name}", "--san", name,
        "--cacert-enc", f"{ra}.pem", "--cacert-sig", f"{ra}.pem", *trusted,
        "--outform", "pem", *options,
    )  # fmt: skip
    (folder / f"{name}.pem").write_bytes(done.stdout)
    return x509.load_pem_x509_certificate(done.stdout)


def _identifier(ca: x509.Certificate) -> bytes:
    return ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _identifier_of_issuer(certificate: x509.Certificate) -> bytes | None:
    found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return found.value.key_identifier
