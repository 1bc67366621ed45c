"""What the agent does when: enrolment, renewal, waiting, failures, rollback, revocation."""

from __future__ import annotations

import errno
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.agent_world import sha256
from tests.unit.agent_server import DAYS, START, Bench, Server, away
from tmad.agent import agent as agents
from tmad.agent import files
from tmad.agent import keeper as keepers
from tmad.agent.answering import answering
from tmad.agent.settings import ACMESource
from tmad.agent.source import Window
from tmad.errors import Fault, FaultCode

FAILS = [sys.executable, "-c", "import sys; print('no way'); sys.exit(3)"]


def test_a_first_certificate_is_in_all_its_places(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = bench.run()
    assert result.fault is None
    placed = bench.placed()
    assert placed.subject.rfc4514_string() == "CN=web"
    assert bench.server.asked == ["first", "window"]
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "fullchain.pem").stat().st_mode & 0o777 == 0o644
    assert os.readlink(tmp_path / "live") == ".live.1"
    assert not (bench.store.directory / "pending").exists()
    assert not (bench.store.directory / "before").exists()


def test_nothing_is_done_before_it_is_due_and_everything_in_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    first = bench.placed()
    bench.pass_(days=50)
    bench.run()
    assert sha256(bench.placed()) == sha256(first)
    bench.pass_(days=10)
    result = bench.run()
    second = bench.placed()
    assert "put it in place" in result.done
    assert second.public_key() != first.public_key()
    assert bench.server.asked.count("next") == 1
    assert result.next_at <= bench.server.now + timedelta(days=1)


def test_the_spread_keeps_machines_apart_and_is_always_early(tmp_path: Path) -> None:
    instants = set()
    server = Server()
    for number in range(5):
        bench = Bench(tmp_path / str(number), server)
        bench.run()
        own = bench.store.identity(1)
        at = keepers.timing.renewal_at(own, bench.state(), bench.settings.renewal)
        life = own.not_after - own.not_before
        assert own.not_after - life / 3 * 1.1 <= at <= own.not_after - life / 3
        instants.add(at)
        assert at == keepers.timing.renewal_at(own, bench.state(), bench.settings.renewal)
    assert len(instants) == 5


def test_the_key_stays_where_that_is_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, renewal={"new_key": False})
    bench.run()
    first = bench.placed()
    bench.run(is_forced=True)
    assert bench.placed().public_key() == first.public_key()
    assert sha256(bench.placed()) != sha256(first)


def test_the_servers_window_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    start = START + timedelta(days=10)
    bench.server.answer = Window(start, start + timedelta(days=1), 3600.0)
    bench.pass_(hours=7)
    bench.run()
    at = keepers.timing.renewal_at(bench.store.identity(1), bench.state(), bench.settings.renewal)
    assert start <= at <= start + timedelta(days=1)
    bench.server.now = start + timedelta(days=1)
    bench.run()
    assert bench.server.asked.count("next") == 1


