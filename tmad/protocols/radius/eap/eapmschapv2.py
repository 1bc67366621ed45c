"""EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2), only ever inside a tunnel."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from tmad.errors import Fault
from tmad.protocols.radius.eap import codec, mschapv2
from tmad.protocols.radius.eap.framing import peer_fault
from tmad.protocols.radius.eap.method import Hooks, Keys, Turn

_SERVER_NAME = b"tmad"


class EAPMSCHAPv2:
    """Challenges the peer, shows it that the server knows the password, too, and lets it in."""

    type = codec.Type.MSCHAPV2
    asks_person = False

    def __init__(
        self, hooks: Hooks, name: str, *, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._hooks = hooks
        self._challenge = random(mschapv2.CHALLENGE_OCTETS)
        self._identifier = random(1)[0]
        self._user = ""
        self._keys = Keys(b"")
        self._ending: Fault | None = None
        self._is_proved = False
        self.name = name

    async def start(self, identity: str) -> bytes:
        """Return the challenge."""
        return codec.mschapv2_challenge(self._identifier, self._challenge, _SERVER_NAME)

    async def respond(self, data: bytes) -> Turn:
        """Take the response, then the word that the peer has read how it went."""
        message = codec.mschapv2(data)
        if self._ending is not None:
            raise self._ending
        if self._is_proved:
            if message is not codec.Op.SUCCESS:
                raise peer_fault("the client does not accept our proof", "mschapv2.refused")
            return Turn(admitted=await self._hooks.admit(self._user, self.name), keys=self._keys)
        if not isinstance(message, codec.MSCHAPv2Response):
            raise peer_fault("there is nothing yet to agree to", "mschapv2.order")
        if message.identifier != self._identifier:
            raise peer_fault("the response answers another challenge", "mschapv2.identifier")
        return await self._check(message)

    def fit(self, size: int) -> None:
        """Do nothing: messages are short."""

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def stage(self) -> str:
        """Return how far it has come."""
        return "password"

    async def _check(self, response: codec.MSCHAPv2Response) -> Turn:
        try:
            proof, self._keys = await check(self._hooks, self.name, self._challenge, response)
        except Fault as fault:
            # RFC 2759, 6: error 691, no retry. The peer answers, and is then let go.
            self._ending = fault
            text = f"E=691 R=0 C={self._challenge.hex().upper()} V=3 M=Login refused"
            return Turn(codec.mschapv2_text(codec.Op.FAILURE, self._identifier, text))
        self._user, self._is_proved = response.name, True
        return Turn(codec.mschapv2_text(codec.Op.SUCCESS, self._identifier, f"{proof} M=OK"))


async def check(
    hooks: Hooks, method: str, challenge: bytes, response: codec.MSCHAPv2Response
) -> tuple[str, Keys]:
    """Return our own proof and the keys; raise the refusal of a wrong response."""
    found = await hooks.nt_hash(response.name, method)
    known = None if found is None else found.reveal()
    given = (challenge, response.peer_challenge, response.nt_response, response.name)
    if not mschapv2.verify(known, *given) or known is None:
        raise await hooks.failed(response.name, method)
    receive, send = mschapv2.keys(known, response.nt_response)
    proof = mschapv2.authenticator_response(known, *given)
    return proof, Keys((receive + send).ljust(64, b"\x00"))
