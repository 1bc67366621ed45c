"""Answering http-01: a listener of our own for as long as it takes, or a file of a web server's.

RFC 8555, 8.3.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final

from tmad.agent import files
from tmad.agent.settings import ACMESource
from tmad.errors import Fault, FaultCode

# RFC 8555, 8.3: base64url; it becomes part of a path, so nothing else will do.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,256}")
_PREFIX: Final = "/.well-known/acme-challenge/"
_READABLE: Final = 0o755
_SECONDS: Final = 10.0  # for one question


def is_token(text: object) -> bool:
    """Tell whether a server's token is one."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


@contextlib.contextmanager
def answering(settings: ACMESource, answers: dict[str, str]) -> Iterator[None]:
    """Answer for these tokens inside of the block; Fault(REJECTED) where that cannot be done."""
    if settings.webroot:
        with _in_files(Path(settings.webroot), answers):
            yield
    elif settings.listen:
        with _listening(settings.listen, answers):
            yield
    else:
        raise Fault(
            FaultCode.REJECTED,
            "the server wants to see http-01: say --listen ADDR:80 or --webroot DIRECTORY, or"
            " --dns-hook COMMAND for dns-01",
            rule="agent.challenge",
        )


@contextlib.contextmanager
def _in_files(webroot: Path, answers: dict[str, str]) -> Iterator[None]:
    directory = webroot / _PREFIX.strip("/")
    try:
        for made in (directory.parent, directory):
            if not made.is_dir():
                made.mkdir()
                made.chmod(_READABLE)  # by the web server, whatever our umask is
        for token, answer in answers.items():
            files.write(directory / token, answer.encode(), mode=0o644)
        yield
    except OSError as error:
        raise Fault(
            FaultCode.REJECTED, f"{directory}: {error.strerror}", rule="agent.challenge"
        ) from None
    finally:
        for token in answers:
            with contextlib.suppress(OSError):
                files.remove(directory / token)


@contextlib.contextmanager
def _listening(address: str, answers: dict[str, str]) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")

    class Answers(http.server.BaseHTTPRequestHandler):
        timeout = _SECONDS

        def do_GET(self) -> None:
            found = answers.get(self.path.removeprefix(_PREFIX))
            if found is None or not self.path.startswith(_PREFIX):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name
            """Say nothing: who asks is a stranger."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing about strangers who go away."""

    try:
        server = Server((host, int(port)), Answers)
    except (OSError, ValueError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else "is no ADDRESS:PORT"
        raise Fault(
            FaultCode.REJECTED, f"cannot listen on {address}: {why}", rule="agent.challenge"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
