"""The keyring: where private keys live, and the only way to use one."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from cryptography.hazmat.primitives.serialization import load_der_public_key

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, utc_now
from tmad.signer.algorithms import KeyAlgorithm, PrivateKey, PublicKey, of
from tmad.signer.workers import Reactor

T = TypeVar("T")

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHandle:
    """What the database keeps of a private key; ``material`` means something to its store."""

    id: str
    tenant: str
    store: str  # "soft" | "pkcs11"
    algorithm: KeyAlgorithm
    label: str
    public_key_der: bytes  # SubjectPublicKeyInfo
    material: bytes = field(repr=False)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """How one store is doing, in words that an operator can act on.

    ``ok``: signs. ``degraded``: does not, and tries to heal by itself. ``failed``: does not,
    and waits for a person.
    """

    store: str
    state: str
    reason: str = ""
    queue: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)


class KeyShelf(Protocol):
    """Where handles are kept: the database, wired up by the composition root."""

    async def load(self, key_id: str) -> KeyHandle:
        """Return a handle; Fault(NOT_FOUND)."""

    async def save(self, handle: KeyHandle) -> None: ...

    async def remove(self, key_id: str) -> None: ...


class KeyStore(Protocol):
    """One kind of place where private keys live."""

    def start(self, reactor: Reactor | None, threads: int) -> None:
        """Get ready; called once, after the last fork. None: run inline, without threads."""

    def algorithms(self) -> frozenset[KeyAlgorithm]:
        """Return what this store can generate, as far as it knows by now."""

    async def generate(
        self, algorithm: KeyAlgorithm, *, key_id: str, tenant: str, label: str
    ) -> tuple[bytes, bytes]:
        """Make a key; return its SubjectPublicKeyInfo and its material."""

    async def use(self, handle: KeyHandle, operation: Callable[[Any], T]) -> T:
        """Run ``operation`` with the private key, where the key lives."""

    async def remove(self, handle: KeyHandle) -> None:
        """Destroy the key; no error when it is gone already."""

    def forget(self, key_id: str) -> None:
        """Drop what is cached of a key."""

    async def health(self) -> StoreHealth: ...

    async def close(self) -> None: ...


@runtime_checkable
class Adopting(Protocol):
    """A store that takes in keys which were made elsewhere."""

    async def adopt(
        self, private_key: PrivateKey, algorithm: KeyAlgorithm, *, key_id: str, tenant: str
    ) -> tuple[bytes, bytes]:
        """Seal a key; return its SubjectPublicKeyInfo and its material."""


@runtime_checkable
class Probing(Protocol):
    """A store that can be gone without anybody's noticing, as long as nobody signs."""

    async def probe(self) -> None:
        """Ask it for a sign of life; its health says what came of it."""