def test_a_window_that_is_always_over_does_not_renew_at_every_look(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    past = START - timedelta(days=1)
    bench.server.answer = Window(past, past + timedelta(hours=1), 60.0)
    for _ in range(5):
        bench.pass_(minutes=10)
        bench.run()
    assert bench.server.asked.count("next") == 0
    bench.pass_(hours=1)
    bench.run()
    assert bench.server.asked.count("next") == 1


def test_waiting_asks_again_with_the_same_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.server.waits = 2
    result = bench.run()
    assert "the server lets us wait" in result.done
    pending = (bench.store.directory / "pending/request.der").read_bytes()
    bench.run()
    assert bench.server.asked == ["first"]  # not before the server wants to be asked
    bench.pass_(seconds=121)
    bench.run()
    bench.pass_(seconds=121)
    bench.run()
    assert list(bench.server.issued) == [pending]
    bench.placed()


def test_no_network_is_tried_again_later_and_later_and_then_works(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.server.fault = away()
    delays = []
    for _ in range(6):
        result = bench.run()
        assert result.fault is not None
        assert result.fault.code is FaultCode.UNAVAILABLE
        at = bench.state().retry_at
        assert at is not None
        delays.append(at - bench.server.now)
        bench.server.now = at
    assert delays[0] <= timedelta(minutes=1.3)
    assert delays[5] >= timedelta(minutes=20)
    assert max(delays) <= timedelta(hours=8)
    bench.server.fault = None
    assert bench.run().fault is None
    assert len(bench.server.issued) == 1
    assert bench.state().failures == 0


def test_near_the_end_it_is_tried_more_often(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.server.fault = Fault(FaultCode.FORBIDDEN, "no", rule="agent.refused")
    bench.pass_(days=DAYS - 0.2)
    for _ in range(8):
        bench.run(is_forced=True)
    at = bench.state().retry_at
    assert at is not None
    assert at - bench.server.now < timedelta(hours=1)


def test_retry_after_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.server.fault = Fault(FaultCode.RATE_LIMITED, "slowly", retry_after=7200.0)
    bench.run()
    at = bench.state().retry_at
    assert at is not None
    assert at >= bench.server.now + timedelta(hours=2)


def test_a_refused_request_is_made_anew_from_the_settings_as_they_are_then(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.server.fault = Fault(FaultCode.FORBIDDEN, "not this name", rule="agent.refused")
    bench.run()
    assert not (bench.store.directory / "pending").exists()
    bench.server.fault = None
    bench.change(subject="CN=better")
    bench.pass_(days=2)
    bench.run()
    assert bench.placed().subject.rfc4514_string() == "CN=better"


def test_names_that_the_server_leaves_out_are_missed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, names=["dns:web.example.test", "ip:192.0.2.1", "dns:www.example.test"])
    bench.server.names = lambda names: names[:1]
    result = bench.run()
    assert result.fault is not None
    assert result.fault.rule == "agent.names"
    assert "dns:www.example.test, ip:192.0.2.1" in result.fault.detail
    assert not (tmp_path / "key.pem").exists()


def test_a_clock_that_is_wrong_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.server.now = START - timedelta(days=400)
    keeper = keepers.Keeper(
        bench.store, bench.settings, now=lambda: START, source_of=lambda *_: bench.server
    )
    fault = keeper.run().fault
    assert fault is not None
    assert (fault.code, fault.rule) == (FaultCode.BAD_TIME, "agent.clock")


# -- in place, and back


def test_a_reload_that_fails_brings_the_old_files_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    first, key = bench.placed(), (tmp_path / "key.pem").read_bytes()
    bench.change(reload={"command": FAILS})
    result = bench.run(is_forced=True)
    assert result.fault is not None
    assert result.fault.rule == "agent.reload"
    assert "exit code 3: no way" in result.fault.detail
    assert sha256(bench.placed()) == sha256(first)
    assert (tmp_path / "key.pem").read_bytes() == key
    assert os.readlink(tmp_path / "live") == ".live.1"
    assert bench.state().step == "idle"
    # What came is kept: the next attempt asks nobody for another one.
    bench.change(reload={"command": ["true"]})
    bench.pass_(days=2)
    assert bench.run().fault is None
    assert sha256(bench.placed()) != sha256(first)
    assert len(bench.server.issued) == 2


def test_the_first_installation_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reload={"command": FAILS})
    assert bench.run().fault is not None
    assert not (tmp_path / "key.pem").exists()
    assert not (tmp_path / "live").is_symlink()


def test_a_reload_that_hangs_is_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reload={"command": ["sleep", "60"], "seconds": 0.2})
    fault = bench.run().fault
    assert fault is not None
    assert "not done after 0.2 s" in fault.detail


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, reload={"command": ["/nowhere/reload"]})
    fault = bench.run().fault
    assert fault is not None
    assert "/nowhere/reload: No such file" in fault.detail


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path, place={"key": "/proc/nowhere/key.pem"})
    fault = bench.run().fault
    assert fault is not None
    assert fault.rule == "agent.place"


