"""An HTTP request and its answer as values, without a framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class TLSSession(Protocol):
    """What the TLS connection below a request can tell."""

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """The client's certificates (DER), its own first, whose key the handshake has proved.

        Nothing else is known of them: not whose they are, nor whether they are good.
        """

    @property
    def bindings(self) -> tuple[bytes, ...]:
        """What both ends of this connection know and nobody else.

        TLS 1.2: the two Finished messages, one of which is tls-unique (RFC 5929, 3). TLS 1.3:
        tls-exporter (RFC 9266, 2).
        """

    @property
    def strength(self) -> int:
        """The length of the cipher's key, in bits."""


# Both are made for each request, and never changed; Python's way to freeze them would take three
# times as long as to make them.


@dataclass(slots=True, kw_only=True)
class Request:
    """One HTTP request.

    ``path`` and ``query`` are the raw octets of the request target, undecoded (SCEP and OCSP
    carry base64 there, and percent-decoding is theirs to do). ``path`` starts with "/" and
    holds no "?". Header names are lower case; a repeated header is joined with ", ".
    ``tail`` is what follows the mounted prefix, still raw. ``client_certificate`` is DER and
    only present on a listener that asks for one, after the chain was verified. ``tls`` is there
    for doors that judge certificates themselves. ``is_head`` tells a HEAD, whose ``method`` is
    GET: the body is left out by the edge.
    """

    method: str
    path: bytes
    query: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    secure: bool = False
    tail: bytes = b""
    client_certificate: bytes | None = None
    tls: TLSSession | None = None
    is_head: bool = False


@dataclass(slots=True, kw_only=True)
class Response:
    """One HTTP answer; the edge adds Content-Length, Date and Connection."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
