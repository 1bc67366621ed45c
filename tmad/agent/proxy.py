"""The way out of a network: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as curl reads them.

RFC 9110, 9.3.6.
"""

from __future__ import annotations

import base64
import re
import socket
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from tmad.errors import Fault, FaultCode

_LONGEST: Final = 16_384  # octets of a proxy's answer to CONNECT
_PORT: Final = 3128
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")
_END: Final = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy; ``fields`` are the header fields by which it knows us."""

    host: str
    port: int
    fields: dict[str, str] = field(repr=False)

    def tunnel(self, host: str, port: int, seconds: float) -> socket.socket:
        """Return a connection to a host beyond; Fault(UNAVAILABLE) with the proxy's reason."""
        deadline = time.monotonic() + seconds
        try:
            found = socket.create_connection((self.host, self.port), timeout=seconds)
        except OSError as error:
            raise self._away(error.strerror or type(error).__name__) from None
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
            lines += [f"{name}: {value}" for name, value in self.fields.items()]
            found.sendall("\r\n".join([*lines, "", ""]).encode())
            self._check(_read_head(found, deadline))
            found.settimeout(seconds)
        except OSError as error:
            found.close()
            raise self._away(error.strerror or type(error).__name__) from None
        except Fault:
            found.close()
            raise
        return found

    def _check(self, head: bytes) -> None:
        status, end = _STATUS.match(head), _END.search(head)
        is_tunnel = status is not None and status[1][:1] == b"2"
        if status is None or end is None or (is_tunnel and end.end() != len(head)):
            raise self._away("no answer of a proxy")
        if not is_tunnel:
            words = (status[2] or b"").decode("ascii", "replace")[:100]
            why = f"{status[1].decode()} {words}"
            raise self._away("".join(c if c.isprintable() else "?" for c in why))

    def _away(self, why: str) -> Fault:
        return Fault(
            FaultCode.UNAVAILABLE,
            f"the proxy {self.host}:{self.port} does not let us through: {why}",
            rule="agent.proxy",
        )


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """Return an answer up to its empty line; whoever is beyond speaks only when spoken to."""
    head = b""
    while len(head) < _LONGEST and not _END.search(head):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(4_096)
        if not piece:
            break
        head += piece
    return head


def proxy_for(parts: SplitResult) -> Proxy | None:
    """Return the proxy for an address, None for the straight way; Fault(REJECTED)."""
    known = urllib.request.getproxies_environment()
    url = known.get(parts.scheme) or known.get("all")
    if not url or urllib.request.proxy_bypass(parts.hostname or "", known):
        return None
    try:
        found = urlsplit(url if "://" in url else f"http://{url}")
        port = found.port or _PORT
    except ValueError:
        raise _unusable("its address cannot be read") from None
    if found.scheme != "http" or not found.hostname:
        # Neither TLS in TLS nor SOCKS.
        raise _unusable("it must begin with http://")
    fields = {}
    if found.username is not None:
        pair = f"{unquote(found.username)}:{unquote(found.password or '')}"
        fields["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(found.hostname, port, fields)


def _unusable(why: str) -> Fault:
    return Fault(
        FaultCode.REJECTED, f"the proxy of the environment cannot be used: {why}",
        rule="agent.proxy",
    )  # fmt: skip
