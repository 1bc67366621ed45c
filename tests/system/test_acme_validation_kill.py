"""A challenge whose worker dies in the middle of it is taken over when its lease has ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from acme.messages import STATUS_VALID
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acme_client import Account, http_solver, make_csr
from tests.interop.acme_world import ACMENode
from tests.unit.validation_world import server


@pytest.mark.long  # waits for the lease, 90 s
@pytest.mark.timeout(300)
def test_kill_9_in_the_middle_of_a_challenge(tmp_path: Path) -> None:
    node = ACMENode(tmp_path / "node")
    node.daemon.start()
    try:
        who = Account(node.directory(), node.trust)
        who.register()
        csr = make_csr(x509.DNSName("a.example.test"))
        made = who.acme.new_order(csr.public_bytes(Encoding.PEM))
        (authorization,) = made.authorizations
        (challenge,) = [c for c in authorization.body.challenges if c.chall.typ == "http-01"]
        asked: list[bytes] = []

        def silent(connection) -> None:  # type: ignore[no-untyped-def]
            asked.append(connection.recv(100))
            time.sleep(20)

        with server(silent, port=node.http_port):
            who.acme.answer_challenge(challenge, challenge.chall.response(who.key))
            end = time.monotonic() + 10
            while not asked and time.monotonic() < end:
                time.sleep(0.05)
            assert asked
            node.daemon.kill()
        node.daemon.start()
        with http_solver(node.http_port) as solve:
            said = who.begin(authorization, "http-01")
            solve.answers[f"/.well-known/acme-challenge/{said.partition('.')[0]}"] = said
            end = time.monotonic() + 120
            # The client only looks; it does not say again that it is ready.
            while time.monotonic() < end:
                found = who.post(authorization.uri, None).json()
                if found["status"] != "pending":
                    break
                time.sleep(1)
        assert found["status"] == STATUS_VALID.name, found
        assert who.finish(made)
    finally:
        node.close()