def test_a_newer_certificate_of_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    other = Bench(tmp_path / "other", bench.server)
    bench.pass_(days=62)
    other.run()
    newer = (tmp_path / "other/fullchain.pem").read_bytes()
    bench.pass_(days=-1)  # what the agent gets is a day older than what lies there
    (tmp_path / "fullchain.pem").write_bytes(newer)
    fault = bench.run(is_forced=True).fault
    assert fault is not None
    assert fault.rule == "agent.newer"
    assert (tmp_path / "fullchain.pem").read_bytes() == newer
    (tmp_path / "fullchain.pem").unlink()
    assert bench.run(is_forced=True).fault is None
    bench.placed()


def test_owner_group_and_modes(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives files away")
    place = {"bundle": str(tmp_path / "b.pem"), "user": "nobody", "key_mode": "0640"}
    bench = Bench(tmp_path, place=place)
    assert bench.run().fault is None
    status = (tmp_path / "b.pem").stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o640, 65534)
    bench.change(place={**place, "user": "nobody-of-that-name"})
    fault = bench.run(is_forced=True).fault
    assert fault is not None
    assert fault.rule == "agent.owner"


@pytest.mark.parametrize("form", ["modern", "compatible"])
def test_pkcs12(tmp_path: Path, form: str) -> None:
    from cryptography.hazmat.primitives.serialization import pkcs12

    (tmp_path / "password").write_text("hush hush\n")
    place = {
        "pkcs12": str(tmp_path / "web.p12"),
        "pkcs12_password_file": str(tmp_path / "password"),
        "pkcs12_form": form,
    }
    bench = Bench(tmp_path, place=place)
    assert bench.run().fault is None
    found = pkcs12.load_pkcs12((tmp_path / "web.p12").read_bytes(), b"hush hush")
    assert found.cert is not None
    assert found.key is not None
    assert found.cert.certificate.public_key() == found.key.public_key()
    assert (tmp_path / "web.p12").stat().st_mode & 0o777 == 0o600


# -- revoked, expired


def told(status: str) -> Window:
    return Window(None, None, 3600.0, status)


def test_f30_a_revoked_certificate_is_not_renewed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.server.answer = told("revoked")
    bench.pass_(days=70)
    bench.run()
    for _ in range(5):
        bench.pass_(days=10)
        bench.run()
    assert "next" not in bench.server.asked
    assert bench.server.asked.count("first") == 1
    fault = bench.run(is_forced=True).fault
    assert fault is not None
    assert fault.rule == "agent.withdrawn"
    assert keepers.condition(bench.state()) == "withdrawn"


def test_f30_unless_it_is_told_to_begin_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, renewal={"revoked": "enroll", "new_key": False})
    bench.run()
    first = bench.placed()
    bench.server.answer = told("revoked")
    bench.pass_(days=1)
    bench.run()
    assert bench.server.asked.count("first") == 2
    assert bench.placed().public_key() != first.public_key()
    bench.server.answer = told("good")
    bench.pass_(days=1)
    bench.run()
    assert keepers.condition(bench.state()) == "good"
    assert bench.server.asked.count("first") == 2


