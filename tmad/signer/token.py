"""A logged-in connection to one token of a PKCS#11 module; every call here may block.

PKCS#11 v2.40 and v3.0 (OASIS). Only worker threads come here.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import pkcs11.exceptions as errors
from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]  # not in its stub

from tmad.signer.calls import KeyMissing, PinRefused, TokenError, calling, code_of
from tmad.signer.module import Module
from tmad.signer.seal import read_private

_KEYS_REMEMBERED = 1024
_PIN_ADVICE = "a wrong PIN was presented before; correct pin_file, then run: tmad hsm check"


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
        for flag, is_decisive, advice in (
            (TokenFlag.USER_PIN_LOCKED, True, "its security officer must set the PIN anew"),
            (TokenFlag.USER_PIN_FINAL_TRY, True, "one more wrong PIN locks it: log in by hand"),
            # Several workers with the same wrong PIN would lock the token between them.
            (TokenFlag.USER_PIN_COUNT_LOW, cautious, _PIN_ADVICE),
        ):
            if flags & flag and is_decisive:
                raise PinRefused("C_GetTokenInfo", f"CKF_{flag.name}", advice)
        with calling("C_Login"):
            try:
                return self.token.open(rw=True, user_pin=self._pin())
            except errors.UserAlreadyLoggedIn:
                # Another user of the module in this process; the login is for all of them.
                return self.token.open(rw=True)

    def _pin(self) -> str:
        # Never in a local variable of a frame that a traceback may show.
        return read_private(self._settings.pin_file).rstrip(b"\r\n").decode()


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
            raise TokenError("C_GetTokenInfo", code_of(error), "") from error
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
