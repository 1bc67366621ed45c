"""TLS sessions that another worker of this node holds: logins that resume them go on there.

OpenSSL keeps a session in the memory of the process that made it, and pyOpenSSL has no way to
carry it to another one. So the login is carried: whoever is greeted with a session that it does
not hold asks the others, and the one that does begins its own conversation from there on. Its
State leads the packets that follow to it.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.network.client import Client
from tmad.network.visit import Visit
from tmad.plugin import Relay
from tmad.protocols.radius.conversations import STATE_OCTETS
from tmad.protocols.radius.eap.method import Greeting, HandedOver

# The first octet of such a question; those about a packet begin with 0 or 1 (server.py).
GREETING: Final = 2
_HEAD_END: Final = 3  # and two octets that say how long the description is
_LONGEST: Final = 8_000  # what a relay carries
# Beside a login that makes a new session, in vain: nobody may wait long for it.
_PATIENCE: Final = 0.5  # seconds


class Question(NamedTuple):
    """Who greeted whom, and how."""

    tenant: str
    client: str
    visit: Visit
    greeting: Greeting


class Workers:
    """The other workers; without a ``relay`` there are none."""

    def __init__(self) -> None:
        self.relay: Relay | None = None

    async def hand_over(
        self, client: Client, visit: Visit, greeting: Greeting
    ) -> HandedOver | None:
        """Ask each other worker to go on; return what the one says that does."""
        relay = self.relay
        question = encode(Question(client.tenant, client.name, visit, greeting))
        if relay is None or len(question) > _LONGEST:
            return None
        for worker in range(relay.count):
            if worker == relay.index:
                continue
            try:
                answer = await relay.ask(worker, question, patience=_PATIENCE)
            except Fault:
                continue  # it is being started anew, and holds nothing
            if len(answer) > STATE_OCTETS:
                return HandedOver(answer[:STATE_OCTETS], answer[STATE_OCTETS:])
        return None


def encode(question: Question) -> bytes:
    """Return a question as it travels."""
    greeting = question.greeting
    about = json.dumps(
        [
            question.tenant,
            question.client,
            dataclasses.asdict(question.visit),
            greeting.identity,
            [each.hex() for each in greeting.sessions],
            greeting.size,
        ]
    ).encode()
    return bytes((GREETING,)) + len(about).to_bytes(2, "big") + about + greeting.message


def decode(octets: bytes) -> Question:
    """Return what was asked; raise Fault(MALFORMED)."""
    end = _HEAD_END + int.from_bytes(octets[1:_HEAD_END], "big")
    try:
        tenant, client, visit, identity, sessions, size = json.loads(octets[_HEAD_END:end])
        visit["tags"] = tuple(visit["tags"])
        ids = tuple([bytes.fromhex(each) for each in sessions])
        greeting = Greeting(identity, octets[end:], ids, int(size))
        return Question(tenant, client, Visit(**visit), greeting)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Fault(FaultCode.MALFORMED, "not a question", rule="radius.malformed.relay") from None
