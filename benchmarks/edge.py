"""HTTP requests a second: our channel beside bare twisted.web, in one run.

    python -m benchmarks.edge [--seconds 3] [--rounds 3]

Each server is one process that answers a 100-octet POST with 500 octets; the load generator is
load.c with 32 connections, kept alive or a new one for each request. Beside each rate stands the
server's CPU a request, the steadier figure. The peer is tuned: no form parsing.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ANSWER = b"x" * 500
KINDS = ("twisted.web", "general door", "hot door")
TICKS = os.sysconf("SC_CLK_TCK")


def serve(kind: str, port: int) -> None:
    """Be one of the servers."""
    from twisted.internet import reactor

    if kind == "twisted.web":
        reactor.listenTCP(port, _peer(), backlog=1024)
    else:
        from tmad.edge.sockets import Sockets

        address = (f"127.0.0.1:{port}",)
        sockets = Sockets()
        sockets.open("http", address)
        sockets.listen(reactor, "http", address, _ours(kind))
    reactor.run()


def _peer() -> object:
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Answer(Resource):
        isLeaf = True  # noqa: N815  Twisted's name

        def render(self, request: object) -> bytes:
            request.content.read()
            request.setHeader(b"content-type", b"application/ocsp-response")
            return ANSWER

    site = Site(Answer(), parsePOSTFormSubmission=False)
    # Its access line costs about as much as the answer; ours is written.
    site.log = lambda request: None
    return site


def _ours(kind: str) -> object:
    from twisted.internet import reactor

    from tmad import observe
    from tmad.config import LimitsSection
    from tmad.edge.http import Doors, Site
    from tmad.wire.http import Request, Response

    async def answer(request: Request) -> Response:
        return Response(body=ANSWER, content_type="application/ocsp-response")

    doors = Doors(observe.Metrics())
    doors.mount("bench", "/x", answer, plain=True, hot=kind == "hot door")
    writer = observe.LogWriter(Path(os.devnull).open("w"))  # noqa: SIM115  for good
    return Site(doors, LimitsSection(), reactor, access=observe.AccessLog(writer))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> None:
    """Start the servers, ask them in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program, bodies = Path(directory, "load"), Path(directory, "bodies")
        source = Path(__file__).with_name("load.c")
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
        bodies.write_text((b"b" * 100).hex() + "\n")
        ports = {kind: _free_port() for kind in KINDS}
        servers = {
            kind: subprocess.Popen([sys.executable, "-m", "benchmarks.edge", kind, str(port)])
            for kind, port in ports.items()
        }
        try:
            time.sleep(2)
            for how in ("keep", "close"):
                _compare(program, bodies, ports, servers, how, chosen.rounds, chosen.seconds)
        finally:
            for server in servers.values():
                server.kill()
                server.wait()


def _compare(
    program: Path,
    bodies: Path,
    ports: dict[str, int],
    servers: dict[str, subprocess.Popen[bytes]],
    how: str,
    rounds: int,
    seconds: float,
) -> None:
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            before = _cpu(servers[kind].pid)
            output = subprocess.run(
                [program, "127.0.0.1", str(ports[kind]), "/x", bodies, "32", str(seconds), how],
                capture_output=True, text=True, check=True,
            ).stdout.split()  # fmt: skip
            count = int(output[0])
            rates[kind].append(count / float(output[1]))
            costs[kind].append((_cpu(servers[kind].pid) - before) / count)
    peer = statistics.median(costs[KINDS[0]])
    print("kept alive" if how == "keep" else "new connection each")
    for kind in KINDS:
        cost = statistics.median(costs[kind])
        print(
            f"  {kind:14} {statistics.median(rates[kind]):8.0f}/s {cost * 1e6:6.1f} µs CPU"
            f"   twisted.web / this: {peer / cost:.2f}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in KINDS:
        serve(sys.argv[1], int(sys.argv[2]))
    else:
        main()