def test_what_is_on_hold_is_renewed_when_it_is_released(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.server.answer = told("hold")
    bench.pass_(days=70)
    bench.run()
    assert "next" not in bench.server.asked
    bench.server.answer = told("good")
    bench.pass_(hours=2)
    bench.run()
    assert bench.server.asked.count("next") == 1


def test_a_machine_that_slept_too_long_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("word")
    est = {"url": "https://x.example.test/est", "secret_file": str(tmp_path / "secret")}
    bench = Bench(tmp_path, est=est)
    bench.run()
    bench.pass_(days=DAYS + 10)
    server = bench.server

    def too_late(*_: object) -> None:
        raise Fault(FaultCode.FORBIDDEN, "expired", rule="agent.refused")

    server.next = too_late  # type: ignore[method-assign,assignment]
    assert bench.run().fault is None
    assert server.asked.count("first") == 2
    assert bench.placed().not_valid_after_utc > server.now


# -- adoption, store


def test_a_certificate_is_adopted_where_it_is(tmp_path: Path) -> None:
    other = Bench(tmp_path / "other")
    other.run()
    key, chain = tmp_path / "key.pem", tmp_path / "fullchain.pem"
    key.write_bytes((tmp_path / "other/key.pem").read_bytes())
    chain.write_bytes(
        (tmp_path / "other/fullchain.pem").read_bytes()
        + other.server.root.public_bytes(Encoding.PEM)
    )
    place = {"key": str(key), "fullchain": str(chain)}
    bench = Bench(tmp_path, other.server, place=place)
    keepers.adopt(bench.store, bench.settings, key.read_bytes(), chain.read_bytes())
    before = x509.load_pem_x509_certificate(chain.read_bytes())
    bench.run()
    assert x509.load_pem_x509_certificate(chain.read_bytes()) == before
    bench.pass_(days=70)
    bench.run()
    after = x509.load_pem_x509_certificate(chain.read_bytes())
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert bench.server.asked.count("next") == 1


def test_a_key_of_another_certificate_is_not_adopted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    one = (tmp_path / "fullchain.pem").read_bytes()
    bench.run(is_forced=True)
    with pytest.raises(Fault) as caught:
        keepers.adopt(bench.store, bench.settings, (tmp_path / "key.pem").read_bytes(), one)
    assert caught.value.rule == "agent.other-key"


def test_old_generations_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(6):
        bench.run(is_forced=True)
    assert bench.store.numbers() == [4, 5, 6]
    assert sorted(path.name for path in tmp_path.glob(".live.*")) == [".live.5", ".live.6"]


def test_two_agents_do_not_work_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.store.locked(), pytest.raises(Fault) as caught:
        bench.run()
    assert caught.value.rule == "agent.busy"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"step": "dancing"}', b'{"x": 1}', b"\xff"])
def test_a_spoiled_state_is_told_and_not_guessed(tmp_path: Path, text: bytes) -> None:
    bench = Bench(tmp_path)
    bench.run()
    (bench.store.directory / "state.json").write_bytes(text)
    with pytest.raises(Fault) as caught:
        bench.run()
    assert caught.value.rule == "agent.state"


def test_a_full_disk_ends_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    monkeypatch.setattr(files, "write_directory", full)
    (result,) = agents.run_once(tmp_path / "agent", now=bench.server.clock)
    assert result.fault is not None
    assert result.fault.rule == "agent.disk"
    assert result.fault.detail == "/somewhere: No space left on device"
    monkeypatch.undo()
    bench.run()
    bench.placed()


def test_who_waits_is_not_looked_at_all_the_time(tmp_path: Path) -> None:
    """An instant that has gone by must not make the process that stays turn for ever."""
    bench = Bench(tmp_path)
    bench.run()
    bench.pass_(days=61)
    bench.server.waits = 1
    assert bench.run().next_at == bench.server.now + timedelta(seconds=120)
    bench.pass_(seconds=60)
    assert bench.run().next_at == bench.server.now + timedelta(seconds=60)


def test_challenge_files_can_be_read_by_the_web_server(tmp_path: Path) -> None:
    settings = ACMESource(directory="https://x.example.test/d", webroot=str(tmp_path))
    before = os.umask(0o077)
    try:
        with answering(settings, {"t" * 20: "answer"}):
            path = tmp_path / ".well-known/acme-challenge" / ("t" * 20)
            assert path.read_text() == "answer"
            assert path.stat().st_mode & 0o777 == 0o644
            for each in (path.parent, path.parent.parent):
                assert each.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)
    assert list(path.parent.iterdir()) == []
