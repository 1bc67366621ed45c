"""The master key protected by a key in the token, and ``tmad hsm``."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, Mechanism, ObjectClass

import tmad.signer.check
from tests import softhsm as softhsm_
from tests.softhsm import RemoteToken, SoftToken, create_token
from tests.support import drive
from tests.unit.test_signer_keyring import Shelf
from tmad.cli.main import exit_code
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.check import check, find
from tmad.signer.keyring import Keyring
from tmad.signer.module import Module
from tmad.signer.pkcs11 import PKCS11Store
from tmad.signer.seal import PassphraseFile, Seal
from tmad.signer.soft import SoftStore
from tmad.signer.token import Connection
from tmad.signer.token_master import TokenMaster

softhsm, remote_token = softhsm_.softhsm, softhsm_.remote_token

SCHEMES = [
    Mechanism.AES_GCM,
    Mechanism.AES_KEY_WRAP_PAD,
    Mechanism.AES_KEY_WRAP,
    Mechanism.RSA_PKCS_OAEP,
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda m: m.name)
def test_the_token_protects_the_master_key(
    softhsm: SoftToken, tmp_path: Path, scheme: Mechanism
) -> None:
    path = tmp_path / "master.json"
    source = TokenMaster(softhsm.settings(), "tmad master", schemes=(scheme,))
    sealed = Seal.create(path, source).seal(b"value", about="row")
    stored = json.loads(path.read_text())
    assert stored["kind"] == "pkcs11"
    assert stored["wrapped"]["mechanism"] == f"CKM_{scheme.name}"
    assert softhsm.pin not in path.read_text()
    # What opens it is what the file says, not what a newer tmad would choose.
    again = Seal.load(path, TokenMaster(softhsm.settings(), "tmad master"))
    assert again.open(sealed, about="row").reveal() == b"value"


def test_the_best_mechanism_is_chosen_and_the_key_stays_inside(
    softhsm: SoftToken, tmp_path: Path
) -> None:
    path = tmp_path / "master.json"
    Seal.create(path, TokenMaster(softhsm.settings(), "tmad master"))
    assert json.loads(path.read_text())["wrapped"]["mechanism"] == "CKM_AES_GCM"
    module = Module.at(softhsm.module)
    module.acquire()
    [key] = Connection(module, softhsm.settings()).objects(
        {Attribute.CLASS: ObjectClass.SECRET_KEY}
    )
    assert key[Attribute.LABEL] == "tmad master"
    assert key[Attribute.SENSITIVE]
    assert key[Attribute.NEVER_EXTRACTABLE]
    assert not key[Attribute.WRAP]
    module.release()


def test_without_the_token_nothing_opens(
    softhsm: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "master.json"
    Seal.create(path, TokenMaster(softhsm.settings(), "tmad master"))
    other = create_token(tmp_path / "other", pin=softhsm.pin)
    for name, value in other.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Fault, match="protected by token") as caught:
        Seal.load(path, TokenMaster(other.settings(), "tmad master"))
    assert caught.value.code is FaultCode.UNAVAILABLE
    with pytest.raises(Fault) as caught:
        Seal.load(path, TokenMaster(other.settings(token_label="nowhere"), "tmad master"))
    assert caught.value.rule == "seal.token"


def test_a_damaged_wrapping_is_a_fault(softhsm: SoftToken, tmp_path: Path) -> None:
    path = tmp_path / "master.json"
    Seal.create(path, TokenMaster(softhsm.settings(), "tmad master"))
    whole = json.loads(path.read_text())
    for name in whole["wrapped"]:
        damaged = json.loads(json.dumps(whole))
        value = damaged["wrapped"][name]
        # Some are in hexadecimal, where "a" and "A" are one.
        damaged["wrapped"][name] = ("b" if value[:1] in "aA" else "a") + value[1:]
        path.write_text(json.dumps(damaged))
        with pytest.raises(Fault):
            Seal.load(path, TokenMaster(softhsm.settings(), "tmad master"))


def test_a_token_without_any_mechanism_is_named(softhsm: SoftToken, tmp_path: Path) -> None:
    source = TokenMaster(softhsm.settings(), "x", schemes=(Mechanism.ML_KEM,))
    with pytest.raises(Fault) as caught:
        Seal.create(tmp_path / "m.json", source)
    assert caught.value.code is FaultCode.UNSUPPORTED
    assert "CKM_ML_KEM" in caught.value.detail
    assert not (tmp_path / "m.json").exists()


def test_a_passphrase_does_not_open_what_the_token_protects(
    softhsm: SoftToken, tmp_path: Path
) -> None:
    path = tmp_path / "master.json"
    Seal.create(path, TokenMaster(softhsm.settings(), "tmad master"))
    with pytest.raises(Fault) as caught:
        Seal.load(path, PassphraseFile(softhsm.pin_file))
    assert caught.value.rule == "seal.kind"


def test_master_key_and_signing_keys_live_in_one_token(softhsm: SoftToken, tmp_path: Path) -> None:
    settings = softhsm.settings()
    seal = Seal.create(tmp_path / "master.json", TokenMaster(settings, "tmad master"))
    keyring = Keyring(
        Shelf(), {"soft": SoftStore(seal), "pkcs11": PKCS11Store(settings)}, default="pkcs11"
    )
    for store in ("soft", "pkcs11"):
        handle = drive(
            keyring.generate(KeyAlgorithm.ED25519, tenant="default", label=store, store=store)
        )
        assert drive(keyring.use(handle.id, lambda key: key.sign(b"data")))
    # While signing goes on, the same module serves the master key, too.
    again = Seal.load(tmp_path / "master.json", TokenMaster(settings, "tmad master"))
    assert again.open(seal.seal(b"v", about="a"), about="a").reveal() == b"v"
    assert drive(keyring.use(handle.id, lambda key: key.sign(b"data")))
    drive(keyring.close())


def test_check_names_every_call_and_leaves_nothing_behind(softhsm: SoftToken) -> None:
    steps = list(check(softhsm.settings()))
    assert [step for step in steps if step.state == "failed"] == []
    calls = list(dict.fromkeys(step.call for step in steps))
    assert calls == [
        "dlopen",
        "C_Initialize",
        "C_GetSlotList",
        "C_GetTokenInfo",
        "C_Login",
        "C_GetMechanismList",
        "C_GenerateKeyPair",
        "C_Sign",
        "C_DestroyObject",
        "C_Finalize",
    ]
    absent = {step.result.split(":")[0] for step in steps if step.state == "absent"}
    assert absent == {"ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}
    assert find(softhsm.settings()) == []
    assert softhsm.pin not in repr(steps)


@pytest.mark.parametrize(
    ("change", "call", "code"),
    [
        ({"module": Path("/nowhere.so")}, "dlopen", "failed"),
        ({"token_label": "other"}, "C_GetSlotList", "CKR_TOKEN_NOT_PRESENT"),
        ({"token_serial": "0"}, "C_GetSlotList", "CKR_TOKEN_NOT_PRESENT"),
    ],
    ids=["module", "label", "serial"],
)
def test_check_stops_at_the_first_failed_call(
    softhsm: SoftToken, change: dict[str, Any], call: str, code: str
) -> None:
    *before, last = check(softhsm.settings(**change))
    assert all(step.state == "ok" for step in before)
    assert (last.state, last.call, last.result) == ("failed", call, code)
    assert last.hint


def test_check_tells_a_wrong_pin_and_may_try_again(softhsm: SoftToken) -> None:
    softhsm.pin_file.write_text("canary-wrong-pin")
    last = list(check(softhsm.settings()))[-1]
    assert (last.state, last.call, last.result) == ("failed", "C_Login", "CKR_PIN_INCORRECT")
    assert "pin_file" in last.hint
    assert "canary" not in repr(last)
    with pytest.raises(Fault, match="CKF_USER_PIN_COUNT_LOW"):
        find(softhsm.settings())
    softhsm.pin_file.write_text(softhsm.pin)
    assert list(check(softhsm.settings()))[-1].call == "C_Finalize"
    assert find(softhsm.settings()) == []


def test_check_does_not_hang_with_the_token(
    remote_token: RemoteToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tmad.signer.check, "_SECONDS", 0.5)
    monkeypatch.setattr(tmad.signer.check._run, "__defaults__", (0.5,))
    steps = check(remote_token.settings())
    assert next(steps).call == "dlopen"
    assert "p11-kit" in next(steps).result
    remote_token.signal(signal.SIGSTOP)
    last = list(steps)[-1]
    remote_token.signal(signal.SIGCONT)
    assert (last.state, last.call) == ("failed", "C_GetSlotList")
    assert last.result.startswith("no answer in")
    # A check of a hung token leaves this to the end of its process; here others come after it,
    # and the library does not survive its end during a call.
    for thread in threading.enumerate():
        if thread.name == "hsm check":
            thread.join(10)
            assert not thread.is_alive()
    Module.at(remote_token.client).release()


def test_list_shows_what_is_in_the_token(softhsm: SoftToken) -> None:
    keyring = Keyring(Shelf(), {"pkcs11": PKCS11Store(softhsm.settings())}, default="pkcs11")
    for algorithm in (KeyAlgorithm.P384, KeyAlgorithm.RSA_2048):
        drive(keyring.generate(algorithm, tenant="default", label=f"ca {algorithm}"))
    drive(keyring.close())
    found = find(softhsm.settings())
    assert [(key.label, key.kind) for key in found] == [("ca p384", "EC"), ("ca rsa-2048", "RSA")]
    assert not any(key.is_extractable or key.was_ever_extractable for key in found)


def test_the_command_answers_with_its_exit_code(
    softhsm: SoftToken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "tmad.toml"
    settings.write_text(softhsm.toml)
    assert exit_code(["hsm", "check", "--config", str(settings), "-o", "json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert steps[-1]["call"] == "C_Finalize"
    assert exit_code(["hsm", "list", "--config", str(settings), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    softhsm.pin_file.write_text("wrong-canary")
    assert exit_code(["hsm", "check", "--config", str(settings)]) == 2
    shown = "".join(capsys.readouterr())
    assert "C_Login" in shown
    assert "CKR_PIN_INCORRECT" in shown
    assert "wrong-canary" not in shown
    settings.write_text("")
    assert exit_code(["hsm", "list", "--config", str(settings)]) == 1
    assert "[keyring.pkcs11]" in capsys.readouterr().err
