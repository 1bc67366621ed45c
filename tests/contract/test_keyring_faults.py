"""The HSM lost, hung, lying, emptied, with a wrong PIN; G-FAULT-3 at the size of CI.

The token stands behind ``p11-kit server``, so its process can be killed and stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import Attribute, ObjectClass
from twisted.python.failure import Failure

import tmad.signer.token
from tests import pumping
from tests import softhsm as softhsm_
from tests.pumping import Pump
from tests.softhsm import RemoteToken, Settings, SoftToken, create_token
from tests.support import tries
from tests.unit.test_signer_keyring import Shelf
from tmad.errors import Fault, FaultCode
from tmad.signer import objects
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.calls import PinRefused
from tmad.signer.hsm_keys import challenge
from tmad.signer.keyring import KeyHandle, Keyring, StoreHealth
from tmad.signer.module import Module
from tmad.signer.pkcs11 import PKCS11Store
from tmad.signer.token import Connection

pump, softhsm, remote_token = pumping.pump, softhsm_.softhsm, softhsm_.remote_token

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SHA256 = ec.ECDSA(hashes.SHA256())


class Bench:
    """A keyring on one token, and one P-256 key in it."""

    def __init__(self, pump: Pump, settings: Settings, shelf: Shelf | None = None) -> None:
        self.pump = pump
        self.shelf = shelf or Shelf()
        self.store = PKCS11Store(settings)
        self.keyring = Keyring(
            self.shelf,
            {"pkcs11": self.store},
            default="pkcs11",
            reactor=pump.reactor,
            now=lambda: NOW,
        )

    def make(self) -> KeyHandle:
        return self.pump.run(
            self.keyring.generate(KeyAlgorithm.P256, tenant="default", label="fault")
        )

    def sign(self, handle: KeyHandle) -> None:
        self.pump.run(self.keyring.use(handle.id, challenge))

    def refusal(self, handle: KeyHandle, operation: Callable[[Any], Any] = challenge) -> Fault:
        """Use a key, which must be refused; return the Fault."""
        with pytest.raises(Fault) as caught:
            self.pump.run(self.keyring.use(handle.id, operation))
        assert caught.value.code is FaultCode.UNAVAILABLE
        assert caught.value.retry_after is not None
        return caught.value

    def health(self) -> StoreHealth:
        (health,) = self.pump.run(self.keyring.health())
        return health

    def until(self, state: str, seconds: float = 10) -> None:
        self.pump.until(lambda: self.health().state == state, seconds)

    def recovers(self, handle: KeyHandle, seconds: float = 10) -> None:
        """Ask again and again, as clients do, until the key signs."""
        for _ in tries(seconds):
            [result] = self.pump.wait(self.keyring.use(handle.id, challenge))
            if not isinstance(result, Failure):
                return
            assert result.value.code is FaultCode.UNAVAILABLE
            self.pump.rest(0.2)
        raise AssertionError(self.health())

    def close(self) -> None:
        self.pump.run(self.keyring.close())


def test_g_fault_3_a_killed_token_is_noticed_and_healed(
    remote_token: RemoteToken, pump: Pump
) -> None:
    bench = Bench(pump, remote_token.settings())
    handle = bench.make()
    for _ in range(5):
        assert remote_token.children()
        remote_token.signal(signal.SIGKILL)
        begin = time.monotonic()
        bench.refusal(handle)
        assert time.monotonic() - begin < 2
        bench.recovers(handle)
    health = bench.health()
    assert (health.state, health.reason) == ("ok", "")
    assert health.counters["degraded"] >= 5
    assert health.counters["opened"] >= 6
    bench.close()


def test_g_fault_3_a_token_that_nobody_uses_is_missed_too(
    remote_token: RemoteToken, pump: Pump
) -> None:
    bench = Bench(pump, remote_token.settings())
    bench.make()
    pump.run(bench.keyring.probe())
    assert bench.health().state == "ok"
    remote_token.stop()
    assert bench.health().state == "ok"
    pump.run(bench.keyring.probe())
    bench.until("degraded")
    pump.run(bench.keyring.probe())
    remote_token.start()
    bench.until("ok")
    bench.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_g_fault_3_killed_50_times_and_hung_10_times(remote_token: RemoteToken, pump: Pump) -> None:
    bench = Bench(pump, remote_token.settings())
    handle = bench.make()
    for _ in range(50):
        remote_token.signal(signal.SIGKILL)
        bench.refusal(handle)
        bench.recovers(handle)
    for _ in range(10):
        remote_token.signal(signal.SIGSTOP)
        begin = time.monotonic()
        bench.refusal(handle)
        assert time.monotonic() - begin < 2.2
        pump.rest(28)
        bench.refusal(handle)
        remote_token.signal(signal.SIGCONT)
        bench.recovers(handle)
    bench.close()


def test_g_fault_3_a_server_that_is_down_for_a_while(remote_token: RemoteToken, pump: Pump) -> None:
    bench = Bench(pump, remote_token.settings())
    handle = bench.make()
    remote_token.stop()
    bench.refusal(handle)
    bench.until("degraded")
    for _ in range(3):
        begin = time.monotonic()
        bench.refusal(handle)
        assert time.monotonic() - begin < 0.1
    assert "C_" in bench.health().reason
    remote_token.start()
    bench.recovers(handle)
    bench.close()


def test_g_fault_3_a_hung_token_answers_in_time_and_goes_on(
    remote_token: RemoteToken, pump: Pump
) -> None:
    bench = Bench(pump, remote_token.settings(timeout_seconds=1))
    handle = bench.make()
    bench.sign(handle)
    remote_token.signal(signal.SIGSTOP)
    pump.longest_gap = 0
    begin = time.monotonic()
    waiting = [pump.begin(bench.keyring.use(handle.id, challenge)) for _ in range(6)]
    pump.until(lambda: all(waiting), 3)
    assert time.monotonic() - begin < 1.5
    for [result] in waiting:
        assert isinstance(result, Failure)
        fault = result.value
        assert isinstance(fault, Fault)
        assert fault.code is FaultCode.UNAVAILABLE
    bench.until("degraded", 2)
    begin = time.monotonic()
    bench.refusal(handle)
    assert time.monotonic() - begin < 0.1
    assert "has not returned" in bench.health().reason
    pump.rest(1)
    assert pump.longest_gap < 0.25  # shared machines jitter; a blocked reactor shows 1 s
    remote_token.signal(signal.SIGCONT)
    bench.recovers(handle)
    assert bench.health().state == "ok"
    bench.close()


def test_a_hung_token_at_the_start_does_not_stop_the_process(
    remote_token: RemoteToken, pump: Pump
) -> None:
    bench = Bench(pump, remote_token.settings(timeout_seconds=1))
    handle = bench.make()
    bench.close()
    first = Bench(pump, remote_token.settings(timeout_seconds=1), bench.shelf)
    pump.until(lambda: remote_token.children() or first.health().state == "ok", 5)
    remote_token.signal(signal.SIGSTOP)
    # Whether it was stopped before or after it was opened, there is an answer in time.
    pump.wait(first.keyring.use(handle.id, challenge), 2)
    remote_token.signal(signal.SIGCONT)
    first.recovers(handle)
    first.close()


def test_g_fault_3_an_emptied_token_is_another_token(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    tokens = softhsm.directory / "tokens"
    kept = softhsm.directory / "kept"
    shutil.move(tokens, kept)
    tokens.mkdir()
    bench.refusal(handle)
    bench.until("degraded")
    other = create_token(softhsm.directory / "other", pin=softhsm.pin)
    shutil.copytree(other.directory / "tokens", tokens, dirs_exist_ok=True)
    pump.until(lambda: "not" in bench.health().reason or "another" in bench.health().reason)
    bench.refusal(handle)
    assert bench.health().state == "degraded"
    shutil.rmtree(tokens)
    shutil.move(kept, tokens)
    bench.recovers(handle)
    bench.close()


def test_one_missing_key_does_not_stop_the_others(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    kept, lost = bench.make(), bench.make()
    bench.close()
    with_token(softhsm, lambda connection: destroy(connection, lost))
    bench = Bench(pump, softhsm.settings(), bench.shelf)
    bench.sign(kept)
    bench.refusal(lost)
    bench.recovers(kept)
    opened = bench.health().counters["opened"]
    for _ in range(5):
        bench.refusal(lost)
        bench.sign(kept)
    assert bench.health().counters["opened"] == opened
    bench.close()


def with_token(token: SoftToken, function: Callable[[Connection], Any]) -> Any:
    module = Module.at(token.module)
    module.acquire()
    try:
        return function(Connection(module, token.settings()))
    finally:
        module.release()


def destroy(connection: Connection, handle: KeyHandle) -> None:

    assert objects.destroy(connection, bytes.fromhex(json.loads(handle.material)["cka_id"])) == 2


class Logins:
    """Counts how often the PIN is read, which is once a login."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read = tmad.signer.token.read_private

        def counted(*arguments: Any, **named: Any) -> bytes:
            self.count += 1
            return read(*arguments, **named)

        monkeypatch.setattr(tmad.signer.token, "read_private", counted)


