"""What an EAP method is to the conversation around it, and what it may ask the core."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple, Protocol, TypeAlias

from cryptography import x509

from tmad.errors import Fault
from tmad.events import Secret
from tmad.network.logins import Admitted, TLSLogin

Chain: TypeAlias = tuple[x509.Certificate, ...]


class Keys(NamedTuple):
    """What both ends know after a login (RFC 5247, 1.2).

    ``session_id`` is empty for a method that has none, and where nobody asks for it.
    """

    msk: bytes
    session_id: bytes = b""

    def __repr__(self) -> str:
        return f"Keys(octets={len(self.msk)})"


class Greeting(NamedTuple):
    """The first message of a client that offers to resume a TLS session, and what went before.

    ``sessions`` are the ids of what it offers, ``size`` is what one EAP packet may have.
    """

    identity: str
    message: bytes
    sessions: tuple[bytes, ...]
    size: int


class HandedOver(NamedTuple):
    """What the worker says that goes on: its State, and the data of the next request."""

    state: bytes
    data: bytes


class Prompt(Protocol):
    """A question to the person; whoever asked it gets it back with the answer."""

    @property
    def text(self) -> str:
        """Return what the person is shown."""


class Hooks(Protocol):
    """What the core decides; a Fault ends the login, and is journaled if it has an explain id.

    ``method`` is one of conversation.METHODS. ``wants_session_id`` tells whether the client asks
    for the Session-Id.
    """

    wants_session_id: bool

    def certificate(self, chain: Chain, login: TLSLogin) -> Awaitable[Admitted]:
        """Let in whoever showed this certificate; ``chain`` is it first, the anchor last."""

    async def password(self, name: str, password: Secret, method: str) -> Admitted | Prompt:
        """Let in whoever knows this password, or ask for more."""

    async def answer(self, prompt: Prompt, code: Secret, method: str) -> Admitted | Prompt:
        """Let in whoever answered this, or ask for more."""

    async def nt_hash(self, name: str, method: str) -> Secret | None:
        """Return the hash for MSCHAPv2; None for whoever has none or does not exist."""

    async def failed(self, name: str, method: str) -> Fault:
        """Count a wrong MSCHAPv2 response; return the refusal."""

    async def admit(self, name: str, method: str) -> Admitted:
        """Let in whoever has proved by MSCHAPv2 to know the password."""

    async def confirm(self, admitted: Admitted) -> None:
        """Raise the Fault against a login that was let in some messages ago, if there is one."""

    async def hand_over(self, greeting: Greeting) -> HandedOver | None:
        """Let another worker go on that holds a session of the greeting; None: there is none."""


class Turn(NamedTuple):
    """What a method does next: asks again (``data``), or lets in.

    A refusal is a Fault that it raises. ``state`` is that of another worker which goes on.
    """

    data: bytes = b""
    admitted: Admitted | None = None
    keys: Keys | None = None
    state: bytes = b""


class Method(Protocol):
    """One EAP method, at the server."""

    @property
    def type(self) -> int:
        """Return its EAP type."""

    @property
    def name(self) -> str:
        """Return what policies call it; more exact once the inner method is known."""

    @property
    def asks_person(self) -> bool:
        """Return whether what was asked last is answered by a person, and takes time."""

    async def start(self, identity: str) -> bytes:
        """Return the data of the first request."""

    async def respond(self, data: bytes) -> Turn:
        """Take the data of a response."""

    def fit(self, size: int) -> None:
        """Send no EAP packet longer than this."""

    def stage(self) -> str:
        """Return how far it has come, for whoever wonders why a client went silent."""

    def close(self) -> None:
        """Let go of everything; called once, when the login has ended."""
