"""The agent is ended before each of its steps on the disk, and the next run makes it good.

A child process runs; an audit hook ends it, as kill -9 would, before the n-th operation that
changes anything. Whatever n is: no key is lost whose certificate was issued, no second
certificate is asked for, the link never leads to half a pair, and one more run finishes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.agent_world import same_pair, sha256
from tests.unit.agent_server import Bench, Server
from tmad.agent.source import Certificates, Wait

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "subprocess.Popen"}
_ENDED = 9


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk rest: a process is ended here, not the machine."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class DurableServer(Server):
    """Remembers what it has issued even when the process that asked is ended."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        directory.mkdir()

    def _ask(self, what: str, request_der: bytes) -> Certificates | Wait:
        path = self.directory / hashlib.sha256(request_der).hexdigest()
        if path.exists():
            self.issued[request_der] = x509.load_der_x509_certificate(path.read_bytes())
        answer = super()._ask(what, request_der)
        if isinstance(answer, Certificates):
            path.write_bytes(answer.certificate.public_bytes(Encoding.DER))
        return answer

    def count(self) -> int:
        return len(list(self.directory.iterdir()))


def run_and_end(bench: Bench, before: int) -> bool:
    """Run in a child that is ended before its n-th change; tell whether it lived to the end."""
    root = str(bench.directory)
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in _CHANGES:
                return
            if event != "subprocess.Popen" and not str(arguments[0]).startswith(root):
                return
            if event == "os.remove" and str(arguments[0]).endswith(".tmad-new"):
                return  # looks for a leftover: nothing has happened since the step before
            count += 1
            if count == before:
                os._exit(_ENDED)

        try:
            sys.addaudithook(hook)
            bench.run(is_forced=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _ENDED)
    return code == 0


def check_link(bench: Bench) -> None:
    """What the link leads to is a pair at any time."""
    live = bench.directory / "live"
    if live.is_symlink():
        same_pair(live / "key.pem", live / "fullchain.pem")


def each_step(make: Callable[[int], Bench], check: Callable[[Bench], None]) -> int:
    """End a run before its first change, its second, …; return how many there are."""
    number = 0
    while True:
        number += 1
        bench = make(number)
        is_over = run_and_end(bench, number)
        check_link(bench)
        check(bench)
        if is_over:
            return number - 1


def test_a_first_enrolment(tmp_path: Path) -> None:
    def make(number: int) -> Bench:
        directory = tmp_path / str(number)
        directory.mkdir()
        return Bench(directory, DurableServer(tmp_path / f"server-{number}"))

    def check(bench: Bench) -> None:
        assert bench.run().fault is None
        bench.placed()
        assert isinstance(bench.server, DurableServer)
        assert bench.server.count() == 1
        assert bench.state().step == "idle"
        left = [path for path in bench.directory.rglob("*") if "tmad-new" in path.name]
        assert left == [], left

    assert each_step(make, check) > 10


@pytest.mark.parametrize("command", ["true", "false"])
def test_a_renewal_that_works_and_one_whose_reload_fails(tmp_path: Path, command: str) -> None:
    olds: dict[Path, bytes] = {}

    def make(number: int) -> Bench:
        directory = tmp_path / str(number)
        directory.mkdir()
        bench = Bench(directory, DurableServer(tmp_path / f"server-{number}"))
        bench.run()
        olds[directory] = sha256(bench.placed())
        bench.change(reload={"command": [command]})
        bench.pass_(days=70)
        return bench

    def check(bench: Bench) -> None:
        old = olds[bench.directory]
        bench.run()
        if command == "false":
            bench.run(is_forced=True)
            assert sha256(bench.placed()) == old
            bench.change(reload={"command": ["true"]})
            bench.run(is_forced=True)
        assert sha256(bench.placed()) != old
        assert isinstance(bench.server, DurableServer)
        assert bench.server.count() == 2
        assert bench.state().error == ""
        assert bench.state().current == 2

    assert each_step(make, check) > 20
