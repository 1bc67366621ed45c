"""A PKCS#11 module and a connection to one of its tokens; every call here may block.

PKCS#11 v2.40 and v3.0 (OASIS). Only worker threads come here. python-pkcs11 initialises a
module without CKF_OS_LOCKING_OK and nevertheless releases the GIL around calls, which lets
two threads crash the module; therefore the module is finalised and initialised again with
the flag before the first use.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pkcs11
import pkcs11.exceptions as errors
from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]  # not in its stub

from tmad.errors import Fault, FaultCode
from tmad.signer.seal import read_private

_CKR_OK = 0x00
_CKR_CANT_LOCK = 0x0A
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
_CKF_OS_LOCKING_OK = 0x02

_KEYS_REMEMBERED = 1024

_PIN_TROUBLE = (
    errors.PinIncorrect,
    errors.PinInvalid,
    errors.PinLenRange,
    errors.PinExpired,
    errors.PinLocked,
    errors.UserPinNotInitialized,
)


class TokenSettings(Protocol):
    """The section [keyring.pkcs11] of tmad.toml."""

    @property
    def module(self) -> Path: ...

    @property
    def token_label(self) -> str | None: ...

    @property
    def token_serial(self) -> str | None: ...

    @property
    def pin_file(self) -> Path: ...

    @property
    def threads(self) -> int: ...

    @property
    def timeout_seconds(self) -> float: ...

    @property
    def queue(self) -> int: ...


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


class _InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (
        ("CreateMutex", ctypes.c_void_p),
        ("DestroyMutex", ctypes.c_void_p),
        ("LockMutex", ctypes.c_void_p),
        ("UnlockMutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("pReserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The head of CK_FUNCTION_LIST."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("C_Initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("C_Finalize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


class Module:
    """A PKCS#11 library in this process: one instance a path, shared by all who use it.

    ``generation`` rises whenever the library is initialised again: every session and object
    handle of an earlier generation is void, and a module may give their numbers to others.
    """

    _instances: dict[str, Module] = {}  # noqa: RUF012  guarded by _registry
    _registry = threading.Lock()

    def __init__(self, path: str) -> None:
        self.path = path
        self.generation = 0
        self.may_thread = True
        self._lock = threading.RLock()
        self._users = 0
        self._is_ready = False
        self._library: Any = None
        self._functions: _FunctionList | None = None

    @classmethod
    def at(cls, path: Path) -> Module:
        """Return the instance for a path; nothing is loaded yet."""
        with cls._registry:
            return cls._instances.setdefault(str(path), cls(str(path)))

    def acquire(self) -> int:
        """Load and initialise the library if need be; return the generation."""
        with self._lock:
            self._load()
            if not self._is_ready:
                self._initialise()
            self._users += 1
            return self.generation

    def release(self) -> None:
        """Finalise the library when nobody uses it any more."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self.generation += 1
                self._finalise()

    def renew(self, generation: int) -> int:
        """Initialise again, unless somebody else did since ``generation``."""
        with self._lock:
            if generation == self.generation or not self._is_ready:
                self._finalise()
                self._initialise()
            return self.generation

    @property
    def library(self) -> Any:
        """The loaded pkcs11.lib."""
        return self._library

    def _load(self) -> None:
        if self._library is not None:
            return
        try:
            self._library = pkcs11.lib(self.path)
        except errors.PKCS11Error as error:
            if "loading" in str(error):
                raise TokenError(
                    "dlopen", "failed", f"{error}; is module the library's full path?"
                ) from error
            raise TokenError("C_Initialize", code_of(error), _hint("C_Initialize")) from error
        # Its destructor calls C_Finalize with the GIL held: on a hung token the process could
        # not end. So it has none.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._library))
        handle = ctypes.CDLL(self.path)
        first, second = (_function_list(handle) for _ in range(2))
        if first and first == second:
            self._functions = _FunctionList.from_address(first)
            self._finalise()

    def _initialise(self) -> None:
        """C_Initialize with CKF_OS_LOCKING_OK (PKCS#11 v2.40, 5.4)."""
        self.generation += 1
        self._call_initialize()
        self._is_ready = True

    def _call_initialize(self) -> None:
        if self._functions is None:
            # p11-kit gives every caller a function list of its own, so only python-pkcs11 can
            # initialise the one it uses. p11-kit always locks, whatever the arguments say.
            with calling("C_Initialize"):
                self._library.initialize()
            return
        arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK)
        result = self._functions.C_Initialize(ctypes.addressof(arguments))
        if result == _CKR_CANT_LOCK:
            self.may_thread = False
            result = self._functions.C_Initialize(None)
        if result not in (_CKR_OK, _CKR_CRYPTOKI_ALREADY_INITIALIZED):
            raise TokenError("C_Initialize", f"CKR 0x{result:x}", _hint("C_Initialize"))

    def _finalise(self) -> None:
        self._is_ready = False
        if self._functions is None:
            # A dead peer answers with an error; the library is finalised all the same.
            with contextlib.suppress(errors.PKCS11Error):
                self._library.finalize()
            return
        # Whatever it answers, C_Initialize comes next and says whether the library is well.
        self._functions.C_Finalize(None)


