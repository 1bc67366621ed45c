"""One certificate's state: what was asked for, what came, and what is in place.

::

    NAME/settings.toml      what a person wrote (settings.py)
    NAME/state.json         what the agent remembers
    NAME/pending/           the request that is under way: key.pem, request.der
    NAME/generations/N/     each certificate that came, complete: key.pem, certificate.pem, …
    NAME/before/            what was in the places while an installation is under way
    NAME/account.pem        the ACME account's key

Every step is one rename, so that a process that starts after a power cut finds the step before
or the step after. A generation newer than ``state.current`` is one that still has to be put in
place: that needs no entry of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tmad.agent import files
from tmad.agent.identity import Identity
from tmad.agent.settings import NAME
from tmad.errors import Fault, FaultCode

_KEPT: Final = 3  # generations, the one in place among them
_LONGEST: Final = 65_536  # octets of state.json
Step = Literal["idle", "installing", "restoring"]


class State(BaseModel):
    """What is remembered between two runs; instants are aware."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    current: int = 0  # the generation in place; 0: none
    step: Step = "idle"
    error: str = ""  # what went wrong last; empty: all is well
    rule: str = ""
    failures: int = 0  # in a row
    waits: bool = False  # the server wants a person's decision first
    retry_at: datetime | None = None
    withdrawn: str = ""  # why it is not renewed any more: "revoked"
    window_start: datetime | None = None  # when the server would like to see us
    window_end: datetime | None = None
    ask_at: datetime | None = None  # when to ask it again
    order: str = ""  # ACME: the order under way
    account: str = ""  # ACME: the account's address
    served: str = ""  # "same", "other", "unreachable"; empty: not looked
    reported: str = ""  # digest of the last report that arrived
    reported_at: datetime | None = None


class Store:
    """What one certificate has on the disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that changes anything here; Fault(CONFLICT) when another is."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, files.PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise Fault(
                FaultCode.CONFLICT, f"another agent is at {self.name}", rule="agent.busy"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    # -- state

    def load(self) -> State:
        """Return what is remembered; a fresh state where there is none."""
        try:
            with (self.directory / "state.json").open("rb") as file:
                text = file.read(_LONGEST + 1)
        except FileNotFoundError:
            return State()
        return decode_state(text, self.directory)

    def save(self, state: State) -> None:
        """Remember it; durable when this returns."""
        text = state.model_dump_json(indent=1, exclude_defaults=False)
        files.write(self.directory / "state.json", text.encode())

    # -- the request under way

    @property
    def pending(self) -> Path:
        """The directory of the request under way."""
        return self.directory / "pending"

    def begin(self, key_pem: bytes, request_der: bytes, wish: str) -> None:
        """Keep a key and the request for it before anybody hears of them.

        ``wish`` is what it was made from.
        """
        files.write_directory(
            self.pending,
            {"key.pem": key_pem, "request.der": request_der, "wish.json": wish.encode()},
        )

    def request(self, wish: str) -> tuple[bytes, bytes] | None:
        """Return key (PEM) and request (DER) under way, if they are for this wish."""
        try:
            if (self.pending / "wish.json").read_text() != wish:
                return None
            key_pem = (self.pending / "key.pem").read_bytes()
            return key_pem, (self.pending / "request.der").read_bytes()
        except FileNotFoundError:
            return None

    def drop_request(self) -> None:
        """Forget the request under way, its key with it."""
        files.remove_directory(self.pending)

    # -- generations

    @property
    def generations(self) -> Path:
        """The directory of all generations."""
        return self.directory / "generations"

    def numbers(self) -> list[int]:
        """Return the numbers of the complete generations, in order."""
        if not self.generations.is_dir():
            return []
        return sorted(
            int(found.name) for found in self.generations.iterdir() if found.name.isdigit()
        )

    def candidate(self, state: State) -> int:
        """Return the generation that still has to be put in place; 0: none."""
        newest = max(self.numbers(), default=0)
        return newest if newest > state.current else 0

    def generation(self, number: int) -> Path:
        """Return a generation's directory."""
        return self.generations / str(number)

    def add(self, identity: Identity) -> int:
        """Keep what came from the server; return its number."""
        self.generations.mkdir(mode=0o700, exist_ok=True)
        number = max(self.numbers(), default=0) + 1
        files.write_directory(self.generation(number), identity.contents())
        return number

    def identity(self, number: int) -> Identity:
        """Read a generation; Fault(INTERNAL) when somebody has spoiled it."""
        directory = self.generation(number)
        try:
            return Identity.load(
                (directory / "key.pem").read_bytes(), (directory / "fullchain.pem").read_bytes()
            )
        except (OSError, Fault) as error:
            raise Fault(
                FaultCode.INTERNAL,
                f"{directory} cannot be read: {error}; restore it, or begin anew with "
                "tmad agent remove",
                rule="agent.store",
            ) from None

    def remove(self, number: int) -> None:
        """Remove a generation that was never in place."""
        files.remove_directory(self.generation(number))

    def prune(self, state: State) -> None:
        """Remove generations that nobody will ask for again."""
        for number in [n for n in self.numbers() if n < state.current][: -(_KEPT - 1)]:
            files.remove_directory(self.generation(number))
        for found in self.generations.glob(".*.tmad-old"):  # of a process that was ended here
            shutil.rmtree(found, ignore_errors=True)


def decode_state(text: bytes, where: object = "") -> State:
    """Read state.json; Fault(MALFORMED)."""
    try:
        if len(text) > _LONGEST:
            raise ValueError("too long")
        state = State.model_validate_json(text)
        for instant in (state.retry_at, state.window_start, state.window_end, state.ask_at):
            if instant is not None and instant.tzinfo is None:
                raise ValueError("an instant without a time zone")
    except (ValidationError, ValueError) as error:
        raise Fault(
            FaultCode.MALFORMED,
            f"{where}/state.json cannot be read; restore it, or begin anew with tmad agent remove",
            private=str(error)[:200],
            rule="agent.state",
        ) from None
    return state


def open_all(directory: Path) -> list[Store]:
    """Return the certificates of an agent by name."""
    if not directory.is_dir():
        return []
    return [
        Store(found)
        for found in sorted(directory.iterdir())
        if NAME.fullmatch(found.name) and (found / "settings.toml").exists()
    ]


def open_one(directory: Path, name: str) -> Store:
    """Return one certificate of an agent; Fault(NOT_FOUND)."""
    if not NAME.fullmatch(name) or not (directory / name / "settings.toml").exists():
        raise Fault(
            FaultCode.NOT_FOUND,
            f"there is no certificate {name!r} in {directory}; tmad agent status shows all",
            rule="agent.absent",
        )
    return Store(directory / name)


def create(directory: Path, name: str) -> Store:
    """Make room for a certificate; Fault(CONFLICT) when the name is taken.

    One that never came may be told anew how to come.
    """
    if not NAME.fullmatch(name):
        raise Fault(
            FaultCode.REJECTED,
            f"{name!r} is no name: lower-case letters, digits, . _ and -, 63 at most",
            rule="agent.name",
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory / name
    if (found / "settings.toml").exists() and Store(found).numbers():
        raise Fault(
            FaultCode.CONFLICT,
            f"there is a certificate {name!r} already; tmad agent remove {name} forgets it",
            rule="agent.exists",
        )
    found.mkdir(mode=0o700, exist_ok=True)
    return Store(found)
