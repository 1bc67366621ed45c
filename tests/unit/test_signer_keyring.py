"""The keyring over software keys, inline."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from twisted.internet.defer import Deferred, ensureDeferred

from tests.support import Clock, drive
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm, generate, of
from tmad.signer.keyring import KeyHandle, Keyring
from tmad.signer.seal import Seal
from tmad.signer.soft import SoftStore


class Shelf:
    """A KeyShelf in memory that counts how often it is read."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyHandle] = {}
        self.loads = 0
        self.is_full = False

    async def load(self, key_id: str) -> KeyHandle:
        self.loads += 1
        try:
            return self.rows[key_id]
        except KeyError:
            raise Fault(FaultCode.NOT_FOUND, "no such key") from None

    async def save(self, handle: KeyHandle) -> None:
        if self.is_full:
            raise Fault(FaultCode.UNAVAILABLE, "the database is full")
        self.rows[handle.id] = handle

    async def remove(self, key_id: str) -> None:
        del self.rows[key_id]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def seal() -> Seal:
    return Seal(b"m" * 32)


@pytest.fixture
def keyring(shelf: Shelf, seal: Seal) -> Keyring:
    return Keyring(shelf, {"soft": SoftStore(seal)}, default="soft", now=Clock())


def make(keyring: Keyring, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> KeyHandle:
    return drive(keyring.generate(algorithm, tenant="default", label="test"))


@pytest.mark.parametrize("algorithm", [a for a in KeyAlgorithm if a.value != "rsa-4096"])
def test_a_key_of_each_algorithm_is_what_its_name_says(
    keyring: Keyring, algorithm: KeyAlgorithm
) -> None:
    handle = make(keyring, algorithm)
    assert of(drive(keyring.public_key(handle.id))) is algorithm
    public = drive(keyring.use(handle.id, lambda key: key.public_key()))
    assert public == drive(keyring.public_key(handle.id))


def test_other_algorithms_are_refused_by_name() -> None:
    with pytest.raises(Fault, match="secp256k1"):
        of(ec.generate_private_key(ec.SECP256K1()).public_key())
    with pytest.raises(Fault, match="X25519"):
        of(x25519.X25519PrivateKey.generate().public_key())


def test_a_key_survives_a_restart(keyring: Keyring, shelf: Shelf, seal: Seal) -> None:
    handle = make(keyring, KeyAlgorithm.ED25519)
    again = Keyring(shelf, {"soft": SoftStore(seal)}, default="soft", now=Clock())
    signature = drive(again.use(handle.id, lambda key: key.sign(b"data")))
    public = drive(keyring.public_key(handle.id))
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(signature, b"data")


def test_another_master_key_cannot_use_it(keyring: Keyring, shelf: Shelf) -> None:
    handle = make(keyring)
    thief = Keyring(shelf, {"soft": SoftStore(Seal(b"x" * 32))}, default="soft", now=Clock())
    with pytest.raises(Fault) as caught:
        drive(thief.use(handle.id, lambda key: key))
    assert caught.value.code is FaultCode.BAD_INTEGRITY


@pytest.mark.parametrize(
    "change",
    [{"tenant": "other"}, {"id": "0" * 32}, {"algorithm": KeyAlgorithm.ED448}],
    ids=["tenant", "id", "algorithm"],
)
def test_g_secret_2_material_opens_in_its_own_row_only(
    keyring: Keyring, shelf: Shelf, seal: Seal, change: dict[str, object]
) -> None:
    moved = replace(make(keyring), **change)  # type: ignore[arg-type]
    shelf.rows[moved.id] = moved
    fresh = Keyring(shelf, {"soft": SoftStore(seal)}, default="soft", now=Clock())
    with pytest.raises(Fault) as caught:
        drive(fresh.use(moved.id, lambda key: key))
    assert caught.value.code is FaultCode.BAD_INTEGRITY


def test_material_is_not_shown(keyring: Keyring) -> None:
    handle = make(keyring)
    assert "material" not in repr(handle)
    assert handle.material.hex() not in repr(handle)


def test_handles_are_read_once(keyring: Keyring, shelf: Shelf) -> None:
    handle = make(keyring)
    for _ in range(5):
        drive(keyring.use(handle.id, lambda key: key))
    assert shelf.loads == 1
    keyring.forget(handle.id)
    drive(keyring.public_key(handle.id))
    assert shelf.loads == 2
    keyring.forget("*")
    drive(keyring.public_key(handle.id))
    assert shelf.loads == 3


def test_a_removed_key_is_gone(keyring: Keyring) -> None:
    handle = make(keyring)
    drive(keyring.use(handle.id, lambda key: key))
    drive(keyring.remove(handle.id))
    with pytest.raises(Fault) as caught:
        drive(keyring.use(handle.id, lambda key: key))
    assert caught.value.code is FaultCode.NOT_FOUND


def test_a_key_that_was_removed_while_it_was_looked_up_is_not_remembered(
    keyring: Keyring, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has removed it, and this one hears of that while it reads."""
    handle = make(keyring)
    keyring.forget(handle.id)
    late: Deferred[None] = Deferred()
    load = shelf.load

    async def slowly(key_id: str) -> KeyHandle:
        found = await load(key_id)
        await late
        return found

    monkeypatch.setattr(shelf, "load", slowly)
    found: list[KeyHandle] = []
    ensureDeferred(keyring.handle(handle.id)).addCallback(found.append)
    monkeypatch.setattr(shelf, "load", load)
    del shelf.rows[handle.id]
    keyring.forget("*")
    late.callback(None)
    assert found == [handle]  # it was there when the question came
    with pytest.raises(Fault) as caught:
        drive(keyring.handle(handle.id))
    assert caught.value.code is FaultCode.NOT_FOUND


def test_save_false_leaves_storing_to_the_caller(keyring: Keyring, shelf: Shelf) -> None:
    handle = drive(keyring.generate(KeyAlgorithm.P256, tenant="default", label="x", save=False))
    assert shelf.rows == {}
    signature = drive(
        keyring.use_handle(handle, lambda key: key.sign(b"d", ec.ECDSA(hashes.SHA256())))
    )
    assert signature
    drive(keyring.discard(handle))


def test_a_failed_save_is_reported(keyring: Keyring, shelf: Shelf) -> None:
    shelf.is_full = True
    with pytest.raises(Fault, match="full"):
        make(keyring)
    assert shelf.rows == {}


def test_a_store_of_another_node_is_unavailable_not_a_crash(keyring: Keyring, shelf: Shelf) -> None:
    handle = replace(make(keyring), store="pkcs11")
    shelf.rows[handle.id] = handle
    keyring.forget(handle.id)
    with pytest.raises(Fault) as caught:
        drive(keyring.use(handle.id, lambda key: key))
    assert caught.value.code is FaultCode.UNAVAILABLE
    assert caught.value.values["configured"] == "soft"


def test_an_unknown_default_store_is_refused_at_the_start(shelf: Shelf, seal: Seal) -> None:
    with pytest.raises(Fault, match="pkcs11"):
        Keyring(shelf, {"soft": SoftStore(seal)}, default="pkcs11", now=Clock())


def test_what_the_operation_raises_comes_back(keyring: Keyring) -> None:
    handle = make(keyring)

    def fail(key: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        drive(keyring.use(handle.id, fail))


def test_unsealed_keys_in_memory_are_bounded(shelf: Shelf, seal: Seal) -> None:
    store = SoftStore(seal, cached=2)
    keyring = Keyring(shelf, {"soft": store}, default="soft", now=Clock())
    handles = [make(keyring) for _ in range(3)]
    for handle in handles * 2:
        drive(keyring.use(handle.id, lambda key: key))
    (health,) = drive(keyring.health())
    assert health.state == "ok"
    assert health.counters["cached"] == 2
    assert health.counters["used"] == 6


def test_generated_keys_differ() -> None:
    numbers = {
        generate(KeyAlgorithm.P256).public_key().public_numbers()  # type: ignore[union-attr]
        for _ in range(4)
    }
    assert len(numbers) == 4
