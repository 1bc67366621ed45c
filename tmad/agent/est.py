"""EST from the client's side (RFC 7030, 8951)."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.agent.identity import MOST_CERTIFICATES, Identity, PrivateKey, check_key
from tmad.agent.source import Certificates, Wait, Window, refused
from tmad.agent.transport import Answer, Trust, ask
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import ber, cms, parsing
from tmad.wire.parsing import UNREADABLE

_WAIT: Final = 60.0  # seconds, where a server that lets us wait does not say how long
_ELEMENTS: Final = 6_000
_DEPTH: Final = 32


class ESTSource:
    """One label of an EST server.

    ``secret`` returns the password for the first enrolment; ``identity`` is the directory with
    the certificate and the key that the next ones are asked for with.
    """

    def __init__(
        self,
        url: str,
        trust_file: str,
        *,
        user: str = "",
        secret: Callable[[], Secret | None] = lambda: None,
        identity: Path | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._trust_file = trust_file
        self._user = user
        self._secret = secret
        self._identity = identity

    def first(self, key: PrivateKey, request_der: bytes) -> Certificates | Wait:
        """Ask with the password, where there is one (RFC 7030, 4.2.1)."""
        headers = {}
        secret = self._secret()
        if secret:
            pair = self._user.encode() + b":" + secret.reveal()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        return self._enroll("simpleenroll", key, request_der, Trust(self._trust_file), headers)

    def next(self, key: PrivateKey, request_der: bytes, old: Identity) -> Certificates | Wait:
        """Ask with the certificate that there is (RFC 7030, 4.2.2)."""
        trust = Trust(self._trust_file, self._identity)
        return self._enroll("simplereenroll", key, request_der, trust, {})

    def window(self, old: Identity) -> Window | None:
        """EST does not say when."""
        return None

    def authorities(self, context: ssl.SSLContext | None = None) -> list[x509.Certificate]:
        """Return the server's CA certificates (RFC 7030, 4.1)."""
        answer = ask("GET", f"{self._url}/cacerts", Trust(self._trust_file), context=context)
        if answer.status != 200:
            raise refused("cacerts", answer.status, answer.text)
        return decode_certificates(answer.body)

    def _enroll(
        self,
        operation: str,
        key: PrivateKey,
        request_der: bytes,
        trust: Trust,
        headers: dict[str, str],
    ) -> Certificates | Wait:
        fields = {
            "Content-Type": "application/pkcs10",
            "Content-Transfer-Encoding": "base64",
            **headers,
        }
        body = base64.encodebytes(request_der)
        answer = ask("POST", f"{self._url}/{operation}", trust, body=body, headers=fields)
        if answer.status == 202:
            return Wait(answer.retry_after or _WAIT)
        if answer.status != 200:
            raise self._refusal(operation, answer)
        own, others = _pick(decode_certificates(answer.body), key)
        return Certificates(own, (*others, *self.authorities()))

    def _refusal(self, operation: str, answer: Answer) -> Fault:
        fault = refused(operation, answer.status, answer.text)
        fault.retry_after = answer.retry_after
        return fault


def decode_certificates(body: bytes) -> list[x509.Certificate]:
    """Read a certs-only answer in base64 or DER (RFC 8951, 3); Fault(MALFORMED)."""
    octets = body
    if not body.startswith(b"\x30"):
        try:
            octets = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            raise _broken("it is not base64") from None
    try:
        octets = ber.normalise(octets, elements=_ELEMENTS, depth=_DEPTH)
        found = cms.decode_signed_data(octets).certificates
    except Fault as fault:
        raise _broken(fault.detail) from None
    if not 1 <= len(found) <= MOST_CERTIFICATES:
        raise _broken(f"it holds {len(found)} certificates")
    try:
        read = [parsing.certificate(each) for each in found]
        for each in read:
            _ = each.extensions
    except UNREADABLE as error:
        raise _broken(f"a certificate is broken ({type(error).__name__})") from None
    return read


def _pick(
    found: Sequence[x509.Certificate], key: PrivateKey
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    """Return the certificate for our key, and the others."""
    for each in found:
        try:
            check_key(key, each)
        except Fault:
            continue
        return each, tuple(other for other in found if other is not each)
    raise Fault(
        FaultCode.BAD_PROOF, "the server's certificate is not for our key", rule="agent.other-key"
    )


def anchor(url: str, fingerprint: str) -> bytes:
    """Return, as PEM, the CA certificate with this SHA-256 that an EST server shows.

    The server itself is not believed: nothing but the fingerprint says that this is the CA
    (RFC 7030, 4.1.1). Fault(BAD_INTEGRITY) when it shows none such.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    wanted = bytes.fromhex(fingerprint)
    for each in ESTSource(url, "").authorities(context):
        if each.fingerprint(hashes.SHA256()) == wanted:
            return each.public_bytes(Encoding.PEM)
    raise Fault(
        FaultCode.BAD_INTEGRITY,
        "the server shows no CA certificate with this fingerprint",
        rule="agent.fingerprint",
    )


def _broken(why: str) -> Fault:
    return Fault(
        FaultCode.MALFORMED, f"the server's certificates cannot be read: {why}",
        rule="agent.certificates",
    )  # fmt: skip
