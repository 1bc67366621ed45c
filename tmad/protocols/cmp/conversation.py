"""One message of a conversation, and the conversation that it belongs to (RFC 9483, 3.5).

Copies of a message get the answer that was given before; what goes on with a conversation must
follow our last message and come from whoever began it.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tmad.ca import endpoint
from tmad.errors import Fault, FaultCode
from tmad.protocols.cmp import bodies, codec
from tmad.protocols.cmp.codec import Body, Message
from tmad.protocols.cmp.sender import Sender, check_same
from tmad.storage.exchanges import Exchange

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.visit import Visit

OPENINGS: Final = frozenset({Body.IR, Body.CR, Body.P10CR, Body.KUR})


@dataclass(slots=True)
class Turn:
    """One message of a conversation, and who sent it."""

    visit: Visit
    message: Message
    sender: Sender
    digest: bytes = field(init=False)  # tells a copy of a message from another one

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.message.der).digest()


async def earlier(services: Services, turn: Turn) -> tuple[Exchange | None, bytes | None]:
    """Return the conversation of a message's transaction, and the answer if it is a copy.

    Fault(CONFLICT) for another message under a transactionID that was used before, where
    the body is one that begins a conversation.
    """
    found = await services.exchanges.find(turn.visit.door, turn.message.transaction)
    if found is None:
        return None, None
    is_copy = found.digest == turn.digest
    if turn.message.body in OPENINGS or turn.message.body == Body.RR:
        if not is_copy or found.holder != turn.sender.identity:
            raise in_use(turn)
        if found.answer is None and found.state != "begun":
            raise in_use(turn)
        return found, found.answer
    check_same(found.holder, turn.sender)
    return found, found.answer if is_copy else None


def check_nonce(message: Message, exchange: Exchange) -> None:
    """Check that a message follows our last one (RFC 9483, 3.5)."""
    repeated = message.header.recipient_nonce
    if repeated is None or not hmac.compare_digest(repeated, exchange.nonce):
        raise codec.bad_request(
            "recipNonce must repeat the senderNonce of the last answer", "cmp.nonce.recipient"
        )


def is_about(numbers: tuple[int, ...], exchange: Exchange, *, strict: bool) -> bool:
    """Tell whether certReqIds are the one of a conversation."""
    if numbers == (exchange.number,):
        return True
    # Some clients say 0 about what a PKCS#10 asked for (RFC 9483, erratum 8806).
    return not strict and exchange.number == bodies.P10_ID and numbers == (0,)


def in_use(turn: Turn) -> Fault:
    """Return the Fault for a transactionID that was used before (RFC 9483, 3.5)."""
    return Fault(
        FaultCode.CONFLICT,
        "this transactionID is in use",
        rule="cmp.transaction.in-use",
        values={"transaction": turn.message.transaction.hex()},
    )


async def journal_refusal(services: Services, visit: Visit, message: Message, fault: Fault) -> None:
    """Write down a refusal, and of which message."""
    await endpoint.journal_refusal(
        services.journal,
        visit.endpoint,
        fault,
        peer=visit.peer,
        body=message.body,
        transaction=message.transaction.hex()[:128],
    )