class Keyring:
    """All private keys of the appliance.

    A key's handle never changes, so handles are remembered here; ``forget`` is for a key
    that another process removed.
    """

    def __init__(
        self,
        shelf: KeyShelf,
        stores: Mapping[str, KeyStore],
        *,
        default: str,
        reactor: Reactor | None = None,
        now: Clock = utc_now,
        threads: int = 2,
    ) -> None:
        if default not in stores:
            raise Fault(FaultCode.REJECTED, f"there is no key store {default!r}")
        self._shelf = shelf
        self._stores = dict(stores)
        self._default = default
        self._now = now
        self._handles: OrderedDict[str, tuple[KeyHandle, PublicKey]] = OrderedDict()
        self._forgets = 0  # rises with each key forgotten: what was loaded before is not kept
        for store in self._stores.values():
            store.start(reactor, threads)

    async def generate(
        self,
        algorithm: KeyAlgorithm,
        *,
        tenant: str,
        label: str,
        store: str | None = None,
        save: bool = True,
    ) -> KeyHandle:
        """Make a key in ``store`` (None: the default one) and return its handle.

        With ``save=False`` the caller stores the handle in a transaction of his own, and
        calls ``discard`` if that fails.
        """
        name = store or self._default
        key_id = secrets.token_hex(16)
        public_key_der, material = await self._store(name).generate(
            algorithm, key_id=key_id, tenant=tenant, label=label
        )
        handle = KeyHandle(
            id=key_id,
            tenant=tenant,
            store=name,
            algorithm=algorithm,
            label=label,
            public_key_der=public_key_der,
            material=material,
            created_at=self._now(),
        )
        if save:
            await self._save(handle)
        return handle

    async def adopt(
        self, private_key: PrivateKey, *, tenant: str, label: str, save: bool = True
    ) -> KeyHandle:
        """Take in a key that was made elsewhere, into the software store; as ``generate``.

        Raise Fault(BAD_ALGORITHM) for a kind of key that is not held here.
        """
        store = self._store("soft")
        if not isinstance(store, Adopting):
            raise Fault(FaultCode.UNSUPPORTED, "the software store takes in no keys")
        algorithm = of(private_key.public_key())
        key_id = secrets.token_hex(16)
        public_key_der, material = await store.adopt(
            private_key, algorithm, key_id=key_id, tenant=tenant
        )
        handle = KeyHandle(
            id=key_id,
            tenant=tenant,
            store="soft",
            algorithm=algorithm,
            label=label,
            public_key_der=public_key_der,
            material=material,
            created_at=self._now(),
        )
        if save:
            await self._save(handle)
        return handle

    async def _save(self, handle: KeyHandle) -> None:
        try:
            await self._shelf.save(handle)
        except BaseException:
            await self.discard(handle)
            raise

    async def handle(self, key_id: str) -> KeyHandle:
        """Return what is known of a key; Fault(NOT_FOUND)."""
        return (await self._find(key_id))[0]

    async def public_key(self, key_id: str) -> PublicKey:
        """Return the public half; Fault(NOT_FOUND)."""
        return (await self._find(key_id))[1]

    async def use(self, key_id: str, operation: Callable[[Any], T]) -> T:
        """Run ``operation`` with the private key and return its result.

        The key behaves like one of ``cryptography``, also when it lives in an HSM, but only
        until ``operation`` returns, which may be in another thread. Faults: NOT_FOUND;
        UNAVAILABLE, with retry_after, when the store is lost, hung or busy.
        """
        handle, _ = self._handles.get(key_id) or await self._find(key_id)
        return await self._store(handle.store).use(handle, operation)

    async def use_handle(self, handle: KeyHandle, operation: Callable[[Any], T]) -> T:
        """Like ``use``, for a key that ``generate(save=False)`` made and nobody stored yet."""
        return await self._store(handle.store).use(handle, operation)

    async def remove(self, key_id: str) -> None:
        """Destroy a key and forget it."""
        handle, _ = await self._find(key_id)
        await self._store(handle.store).remove(handle)
        await self._shelf.remove(key_id)
        self.forget(key_id)

    async def discard(self, handle: KeyHandle) -> None:
        """Destroy a key that was generated but never stored."""
        await self._store(handle.store).remove(handle)
        self.forget(handle.id)

    def forget(self, key_id: str) -> None:
        """Drop what is cached of a key; ``"*"`` drops everything."""
        self._forgets += 1
        if key_id == "*":
            self._handles.clear()
        else:
            self._handles.pop(key_id, None)
        for store in self._stores.values():
            store.forget(key_id)

    def algorithms(self, store: str | None = None) -> frozenset[KeyAlgorithm]:
        """Return what a store can generate."""
        return self._store(store or self._default).algorithms()

    async def health(self) -> list[StoreHealth]:
        """Return how each store is doing; never raises for a store that is down."""
        return [await store.health() for store in self._stores.values()]

    async def probe(self) -> None:
        """Find out what ``health`` cannot know of stores that nobody uses just now."""
        for store in self._stores.values():
            if isinstance(store, Probing):
                await store.probe()

    async def close(self) -> None:
        """Finish what runs and let go of the HSM."""
        for store in self._stores.values():
            await store.close()

    def _store(self, name: str) -> KeyStore:
        try:
            return self._stores[name]
        except KeyError:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the key's store is not configured on this node",
                private=f"store {name!r}",
                rule="keyring.store",
                values={"store": name, "configured": ", ".join(sorted(self._stores))},
            ) from None

    async def _find(self, key_id: str) -> tuple[KeyHandle, PublicKey]:
        found = self._handles.get(key_id)
        if found is None:
            forgets = self._forgets
            handle = await self._shelf.load(key_id)
            # The table holds nothing but keys that generate() made.
            public_key = cast("PublicKey", load_der_public_key(handle.public_key_der))
            found = (handle, public_key)
            if forgets == self._forgets:
                self._handles[key_id] = found
                if len(self._handles) > _REMEMBERED:
                    self._handles.popitem(last=False)
        return found
