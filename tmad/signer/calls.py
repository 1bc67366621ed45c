"""PKCS#11 calls that fail: which one, with what return code, and what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pkcs11.exceptions as errors

from tmad.errors import Fault, FaultCode

_PIN_TROUBLE = (
    errors.PinIncorrect,
    errors.PinInvalid,
    errors.PinLenRange,
    errors.PinExpired,
    errors.PinLocked,
    errors.UserPinNotInitialized,
)


class TokenError(Exception):
    """A PKCS#11 call that failed: its name, its return code, and what to do about it."""

    def __init__(self, call: str, code: str, hint: str = "") -> None:
        super().__init__(f"{call}: {code}" + (f" ({hint})" if hint else ""))
        self.call = call
        self.code = code
        self.hint = hint


class PinRefused(TokenError):  # noqa: N818  it names what happened
    """The token did not accept the PIN, or would lock if it were tried once more."""


class KeyMissing(TokenError):  # noqa: N818  it names what happened
    """The token answers, but does not hold this key."""


@contextlib.contextmanager
def calling(call: str) -> Iterator[None]:
    """Turn python-pkcs11's exceptions into TokenError with the name of the call."""
    try:
        yield
    except _PIN_TROUBLE as error:
        raise PinRefused(call, code_of(error), hint(call, error)) from None
    except errors.PKCS11Error as error:
        raise TokenError(call, code_of(error), hint(call, error)) from error


def code_of(error: errors.PKCS11Error) -> str:
    """Return the return code's name in the standard, or what python-pkcs11 knows of it."""
    name = type(error).__name__
    if name == "PKCS11Error":
        return str(error) or "an unknown return code"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return "CKR_" + words.upper()


def fault_of(error: TokenError, *, retry_after: float = 1) -> Fault:
    """Return the Fault that a caller of the keyring sees."""
    return Fault(
        FaultCode.UNAVAILABLE,
        "the HSM cannot be used now",
        private=str(error),
        retry_after=retry_after,
        rule="signer.token",
        values={"call": error.call, "code": error.code},
    )


_HINTS = {
    "C_Initialize": "check the module's own configuration, and that this user may read it",
    "C_OpenSession": "the token has no free session, or is gone",
    "C_GenerateKeyPair": "does the token offer this mechanism, and has it room?",
    "C_SignInit": "was the key made for signing?",
}
_CODE_HINTS: dict[type[errors.PKCS11Error], str] = {
    errors.PinIncorrect: "the PIN in pin_file is wrong; tmad will not try it again",
    errors.PinLocked: "the token is locked; its security officer must set the PIN anew",
    errors.UserPinNotInitialized: "the security officer must set the user PIN first",
    errors.PinExpired: "the PIN has expired; set a new one with the maker's tool",
    errors.TokenNotPresent: "the token is not in its slot, or the HSM cannot be reached",
    errors.DeviceError: "the HSM reports a fault; see its own log",
    errors.DeviceRemoved: "the HSM cannot be reached",
    errors.MechanismInvalid: "the token does not offer this mechanism",
    errors.TokenWriteProtected: "the token is write protected",
}


def hint(call: str, error: errors.PKCS11Error | None = None) -> str:
    """Return what to do about a failed call, by its return code or else by its name."""
    by_code = "" if error is None else _CODE_HINTS.get(type(error), "")
    return by_code or _HINTS.get(call, "")
