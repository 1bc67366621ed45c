"""Software keys: PKCS#8 (RFC 5958), sealed by the master key, unsealed in memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm, PrivateKey, generate
from tmad.signer.keyring import KeyHandle, StoreHealth
from tmad.signer.seal import Seal
from tmad.signer.workers import Reactor, Workers

T = TypeVar("T")

# A hop to a thread and back costs 90 µs, and two hops between threads that fight for the GIL cost
# more: only what takes longer than 0.3 ms goes to the pool (docs/performance.md).
_INLINE = frozenset(
    {KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.ED25519, KeyAlgorithm.RSA_2048}
)


class SoftStore:
    """Keys that the process itself holds; they leave it only sealed."""

    def __init__(self, seal: Seal, *, queue: int = 256, cached: int = 512) -> None:
        self._seal = seal
        self._queue = queue
        self._cached = cached
        self._keys: OrderedDict[str, PrivateKey] = OrderedDict()
        self._lock = threading.Lock()  # the cache is used by the reactor thread and the pool
        self._workers: Workers | None = None
        self._signed = 0
        self._generated = 0

    def start(self, reactor: Reactor | None, threads: int) -> None:
        self._workers = Workers(
            "the software keyring", threads=threads, queue=self._queue, reactor=reactor
        )

    def algorithms(self) -> frozenset[KeyAlgorithm]:
        return frozenset(KeyAlgorithm)

    async def generate(
        self, algorithm: KeyAlgorithm, *, key_id: str, tenant: str, label: str
    ) -> tuple[bytes, bytes]:
        self._generated += 1
        return await self._pool.run(
            lambda: self._sealed(generate(algorithm), algorithm, key_id, tenant)
        )

    async def adopt(
        self, private_key: PrivateKey, algorithm: KeyAlgorithm, *, key_id: str, tenant: str
    ) -> tuple[bytes, bytes]:
        return self._sealed(private_key, algorithm, key_id, tenant)

    def _sealed(
        self, key: PrivateKey, algorithm: KeyAlgorithm, key_id: str, tenant: str
    ) -> tuple[bytes, bytes]:
        """Return a key's SubjectPublicKeyInfo and the sealed key."""
        sealed = self._seal.seal(
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            about=_about(key_id, tenant, algorithm),
        )
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return spki, sealed

    async def use(self, handle: KeyHandle, operation: Callable[[Any], T]) -> T:
        self._signed += 1
        if handle.algorithm in _INLINE:
            return operation(self._unseal(handle))
        return await self._pool.run(lambda: operation(self._unseal(handle)))

    async def remove(self, handle: KeyHandle) -> None:
        self.forget(handle.id)  # the sealed key is in the handle; nothing else holds it

    def forget(self, key_id: str) -> None:
        with self._lock:
            if key_id == "*":
                self._keys.clear()
            else:
                self._keys.pop(key_id, None)

    async def health(self) -> StoreHealth:
        return StoreHealth(
            store="soft",
            state="ok",
            queue=self._pool.waiting,
            counters={
                "used": self._signed,
                "generated": self._generated,
                "refused": self._pool.refused,
                "cached": len(self._keys),
            },
        )

    async def close(self) -> None:
        self._pool.stop()
        self.forget("*")

    @property
    def _pool(self) -> Workers:
        if self._workers is None:
            raise Fault(FaultCode.UNAVAILABLE, "the software keyring has not been started")
        return self._workers

    def _unseal(self, handle: KeyHandle) -> PrivateKey:
        with self._lock:
            key = self._keys.get(handle.id)
            if key is not None:
                self._keys.move_to_end(handle.id)
                return key
        der = self._seal.open(
            handle.material, about=_about(handle.id, handle.tenant, handle.algorithm)
        ).reveal()
        # What the seal authenticated needs no arithmetic check (5 ms for RSA-4096).
        key = cast(
            "PrivateKey",
            load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True),
        )
        with self._lock:
            self._keys[handle.id] = key
            if len(self._keys) > self._cached:
                self._keys.popitem(last=False)
        return key


def _about(key_id: str, tenant: str, algorithm: KeyAlgorithm) -> str:
    return "private key " + json.dumps([key_id, tenant, algorithm.value])
