"""Challenges that only the holder of a key can read: popdecc and popdecr (RFC 9810, 5.2.8.3.3).

That is how possession of a key is shown that cannot sign, before anything is issued for it. What
was asked for is kept meanwhile under the very number that the challenge hides: who reads the
database learns neither, and whoever can open it has shown what he had to show.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tmad.ca.exchanges import Challenge
from tmad.ca.requests import KeyWish, Proof
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp import bodies, codec, encrypted
from tmad.protocols.cmp.bodies import Reply
from tmad.protocols.cmp.codec import Body, Message
from tmad.protocols.cmp.conversation import Turn, check_nonce
from tmad.protocols.cmp.requests import Wish
from tmad.storage.exchanges import Exchange
from tmad.wire import der
from tmad.wire.cms import Random
from tmad.wire.signatures import SHA256

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.answers import Answers

_OPEN: Final = frozenset({"challenged", "begun"})
_NUMBER: Final = 16  # octets of the number that a challenge hides
_NONCE: Final = bytes(12)  # each number locks one request


class Challenges:
    """Asks for possession to be shown, and judges what comes back."""

    def __init__(self, services: Services, replies: Answers, random: Random) -> None:
        self._services = services
        self._answers = replies
        self._random = random

    async def make(self, turn: Turn, wish: Wish) -> Challenge | None:
        """Return the challenge for a request; None for one that needs none.

        Fault(BAD_ALGORITHM) or UNSUPPORTED for a key that nothing can be encrypted to.
        """
        if wish.proof is not Proof.DECRYPTION:
            return None
        number = der.integer(int.from_bytes(self._random(_NUMBER)))
        signer = await self._answers.signer(turn.visit)
        content = self._hide(number, signer.name, wish, turn.message.header.version)
        reply = Reply(body=Body.POPDECC, content=content)
        sealed = await self._answers.seal(turn.visit, turn.message.header, reply, turn.sender)
        seconds = turn.visit.options.confirm_seconds
        return Challenge(
            answer=sealed.octets,
            nonce=sealed.nonce,
            request=_lock(number).encrypt(_NONCE, turn.message.der, turn.message.transaction),
            due_at=self._services.now() + timedelta(seconds=seconds),
        )

    def _hide(self, number: bytes, sender: bytes, wish: Wish, version: int) -> bytes:
        assert not isinstance(wish.public_key, KeyWish), "who asks for a key proves nothing"
        rand = der.sequence(number, sender)
        # As Bouncy Castle does, too, the one-way function is taken of the INTEGER's DER.
        one_way, witness = SHA256.algorithm, SHA256.of(number)
        if version >= encrypted.ENVELOPED:
            envelope = encrypted.envelop(
                rand, wish.public_key, number=wish.number, random=self._random
            )
            return bodies.challenge(one_way, witness, envelope=envelope)
        if not isinstance(wish.public_key, rsa.RSAPublicKey):
            raise encrypted.too_old()
        try:
            octets = wish.public_key.encrypt(rand, padding.PKCS1v15())
        except ValueError:
            # Rand holds our name, too; in an envelope there is room for any.
            raise encrypted.too_old() from None
        return bodies.challenge(one_way, witness, encrypted=octets)

    def solve(self, turn: Turn, exchange: Exchange | None) -> tuple[Exchange, Message]:
        """Return the conversation and the request that popdecr gives the answer for.

        Fault(BAD_PROOF) for a wrong answer, and for one that comes too late; that is the last word.
        """
        if exchange is None or exchange.request is None or exchange.state not in _OPEN:
            raise codec.bad_request("no challenge waits for an answer", "cmp.challenge.none")
        numbers = bodies.read_numbers(turn.message.content)
        if len(numbers) != 1:
            raise codec.bad_request("popdecr answers one challenge", "cmp.challenge.several")
        if exchange.state == "challenged":
            check_nonce(turn.message, exchange)
        elif exchange.digest != turn.digest:
            raise codec.bad_request("the challenge was answered before", "cmp.challenge.done")
        try:
            request_der = _lock(der.integer(numbers[0])).decrypt(
                _NONCE, exchange.request, exchange.transaction
            )
        except InvalidTag:
            raise _bad_answer("popdecr holds another number than the challenge") from None
        if exchange.state == "challenged" and self._services.now() >= exchange.due_at:
            raise _bad_answer("popdecr comes too late")
        return exchange, codec.decode(request_der)


def _lock(number: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, None, b"tmad cmp challenge").derive(number))


def _bad_answer(why: str) -> Fault:
    return Fault(
        FaultCode.BAD_PROOF,
        f"possession of the key was not shown: {why}",
        rule="cmp.challenge.answer",
    )