class Connection:
    """A logged-in connection to a token, valid for one generation of the module.

    Sessions belong to the thread that opened them: PKCS#11 allows one operation a session.
    """

    def __init__(self, module: Module, settings: TokenSettings, *, cautious: bool = True) -> None:
        self.module = module
        self.generation = module.generation
        self._settings = settings
        self._local = threading.local()
        self.token = find_token(module, settings)
        self.serial = self.token.serial.decode("ascii", "replace").strip()
        with calling("C_GetMechanismList"):
            self.mechanisms = frozenset(int(m) for m in self.token.slot.get_mechanisms())
        self._first = self._log_in(cautious)

    def session(self) -> Any:
        """Return the calling thread's session."""
        session = getattr(self._local, "session", None)
        if session is None:
            with calling("C_OpenSession"):
                # The login holds for all sessions of the process.
                session = self._local.session = self.token.open(rw=True)
            self._local.keys = OrderedDict()
        return session

    def drop_session(self) -> None:
        """Forget the calling thread's session and keys after an error."""
        session = getattr(self._local, "session", None)
        if session is not None:
            self._local.session = None
            with contextlib.suppress(errors.PKCS11Error):
                session.close()

    def private_key(self, cka_id: bytes) -> Any:
        """Return the thread's object for a private key; KeyMissing."""
        session = self.session()
        keys = self._local.keys
        found = keys.get(cka_id)
        if found is None:
            objects = self.objects(
                {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: cka_id}, session
            )
            if len(objects) != 1:
                code = "no such key" if not objects else "several keys with this CKA_ID"
                raise KeyMissing("C_FindObjects", code, f"CKA_ID {cka_id.hex()}")
            found = keys[cka_id] = objects[0]
            if len(keys) > _KEYS_REMEMBERED:
                keys.popitem(last=False)
        return found

    def objects(self, template: dict[Any, Any], session: Any = None) -> list[Any]:
        """Search; the whole result at once, because a half-read search blocks the session."""
        search = SearchIter(session or self.session(), template, 100)
        with calling("C_FindObjects"):
            try:
                with search:
                    return [found for batch in search for found in batch]
            except errors.PKCS11Error:
                # python-pkcs11 leaves a search that could not begin open; when the object is
                # collected it would end whatever search has the session's number by then.
                with contextlib.suppress(errors.PKCS11Error):
                    search.__exit__(None, None, None)
                raise

    def probe(self) -> None:
        """Ask the token for a sign of life; TokenError."""
        with calling("C_GetTokenInfo"):
            self.token.slot.get_token()

    def _log_in(self, cautious: bool) -> Any:
        flags = self.token.flags
        if flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY) or (
            cautious and flags & TokenFlag.USER_PIN_COUNT_LOW
        ):
            # Several workers with the same wrong PIN would lock the token between them.
            raise PinRefused(
                "C_GetTokenInfo",
                "CKF_USER_PIN_LOCKED"
                if flags & TokenFlag.USER_PIN_LOCKED
                else "CKF_USER_PIN_FINAL_TRY"
                if flags & TokenFlag.USER_PIN_FINAL_TRY
                else "CKF_USER_PIN_COUNT_LOW",
                "a wrong PIN was presented before; correct pin_file, then run: tmad hsm check",
            )
        pin = read_private(self._settings.pin_file).rstrip(b"\r\n").decode()
        with calling("C_Login"):
            try:
                return self.token.open(rw=True, user_pin=pin)
            except errors.UserAlreadyLoggedIn:
                # Another user of the module in this process; the login is for all of them.
                return self.token.open(rw=True)


def find_token(module: Module, settings: TokenSettings) -> Any:
    """Return the one token that label and serial name; TokenError with what is there."""
    with calling("C_GetSlotList"):
        slots = module.library.get_slots(token_present=True)
    tokens = []
    for slot in slots:
        try:
            tokens.append(slot.get_token())
        except (errors.TokenNotPresent, errors.TokenNotRecognised):
            continue
        except errors.PKCS11Error as error:
            raise TokenError("C_GetTokenInfo", code_of(error), _hint("")) from error
    wanted = [
        token
        for token in tokens
        if settings.token_label in (None, token.label)
        and settings.token_serial in (None, token.serial.decode("ascii", "replace").strip())
    ]
    if len(wanted) == 1:
        return wanted[0]
    seen = ", ".join(f"{token.label!r} ({token.serial.decode()})" for token in tokens) or "none"
    code = "CKR_TOKEN_NOT_PRESENT" if not wanted else "several tokens match"
    raise TokenError(
        "C_GetSlotList", code, f"tokens here: {seen}; see token_label and token_serial"
    )


@contextlib.contextmanager
def calling(call: str) -> Iterator[None]:
    """Turn python-pkcs11's exceptions into TokenError with the name of the call."""
    try:
        yield
    except _PIN_TROUBLE as error:
        raise PinRefused(call, code_of(error), _hint(call, error)) from None
    except errors.PKCS11Error as error:
        raise TokenError(call, code_of(error), _hint(call, error)) from error


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


def _hint(call: str, error: errors.PKCS11Error | None = None) -> str:
    return (
        _CODE_HINTS.get(type(error), "")
        if error and type(error) in _CODE_HINTS
        else (_HINTS.get(call, ""))
    )


def _function_list(handle: ctypes.CDLL) -> int:
    pointer = ctypes.c_void_p()
    if handle.C_GetFunctionList(ctypes.byref(pointer)) != _CKR_OK:
        return 0
    return pointer.value or 0