def test_g_fault_3_a_wrong_pin_is_tried_once(
    softhsm: SoftToken, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    bench.close()
    softhsm.pin_file.write_text("wrong-canary-5d1c\n")
    logins = Logins(monkeypatch)
    bench = Bench(pump, softhsm.settings(), bench.shelf)
    bench.until("failed")
    for _ in range(5):
        fault = bench.refusal(handle)
        assert "wrong-canary-5d1c" not in f"{fault!r}{vars(fault)}{bench.health()}"
    pump.rest(2.5)
    assert logins.count == 1
    assert "C_Login: CKR_PIN_INCORRECT" in bench.health().reason
    bench.close()

    # Another worker does not try either: the token says that a wrong PIN was presented.
    second = Bench(pump, softhsm.settings(), bench.shelf)
    second.until("failed")
    assert logins.count == 1
    assert "tmad hsm check" in second.health().reason
    second.close()

    # A person may: a good login clears the token's flag.
    softhsm.pin_file.write_text(softhsm.pin)
    module = Module.at(softhsm.module)
    module.acquire()
    Connection(module, softhsm.settings(), cautious=False)
    module.release()
    third = Bench(pump, softhsm.settings(), bench.shelf)
    third.sign(handle)
    third.close()


def test_a_pin_file_that_others_read_is_refused_without_a_login(
    softhsm: SoftToken, pump: Pump
) -> None:
    softhsm.pin_file.chmod(0o644)
    bench = Bench(pump, softhsm.settings())
    bench.until("degraded")
    pump.until(lambda: "chmod 600" in bench.health().reason)
    softhsm.pin_file.chmod(0o600)
    bench.until("ok")
    bench.close()


def test_a_full_queue_is_refused_at_once(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings(threads=1, queue=2))
    handle = bench.make()
    gate = threading.Event()
    running = pump.begin(bench.keyring.use(handle.id, lambda key: gate.wait(5)))
    pump.until(lambda: bench.store._workers.running)
    waiting = [pump.begin(bench.keyring.use(handle.id, challenge)) for _ in range(2)]
    fault = bench.refusal(handle)
    assert fault.rule == "signer.queue"
    assert fault.retry_after == 1
    assert bench.health().queue == 2
    gate.set()
    pump.until(lambda: running and all(waiting))
    assert not any(isinstance(results[0], Failure) for results in waiting)
    assert bench.health().counters["refused"] == 1
    bench.close()


class FlippingKey:
    """A key object of a token that lies: each signature has one wrong bit."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.is_lying = True

    def sign(self, *arguments: Any, **named: Any) -> bytes:
        signature = bytearray(self._key.sign(*arguments, **named))
        signature[-1] ^= self.is_lying
        return bytes(signature)


def test_g_fault_3_a_wrong_signature_never_leaves(
    softhsm: SoftToken, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    find = Connection.private_key
    is_lying = True

    def lying(connection: Connection, cka_id: bytes) -> Any:
        key = FlippingKey(find(connection, cka_id))
        key.is_lying = is_lying
        return key

    monkeypatch.setattr(Connection, "private_key", lying)
    left: list[bytes] = []
    fault = bench.refusal(handle, lambda key: left.append(key.sign(b"data", SHA256)))
    assert fault.rule == "signer.wrong-signature"
    assert left == []
    bench.until("degraded")
    pump.rest(1.5)
    health = bench.health()
    assert health.state == "degraded"
    assert health.counters["wrong signatures"] == 1
    assert "does not verify" in health.reason
    is_lying = False
    bench.recovers(handle)
    bench.close()


def test_a_single_wrong_bit_is_refused_but_does_not_stop_the_token(
    softhsm: SoftToken, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    find = Connection.private_key
    lies = [True]

    def lying_once(connection: Connection, cka_id: bytes) -> Any:
        key = FlippingKey(find(connection, cka_id))
        key.is_lying = bool(lies) and lies.pop()
        return key

    monkeypatch.setattr(Connection, "private_key", lying_once)
    assert bench.refusal(handle).rule == "signer.wrong-signature"
    bench.sign(handle)
    assert bench.health().state == "ok"
    bench.close()


def test_a_key_object_is_void_once_its_operation_is_over(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    key = pump.run(bench.keyring.use(handle.id, lambda key: key))
    with pytest.raises(Fault) as caught:
        key.sign(b"data", SHA256)
    assert caught.value.rule == "signer.stale-handle"
    bench.close()


def test_handles_of_an_earlier_generation_are_refused(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()

    def renewed(key: Any) -> None:
        module = Module.at(softhsm.module)
        module.renew(module.generation)
        key.sign(b"data", SHA256)

    fault = bench.refusal(handle, renewed)
    assert fault.rule == "signer.stale-handle"
    bench.recovers(handle)
    bench.close()


def test_f63_keys_cannot_be_extracted(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    algorithms = (KeyAlgorithm.P256, KeyAlgorithm.ED25519, KeyAlgorithm.RSA_2048)
    for algorithm in algorithms:
        handle = pump.run(bench.keyring.generate(algorithm, tenant="default", label="f63"))

        def export(key: Any) -> None:
            key.private_numbers() if hasattr(key, "curve") else key.private_bytes(1, 2, 3)

        with pytest.raises(Fault) as caught:
            pump.run(bench.keyring.use(handle.id, export))
        assert caught.value.rule == "signer.non-extractable"
    bench.close()

    def inspect(connection: Connection) -> int:
        keys = connection.objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        for key in keys:
            for attribute in (
                Attribute.SENSITIVE,
                Attribute.ALWAYS_SENSITIVE,
                Attribute.NEVER_EXTRACTABLE,
                Attribute.LOCAL,
                Attribute.PRIVATE,
                Attribute.TOKEN,
            ):
                assert key[attribute] is True, attribute
            for attribute in (Attribute.EXTRACTABLE, Attribute.UNWRAP, Attribute.DERIVE):
                assert key[attribute] is False, attribute
            with pytest.raises(pkcs11.exceptions.AttributeSensitive):
                key[Attribute.VALUE if key.key_type.name != "RSA" else Attribute.PRIVATE_EXPONENT]
        return len(keys)

    assert with_token(softhsm, inspect) == len(algorithms)


def test_key_ids_are_the_hash_of_the_public_key(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    material = json.loads(handle.material)
    assert material["cka_id"] == sha256(handle.public_key_der).hexdigest()[:40]
    bench.close()

    def inspect(connection: Connection) -> None:
        assert material["token_serial"] == connection.serial
        labels = {
            thing[Attribute.LABEL]
            for thing in connection.objects({Attribute.ID: bytes.fromhex(material["cka_id"])})
        }
        assert labels == {"fault"}

    with_token(softhsm, inspect)


def test_g_secret_1_the_pin_shows_nowhere(
    softhsm: SoftToken, pump: Pump, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(pump, softhsm.settings())
    handle = bench.make()
    seen = [repr(bench.health()), repr(handle), repr(bench.store), repr(bench.keyring)]

    def look(key: Any) -> None:
        seen.append(repr(key) + repr(vars(key)))
        raise KeyError("boom")

    with pytest.raises(KeyError) as caught:
        pump.run(bench.keyring.use(handle.id, look))
    seen.append(Failure(caught.value, caught.type, caught.tb).getTraceback(detail="verbose"))
    shutil.rmtree(softhsm.directory / "tokens")
    (softhsm.directory / "tokens").mkdir()
    fault = bench.refusal(handle)
    seen.append(f"{fault!r} {vars(fault)}")
    seen.append(Failure(fault).getTraceback(detail="verbose"))
    bench.until("degraded")
    seen += [repr(bench.health()), caplog.text, *capfd.readouterr()]
    bench.close()
    text = "".join(seen)
    for form in (softhsm.pin, softhsm.pin.encode().hex()):
        assert form not in text
    assert "KeyError" in text


def test_a_module_that_cannot_lock_gets_one_thread_at_a_time(
    softhsm: SoftToken, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(pump, softhsm.settings(threads=4))
    handle = bench.make()
    monkeypatch.setattr(Module.at(softhsm.module), "may_thread", False)
    inside = 0
    most = 0

    def operate(key: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        challenge(key)
        inside -= 1

    results = [pump.begin(bench.keyring.use(handle.id, operate)) for _ in range(8)]
    pump.until(lambda: all(results))
    assert [result for [result] in results] == [None] * 8
    assert most == 1
    bench.close()


def test_nothing_of_pkcs11_is_loaded_before_it_is_used() -> None:
    """A daemon forks after its imports; a module must not be inherited."""
    program = (
        "import sys, tmad.signer.keyring, tmad.signer.soft\n"
        "from tmad.signer.pkcs11 import PKCS11Store\n"
        "PKCS11Store(None)\n"
        "assert 'pkcs11' not in sys.modules, 'loaded too early'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_g_secret_1_the_pin_is_in_no_frame_of_a_traceback(softhsm: SoftToken) -> None:
    softhsm.pin_file.write_text("wrong-canary-77aa")
    try:
        with_token(softhsm, lambda connection: connection)
    except PinRefused:
        text = Failure(captureVars=True).getTraceback(detail="verbose")
    assert "CKR_PIN_INCORRECT" in text
    assert "wrong-canary" not in text


@pytest.mark.parametrize("name", ["USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"])
def test_a_token_before_its_last_try_is_left_alone(
    softhsm: SoftToken, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    logins = Logins(monkeypatch)
    find_token = tmad.signer.token.find_token

    def flagged(*arguments: Any) -> Any:
        token = find_token(*arguments)
        return types.SimpleNamespace(
            flags=token.flags | pkcs11.TokenFlag[name], serial=token.serial, slot=token.slot
        )

    monkeypatch.setattr(tmad.signer.token, "find_token", flagged)
    module = Module.at(softhsm.module)
    module.acquire()
    for cautious in (True, False):
        with pytest.raises(PinRefused, match=f"CKF_{name}"):
            Connection(module, softhsm.settings(), cautious=cautious)
    module.release()
    assert logins.count == 0


def test_an_unknown_module_is_named(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings(module=softhsm.directory / "nowhere.so"))
    bench.until("degraded")
    pump.until(lambda: "dlopen" in bench.health().reason)
    assert "full path" in bench.health().reason
    bench.close()


def test_an_unknown_token_names_those_that_are_there(softhsm: SoftToken, pump: Pump) -> None:
    bench = Bench(pump, softhsm.settings(token_label="other"))
    bench.until("degraded")
    pump.until(lambda: "C_GetSlotList" in bench.health().reason)
    assert "tmad-test" in bench.health().reason
    bench.close()


def test_pinrefused_is_a_tokenerror_with_a_hint() -> None:
    error = PinRefused("C_Login", "CKR_PIN_LOCKED", "ask the security officer")
    assert str(error) == "C_Login: CKR_PIN_LOCKED (ask the security officer)"
