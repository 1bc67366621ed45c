"""EAP-GTC: a prompt and what somebody types (RFC 3748, 5.6)."""

from __future__ import annotations

from tmad.events import Secret
from tmad.network.logins import Admitted
from tmad.protocols.radius.eap import codec
from tmad.protocols.radius.eap.framing import peer_fault
from tmad.protocols.radius.eap.method import Hooks, Prompt, Turn

_PROMPT = "Password: "
_LONGEST_ANSWER = 256  # octets
_LONGEST_PROMPT = 240


class GTC:
    """Asks for the password, then for whatever else the core wants to know."""

    type = codec.Type.GTC
    asks_person = True

    def __init__(self, hooks: Hooks, name: str) -> None:
        self._hooks = hooks
        self._name = ""
        self._prompt: Prompt | None = None
        self.name = name

    async def start(self, identity: str) -> bytes:
        """Ask for the password of ``identity``."""
        self._name = identity
        return _PROMPT.encode()

    async def respond(self, data: bytes) -> Turn:
        """Take an answer."""
        if len(data) > _LONGEST_ANSWER:
            raise peer_fault(f"an answer has at most {_LONGEST_ANSWER} octets", "gtc.length")
        codec.text(data, "answer")
        typed = Secret(data)
        found: Admitted | Prompt
        if self._prompt is None:
            found = await self._hooks.password(self._name, typed, self.name)
        else:
            found = await self._hooks.answer(self._prompt, typed, self.name)
        if isinstance(found, Admitted):
            return Turn(admitted=found)
        self._prompt = found
        return Turn(found.text.encode()[:_LONGEST_PROMPT])

    def fit(self, size: int) -> None:
        """Do nothing: prompts are short."""

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def stage(self) -> str:
        """Return how far it has come."""
        return "password" if self._prompt is None else "second factor"
