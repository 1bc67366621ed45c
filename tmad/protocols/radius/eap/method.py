"""What an EAP method is to the conversation around it, and what it may ask the core."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from cryptography import x509

from tmad.errors import Fault
from tmad.events import Secret
from tmad.network.decision import Admitted, TLSLogin

Chain: TypeAlias = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """What both ends know after a login (RFC 5247, 1.2).

    ``session_id`` is empty for a method that has none.
    """

    msk: bytes = field(repr=False)
    emsk: bytes = field(repr=False)
    session_id: bytes


class Prompt(Protocol):
    """A question to the person; whoever asked it gets it back with the answer."""

    @property
    def text(self) -> str:
        """Return what the person is shown."""


class Hooks(Protocol):
    """What the core decides; a Fault ends the login, and is journaled if it has an explain id.

    ``method`` is one of conversation.METHODS.
    """

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


class Turn(NamedTuple):
    """What a method does next: asks again (``data``), or lets in.

    A refusal is a Fault that it raises.
    """

    data: bytes = b""
    admitted: Admitted | None = None
    keys: Keys | None = None


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
