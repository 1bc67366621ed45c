"""The master key and what it seals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.signer.seal import PassphraseFile, Seal, read_private, systemd_credential

CANARY = "canary-7f3a9e51c0d24b68"
WORK = 1 << 10


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(CANARY + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def seal(tmp_path: Path, passphrase: Path) -> Seal:
    return Seal.create(tmp_path / "master.json", PassphraseFile(passphrase, work=WORK))


def refused(code: FaultCode, function, *args, **kwargs) -> Fault:  # type: ignore[no-untyped-def]
    with pytest.raises(Fault) as caught:
        function(*args, **kwargs)
    assert caught.value.code is code
    assert CANARY not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
    return caught.value


def test_what_is_sealed_opens_after_a_restart(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    sealed = seal.seal(b"value", about="row 1")
    again = Seal.load(tmp_path / "master.json", PassphraseFile(passphrase))
    assert again.open(sealed, about="row 1").reveal() == b"value"
    assert again.digest("x", Secret("s")) == seal.digest("x", Secret("s"))


def test_sealing_twice_never_gives_the_same_octets(seal: Seal) -> None:
    assert len({seal.seal(b"v", about="a") for _ in range(100)}) == 100


def test_g_secret_2_swapped_values_both_fail(seal: Seal) -> None:
    one, two = seal.seal(b"1", about="row 1"), seal.seal(b"2", about="row 2")
    refused(FaultCode.BAD_INTEGRITY, seal.open, one, about="row 2")
    refused(FaultCode.BAD_INTEGRITY, seal.open, two, about="row 1")


def test_every_altered_octet_is_noticed(seal: Seal) -> None:
    sealed = seal.seal(b"value", about="row 1")
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        refused(FaultCode.BAD_INTEGRITY, seal.open, bytes(altered), about="row 1")
    for length in range(len(sealed)):
        refused(FaultCode.BAD_INTEGRITY, seal.open, sealed[:length], about="row 1")


def test_another_master_key_opens_nothing(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    other = Seal.create(tmp_path / "other.json", PassphraseFile(passphrase, work=WORK))
    refused(FaultCode.BAD_INTEGRITY, other.open, seal.seal(b"v", about="a"), about="a")
    assert other.digest("x", Secret("s")) != seal.digest("x", Secret("s"))


def test_digests_do_not_confuse_the_words_with_the_secret(seal: Seal) -> None:
    assert seal.digest("ab", Secret("c")) != seal.digest("a", Secret("bc"))


def test_a_wrong_passphrase_is_a_clear_fault(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    passphrase.write_text("wrong")
    fault = refused(
        FaultCode.UNAUTHENTICATED,
        Seal.load,
        tmp_path / "master.json",
        PassphraseFile(passphrase),
    )
    assert fault.rule == "seal.passphrase"
    assert str(passphrase) in fault.detail


def test_an_empty_passphrase_is_refused(tmp_path: Path, passphrase: Path) -> None:
    passphrase.write_text("\n")
    refused(
        FaultCode.REJECTED,
        Seal.create,
        tmp_path / "m.json",
        PassphraseFile(passphrase, work=WORK),
    )
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660])
def test_g_secret_2_files_that_others_can_read_are_refused(
    tmp_path: Path, passphrase: Path, seal: Seal, mode: int
) -> None:
    passphrase.chmod(mode)
    fault = refused(FaultCode.REJECTED, read_private, passphrase)
    assert fault.values == {"mode": f"{mode:04o}"}
    passphrase.chmod(0o600)
    (tmp_path / "master.json").chmod(mode)
    refused(FaultCode.REJECTED, Seal.load, tmp_path / "master.json", PassphraseFile(passphrase))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    fault = refused(FaultCode.NOT_FOUND, read_private, tmp_path / "nowhere")
    assert "nowhere" in fault.detail


def test_g_secret_2_the_file_is_private_and_holds_no_secret(tmp_path: Path, seal: Seal) -> None:
    path = tmp_path / "master.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert CANARY not in path.read_text()
    assert json.loads(path.read_text())["wrapped"]["n"] == WORK
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_master_key_is_never_overwritten(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    path = tmp_path / "master.json"
    before = path.read_bytes()
    refused(FaultCode.CONFLICT, Seal.create, path, PassphraseFile(passphrase, work=WORK))
    assert path.read_bytes() == before


def test_weakened_scrypt_parameters_do_not_open(
    tmp_path: Path, passphrase: Path, seal: Seal
) -> None:
    path = tmp_path / "master.json"
    document = json.loads(path.read_text())
    document["wrapped"]["n"] = 2
    path.write_text(json.dumps(document))
    refused(FaultCode.UNAUTHENTICATED, Seal.load, path, PassphraseFile(passphrase))
    document["wrapped"]["n"] = 1 << 40
    path.write_text(json.dumps(document))
    refused(FaultCode.MALFORMED, Seal.load, path, PassphraseFile(passphrase))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", '"x"'])
def test_a_damaged_file_is_malformed(tmp_path: Path, passphrase: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    path.chmod(0o600)
    refused(FaultCode.MALFORMED, Seal.load, path, PassphraseFile(passphrase))


def test_each_damaged_field_is_a_fault(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    path = tmp_path / "master.json"
    whole = json.loads(path.read_text())
    for name in whole["wrapped"]:
        damaged = json.loads(json.dumps(whole))
        damaged["wrapped"][name] = "!"
        path.write_text(json.dumps(damaged))
        refused(FaultCode.MALFORMED, Seal.load, path, PassphraseFile(passphrase))
    whole["check"] = "00"
    path.write_text(json.dumps(whole))
    refused(FaultCode.BAD_INTEGRITY, Seal.load, path, PassphraseFile(passphrase))


def test_another_kind_of_protector_is_named(tmp_path: Path, passphrase: Path, seal: Seal) -> None:
    path = tmp_path / "master.json"
    document = json.loads(path.read_text()) | {"kind": "pkcs11"}
    path.write_text(json.dumps(document))
    fault = refused(FaultCode.REJECTED, Seal.load, path, PassphraseFile(passphrase))
    assert fault.values == {"file": "pkcs11", "settings": "passphrase"}


def test_a_systemd_credential_works_with_its_acl_bits(
    tmp_path: Path, passphrase: Path, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.fspath(tmp_path))
    passphrase.chmod(0o440)
    Seal.load(tmp_path / "master.json", systemd_credential("passphrase"))
    passphrase.chmod(0o444)
    refused(
        FaultCode.REJECTED,
        Seal.load,
        tmp_path / "master.json",
        systemd_credential("passphrase"),
    )


def test_a_systemd_credential_stays_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", os.fspath(tmp_path))
    for name in ("../passphrase", "", ".", ".."):
        refused(FaultCode.REJECTED, systemd_credential, name)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    fault = refused(FaultCode.REJECTED, systemd_credential, "passphrase")
    assert "LoadCredential" in fault.detail


def test_a_seal_shows_and_gives_away_nothing(seal: Seal) -> None:
    import pickle

    assert repr(seal) == "Seal()"
    with pytest.raises(TypeError):
        pickle.dumps(seal)
