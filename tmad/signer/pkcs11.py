"""Keys in an HSM: worker threads with sessions of their own, loss noticed, healed by itself.

States: ``starting`` (jobs wait), ``ok``, ``degraded`` (jobs are refused at once; the token is
opened again with growing pauses), ``failed`` (a wrong PIN: only a person may go on).
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cryptography.hazmat.primitives.serialization import load_der_public_key
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IDelayedCall

from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm, PublicKey
from tmad.signer.keyring import KeyHandle, StoreHealth
from tmad.signer.workers import Reactor, Workers

if TYPE_CHECKING:
    from tmad.signer.calls import TokenError
    from tmad.signer.token import Connection, TokenSettings

T = TypeVar("T")

_GENERATION_SECONDS = 120.0  # an HSM may take a minute for RSA-4096
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_PATIENT_CALLERS = 5.0  # while somebody asks, no pause is longer
_FLAPPING = 10.0


class PKCS11Store:
    """Keys in one token of one PKCS#11 module.

    python-pkcs11 and the module are loaded by the first call, in a worker thread; nothing of
    them may be inherited through a fork.
    """

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._reactor: Reactor | None = None
        self._workers = self._healer = _not_started()
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # for a module that cannot lock
        self._opened = threading.Event()
        self._connection: Connection | None = None
        self._has_module = False
        self._generation = 0
        self._state = "starting"
        self._reason = ""
        self._recent: KeyHandle | None = None
        self._missing: set[bytes] = set()
        self._counters: Counter[str] = Counter()
        self._attempts = 0
        self._attempted_at = self._healed_at = -60.0
        self._timer: IDelayedCall | None = None

    def start(self, reactor: Reactor | None, threads: int) -> None:
        self._reactor = reactor
        self._workers = Workers(
            "the HSM",
            threads=self._settings.threads,
            queue=self._settings.queue,
            reactor=reactor,
            on_overdue=self._hung,
        )
        self._healer = Workers("the HSM's healer", threads=1, queue=1, reactor=reactor)
        if reactor is not None:
            # Runs only once the reactor does, which is after the last fork.
            self._timer = reactor.callLater(0, self._heal)

    def algorithms(self) -> frozenset[KeyAlgorithm]:
        from tmad.signer import objects

        connection = self._connection
        if connection is None:
            return frozenset(objects.MECHANISMS)
        return objects.offered(connection.mechanisms)

    async def generate(
        self, algorithm: KeyAlgorithm, *, key_id: str, tenant: str, label: str
    ) -> tuple[bytes, bytes]:
        def make(connection: Connection) -> tuple[bytes, bytes]:
            from tmad.signer import objects

            spki, cka_id = objects.generate(connection, algorithm, label)
            self._count("generated")
            material = {"token_serial": connection.serial, "cka_id": cka_id.hex()}
            return spki, json.dumps(material).encode()

        return await self._run(make, patience=_GENERATION_SECONDS)

    async def use(self, handle: KeyHandle, operation: Callable[[Any], T]) -> T:
        return await self._run(
            lambda connection: self._operate(connection, handle, operation),
            patience=self._settings.timeout_seconds,
        )

    async def remove(self, handle: KeyHandle) -> None:
        def destroy(connection: Connection) -> None:
            from tmad.signer import objects

            if self._recent is not None and self._recent.id == handle.id:
                self._recent = None
            objects.destroy(connection, _cka_id(handle, connection))

        await self._run(destroy, patience=self._settings.timeout_seconds)

    def forget(self, key_id: str) -> None:
        """Nothing to forget: what threads remember of a key is void once it is destroyed."""

    async def health(self) -> StoreHealth:
        reason = self._reason
        if self._state == "degraded" and self._workers.running:
            reason = f"{reason}; a call has not returned for {self._workers.longest:.0f} s"
        return StoreHealth(
            store="pkcs11",
            state="degraded" if self._state == "starting" else self._state,
            reason=reason or ("being opened" if self._state == "starting" else ""),
            queue=self._workers.waiting,
            counters={
                **self._counters,
                "refused": self._workers.refused,
                "timeouts": self._workers.expired,
            },
        )

    async def probe(self) -> None:
        """Look for the token, so that one that is gone is missed before somebody needs it."""
        if self._state == "ok":
            # What it raises is known by then: the store is degraded.
            with contextlib.suppress(Fault):
                await self._run(
                    lambda connection: connection.probe(), patience=self._settings.timeout_seconds
                )

    async def close(self) -> None:
        self._state, self._reason = "failed", "closed"
        self._opened.set()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._workers.stop()
        with contextlib.suppress(Fault):
            await self._healer.run(self._shut, patience=self._settings.timeout_seconds + 1)
        self._healer.stop()

    # -- in a worker thread (or, without a reactor, wherever the caller is)

    def _work(self, function: Callable[[Connection], T]) -> T:
        from tmad.signer.calls import TokenError, fault_of

        connection = self._connected()
        with contextlib.nullcontext() if connection.module.may_thread else self._turn:
            try:
                return function(connection)
            except TokenError as error:
                self._examine(connection, error)
                raise fault_of(error) from error

    def _operate(
        self, connection: Connection, handle: KeyHandle, operation: Callable[[Any], T]
    ) -> T:
        from tmad.signer.calls import KeyMissing, fault_of
        from tmad.signer.grip import Grip
        from tmad.signer.hsm_keys import key_for

        cka_id = _cka_id(handle, connection)
        self._recent = handle
        try:
            grip = Grip(connection, connection.private_key(cka_id))
        except KeyMissing as error:
            if cka_id in self._missing:
                raise fault_of(error, retry_after=60) from error
            raise
        self._missing.discard(cka_id)
        try:
            result = operation(key_for(grip, _public_key(handle.public_key_der)))
        except BaseException:
            if grip.trouble is not None:
                self._examine(connection, grip.trouble, handle)
            raise
        finally:
            grip.let_go()
            self._count("signed", grip.signatures)
            self._count("wrong signatures", grip.wrong_signatures)
        if grip.trouble is not None and not self._examine(connection, grip.trouble, handle):
            raise fault_of(grip.trouble)
        return result

    def _connected(self) -> Connection:
        if self._reactor is None and self._state in ("starting", "degraded"):
            self._reopen_here()
        elif self._state == "starting":
            self._opened.wait(self._settings.timeout_seconds)
        connection = self._connection
        if self._state != "ok" or connection is None:
            raise self._unavailable()
        return connection

    def _examine(
        self, connection: Connection, error: TokenError, handle: KeyHandle | None = None
    ) -> bool:
        """Find out whether the token still works after an error; if not, degrade."""
        from tmad.signer.calls import KeyMissing

        self._count("examined")
        self._recent = handle or self._recent
        connection.drop_session()
        # A token that was unplugged and returned is there, but shows no objects.
        if isinstance(error, KeyMissing) or not self._is_well(connection):
            self._tell(self._degrade, str(error), connection.generation)
            return False
        return True

    def _is_well(self, connection: Connection) -> bool:
        from tmad.signer.calls import TokenError

        try:
            connection.probe()
            self._challenge(connection)
        except (TokenError, Fault):
            return False
        return True

    def _challenge(self, connection: Connection) -> None:
        """Sign with the key that was used or in trouble last; TokenError or Fault."""
        from tmad.signer.grip import Grip
        from tmad.signer.hsm_keys import challenge, key_for

        handle = self._recent
        if handle is not None:
            grip = Grip(connection, connection.private_key(_cka_id(handle, connection)))
            challenge(key_for(grip, _public_key(handle.public_key_der)))

    def _reopen(self) -> Connection:
        """Initialise the module, find the token, log in, and try a key."""
        from tmad.signer.calls import KeyMissing, TokenError
        from tmad.signer.module import Module
        from tmad.signer.token import Connection

        module = Module.at(self._settings.module)
        self._connection = None
        if self._has_module:
            self._generation = module.renew(self._generation)
        else:
            self._generation = module.acquire()
            self._has_module = True
        connection = Connection(module, self._settings)
        try:
            self._challenge(connection)
        except KeyMissing:
            # The token is well; it is this key that somebody removed.
            self._missing.add(_cka_id(self._recent, connection))
        except Fault as fault:
            raise TokenError("C_Sign", "failed", fault.private or fault.detail) from fault
        return connection

    def _shut(self) -> None:
        if self._workers.join(self._settings.timeout_seconds) and self._has_module:
            from tmad.signer.module import Module

            self._connection = None
            self._has_module = False
            Module.at(self._settings.module).release()

    # -- in the reactor thread

    async def _run(self, function: Callable[[Connection], T], *, patience: float) -> T:
        if self._reactor is not None and self._state in ("degraded", "failed"):
            self._hurry()
            raise self._unavailable()
        return await self._workers.run(lambda: self._work(function), patience=patience)

    def _hung(self, seconds: float) -> None:
        if self._state == "ok" and self._connection is not None:
            self._count("hung")
            self._degrade(f"a call has not returned for {seconds:.0f} s", None)

    def _degrade(self, reason: str, generation: int | None) -> None:
        """Refuse all work and start healing, unless this is news from before a healing."""
        connection = self._connection
        is_old = connection is not None and generation not in (None, connection.generation)
        if self._state != "ok" or is_old:
            return
        self._state, self._reason = "degraded", reason
        self._count("degraded")
        self._workers.fail_waiting(self._unavailable)
        is_flapping = time.monotonic() - self._healed_at < _FLAPPING
        self._attempts = 1 if is_flapping else 0
        self._heal_in(_PAUSES[0] if is_flapping else 0.0)

    def _heal_in(self, seconds: float) -> None:
        if self._reactor is not None:
            self._timer = self._reactor.callLater(seconds, self._heal)

    def _heal(self) -> None:
        if self._workers.running and self._state == "degraded":
            # PKCS#11 forbids C_Finalize while another call runs: wait for the hung one.
            self._heal_in(0.2)
            return
        self._attempted_at = time.monotonic()
        ensureDeferred(self._attempt()).addErrback(self._give_up)

    async def _attempt(self) -> None:
        self._healed(await self._healer.run(self._reopen))

    def _give_up(self, failure: Any) -> None:
        self._failed_attempt(failure.value)
        if self._state == "degraded":
            self._heal_in(_PAUSES[min(self._attempts, len(_PAUSES)) - 1])

    def _reopen_here(self) -> None:
        try:
            self._healed(self._reopen())
        except Exception as error:
            self._failed_attempt(error)
            raise self._unavailable() from error

    def _healed(self, connection: Connection) -> None:
        if self._reason == "closed":
            return
        self._connection = connection
        self._state = "ok"
        missing = ", ".join(sorted(cka_id.hex() for cka_id in self._missing))
        self._reason = f"the token holds no key with CKA_ID {missing}" if missing else ""
        self._attempts = 0
        self._healed_at = time.monotonic()
        self._count("opened")
        self._opened.set()

    def _failed_attempt(self, error: Exception) -> None:
        from tmad.signer.calls import PinRefused

        if self._reason == "closed":
            return
        self._attempts += 1
        self._reason = error.detail if isinstance(error, Fault) else str(error)
        # One more wrong PIN may lock the token for good: a person must look first.
        self._state = "failed" if isinstance(error, PinRefused) else "degraded"
        self._opened.set()

    def _hurry(self) -> None:
        """Somebody asks: cut a long pause short."""
        if (
            self._state == "degraded"
            and self._timer is not None
            and self._timer.active()
            and time.monotonic() - self._attempted_at > _PATIENT_CALLERS
        ):
            self._timer.reset(0)

    def _unavailable(self) -> Fault:
        return Fault(
            FaultCode.UNAVAILABLE,
            "the HSM cannot be used now",
            private=self._reason,
            retry_after=60 if self._state == "failed" else 5,
            rule=f"signer.{self._state}",
            values={"state": self._state, "reason": self._reason},
        )

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        if self._reactor is None:
            function(*arguments)
        else:
            self._reactor.callFromThread(function, *arguments)

    def _count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counters[name] += by


def _not_started() -> Workers:
    return Workers("the HSM", threads=1, queue=0, reactor=None)


@functools.lru_cache(maxsize=1024)
def _public_key(public_key_der: bytes) -> PublicKey:
    return cast("PublicKey", load_der_public_key(public_key_der))


def _cka_id(handle: KeyHandle | None, connection: Connection) -> bytes:
    """Return the key's CKA_ID; Fault when it lives in another token than this one."""
    assert handle is not None
    material = json.loads(handle.material)
    if material["token_serial"] != connection.serial:
        raise Fault(
            FaultCode.UNAVAILABLE,
            "the HSM cannot be used now",
            private=f"the key is in token {material['token_serial']}, not {connection.serial}",
            retry_after=60,
            rule="signer.other-token",
            values={"key": material["token_serial"], "token": connection.serial},
        )
    return bytes.fromhex(material["cka_id"])
