"""HTTPS as an agent speaks it: one request, one bounded answer, one deadline for both."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from tmad.agent.proxy import Proxy, proxy_for
from tmad.errors import Fault, FaultCode

SECONDS: Final = 30.0
LONGEST: Final = 1_048_576  # octets of an answer
_PIECE: Final = 65_536
AGENT: Final = "tmad-agent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """Return the first line of the body for people: printable, and short."""
        line = self.body[:400].decode("utf-8", "replace").strip().partition("\n")[0]
        return "".join(c if c.isprintable() else "?" for c in line)[:200]

    @property
    def retry_after(self) -> float | None:
        """Return Retry-After in seconds; a date, which few send, counts as absent."""
        text = self.headers.get("retry-after", "").strip()
        return float(min(int(text), 604_800)) if text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True, slots=True)
class Trust:
    """By what a server is believed: a PEM file, or the system's CAs; and who we are to it."""

    file: str = ""
    identity: Path | None = None  # a directory with fullchain.pem and key.pem

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings; Fault(REJECTED) for files that hold none."""
        try:
            context = ssl.create_default_context(cafile=self.file or None)
        except (OSError, ssl.SSLError) as error:
            raise _unreadable(self.file or "the system's CAs", error) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.identity is not None:
            own = self.identity / "fullchain.pem"
            try:
                context.load_cert_chain(own, self.identity / "key.pem")
            except (OSError, ssl.SSLError) as error:
                if getattr(error, "reason", "") == "CA_MD_TOO_WEAK":
                    raise _unknown_signature() from None
                raise _unreadable(str(own), error) from None
        return context


def ask(
    method: str,
    url: str,
    trust: Trust,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Return a server's answer; redirects are not followed.

    Fault(UNAVAILABLE) where none comes in time, and where the server cannot prove who it is.
    """
    deadline = time.monotonic() + seconds
    host = url
    try:
        parts = urlsplit(url)
        host = parts.netloc
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        proxy = proxy_for(parts)
        fields = {"User-Agent": AGENT, "Accept": "*/*", **(headers or {})}
        if proxy is not None and parts.scheme != "https":
            path, fields = f"http://{host}{path}", fields | proxy.fields  # RFC 9112, 3.2.2
        with closing(_connect(parts, seconds, context, trust, proxy)) as connection:
            connection.request(method, path, body or None, fields)
            return _read(connection, deadline, host)
    except ssl.SSLCertVerificationError as error:
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"{host} cannot prove who it is: {error.verify_message}",
            rule="agent.server-certificate",
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise unreachable(host, error) from None


def _connect(
    parts: SplitResult,
    seconds: float,
    context: ssl.SSLContext | None,
    trust: Trust,
    proxy: Proxy | None,
) -> http.client.HTTPConnection:
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https":
        if proxy is not None:
            host, port = proxy.host, proxy.port
        return http.client.HTTPConnection(host, port, timeout=seconds)
    context = context or trust.context()
    connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    if proxy is not None:
        beyond = proxy.tunnel(host, connection.port, seconds)
        try:
            connection.sock = context.wrap_socket(beyond, server_hostname=host)
        except OSError:
            beyond.close()
            raise
    return connection


def _read(connection: http.client.HTTPConnection, deadline: float, host: str) -> Answer:
    with closing(connection.getresponse()) as response:
        pieces, length = [], 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
            piece = response.read1(_PIECE)
            if not piece:
                break
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST:
                raise Fault(
                    FaultCode.MALFORMED, f"the answer of {host} is too long", rule="agent.answer"
                )
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, b"".join(pieces))


def _unreadable(path: str, error: OSError) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        f"{path} holds no certificates for TLS: {error.strerror or type(error).__name__}",
        rule="agent.trust",
    )


def _unknown_signature() -> Fault:
    return Fault(
        FaultCode.UNSUPPORTED,
        f"{ssl.OPENSSL_VERSION} does not know how our certificate is signed (ML-DSA), and shows it"
        " to nobody; a Python with OpenSSL 3.5 does, and ACME needs no client certificate",
        rule="agent.openssl",
    )


def unreachable(host: str, error: Exception) -> Fault:
    """Return the Fault for a server that does not answer."""
    match error:
        case TimeoutError():
            why = "no answer in time"
        case socket.gaierror():
            why = "its name is not known"
        case OSError():
            why = error.strerror or type(error).__name__
        case _:
            why = type(error).__name__
    return Fault(FaultCode.UNAVAILABLE, f"{host} does not answer: {why}", rule="agent.unreachable")
