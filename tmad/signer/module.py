"""A PKCS#11 library in this process, initialised so that threads may use it (v2.40, 5.4).

python-pkcs11 initialises a module without CKF_OS_LOCKING_OK and nevertheless releases the GIL
around calls, which lets two threads crash the module; therefore it is finalised and
initialised again with the flag before the first use. Every call here may block.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from pathlib import Path
from typing import Any

import pkcs11
import pkcs11.exceptions as errors

from tmad.signer.calls import TokenError, calling, code_of, hint

_CKR_OK = 0x00
_CKR_CANT_LOCK = 0x0A
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
_CKF_OS_LOCKING_OK = 0x02


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
    def locks_by_flag(self) -> bool:
        """False for p11-kit, whose modules lock without being told."""
        return self._functions is not None

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
            raise TokenError("C_Initialize", code_of(error), hint("C_Initialize")) from error
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
            raise TokenError("C_Initialize", f"CKR 0x{result:x}", hint("C_Initialize"))

    def _finalise(self) -> None:
        self._is_ready = False
        if self._functions is None:
            # A dead peer answers with an error; the library is finalised all the same.
            with contextlib.suppress(errors.PKCS11Error):
                self._library.finalize()
            return
        # Whatever it answers, C_Initialize comes next and says whether the library is well.
        self._functions.C_Finalize(None)


def _function_list(handle: ctypes.CDLL) -> int:
    pointer = ctypes.c_void_p()
    if handle.C_GetFunctionList(ctypes.byref(pointer)) != _CKR_OK:
        return 0
    return pointer.value or 0
