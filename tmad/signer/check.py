"""What ``tmad hsm check`` does: every PKCS#11 call on the way to a signature, one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tmad.errors import Fault, FaultCode
from tmad.signer import objects
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.calls import TokenError, calling
from tmad.signer.module import Module
from tmad.signer.token import Connection, TokenSettings, find_token

T = TypeVar("T")

_SECONDS = 10.0
_SLOW_SECONDS = 120.0
_PROBES = (KeyAlgorithm.P256, KeyAlgorithm.RSA_2048, KeyAlgorithm.ED25519)
_PROBE_LABEL = "tmad check, may be destroyed"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report; ``state`` is "ok", "failed" or "absent"."""

    state: str
    call: str
    result: str
    hint: str = ""


class _Failed(Exception):  # noqa: N818  ends the check, after its step was reported
    def __init__(self, step: Step, *, is_hung: bool = False) -> None:
        super().__init__(step.result)
        self.step = step
        self.is_hung = is_hung


def check(settings: TokenSettings) -> Iterator[Step]:
    """Yield each step as it is done; the first failed one is the last.

    It logs in even if a wrong PIN was presented before: a person asked for it, and a good
    login is what lets the daemon log in again. It leaves nothing in the token.
    """
    module = Module.at(settings.module)
    try:
        _run(module.acquire, "C_Initialize")
        yield Step("ok", "dlopen", str(settings.module))
        yield Step("ok", "C_Initialize", _locking(module))
        try:
            yield from _token_steps(module, settings)
        except _Failed as failed:
            # C_Finalize while another call hangs would hang, too.
            if not failed.is_hung:
                _run(module.release, "C_Finalize")
            raise
        _run(module.release, "C_Finalize")
        yield Step("ok", "C_Finalize", "CKR_OK")
    except _Failed as failed:
        yield failed.step


def _token_steps(module: Module, settings: TokenSettings) -> Iterator[Step]:
    token = _run(lambda: find_token(module, settings), "C_GetSlotList")
    yield Step("ok", "C_GetSlotList", f"token {token.label!r} found")
    yield Step(
        "ok",
        "C_GetTokenInfo",
        f"{token.manufacturer_id} {token.model}, serial {token.serial.decode()}".strip(),
    )
    connection = _run(lambda: Connection(module, settings, cautious=False), "C_Login")
    yield Step("ok", "C_Login", "CKR_OK")
    for algorithm in KeyAlgorithm:
        lacking = objects.missing(algorithm, connection.mechanisms)
        yield Step(
            "absent" if lacking else "ok",
            "C_GetMechanismList",
            f"{algorithm}: {' and '.join(lacking)} not offered" if lacking else str(algorithm),
            "keep such keys in the software store" if lacking else "",
        )
    probes = [a for a in _PROBES if not objects.missing(a, connection.mechanisms)]
    for algorithm in probes:
        _, cka_id = _run(
            partial(objects.generate, connection, algorithm, _PROBE_LABEL),
            "C_GenerateKeyPair",
            _SLOW_SECONDS,
        )
        yield Step("ok", "C_GenerateKeyPair", f"{algorithm}, sensitive and not extractable")
        yield Step("ok", "C_Sign", f"{algorithm}, verified with the public key")
        _run(partial(objects.destroy, connection, cka_id), "C_DestroyObject")
        yield Step("ok", "C_DestroyObject", f"{algorithm}, the test key is gone")
    if not probes:
        yield Step("failed", "C_GenerateKeyPair", "no algorithm of tmad is offered")


def find(settings: TokenSettings) -> list[objects.TokenObject]:
    """Return the private keys in the token; Fault when it cannot be asked."""
    module = Module.at(settings.module)

    def search() -> list[objects.TokenObject]:
        module.acquire()
        try:
            return objects.find(Connection(module, settings))
        finally:
            module.release()

    try:
        return _run(search, "C_FindObjects", _SLOW_SECONDS)
    except _Failed as failed:
        step = failed.step
        raise Fault(
            FaultCode.UNAVAILABLE,
            f"{step.call}: {step.result}" + (f"; {step.hint}" if step.hint else ""),
            rule="signer.token",
        ) from failed


def _locking(module: Module) -> str:
    if not module.may_thread:
        return "CKR_CANT_LOCK: the module serves one thread at a time"
    return "CKF_OS_LOCKING_OK" if module.locks_by_flag else "the module locks by itself (p11-kit)"


def _run(function: Callable[[], T], call: str, seconds: float = _SECONDS) -> T:
    """Run a step in a thread of its own, because a hung module never returns."""
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with calling(call):
                results.append(function())
        except BaseException as error:  # it belongs to the caller, who waits
            failures.append(error)

    thread = threading.Thread(target=work, name="hsm check", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not failures:
        hint = "the token hangs; is the HSM reachable?"
        raise _Failed(Step("failed", call, f"no answer in {seconds:.0f} s", hint), is_hung=True)
    [error] = failures
    if isinstance(error, TokenError):
        raise _Failed(Step("failed", error.call, error.code, error.hint))
    if isinstance(error, Fault):
        raise _Failed(Step("failed", call, error.detail, error.private))
    raise error
