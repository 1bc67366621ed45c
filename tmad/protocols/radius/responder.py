"""Access-Request to Access-Accept, -Reject or -Challenge: the conversation with the core.

RFC 2865, 2; RFC 3579, 2; RFC 3580. What comes here is authentic already, or its client is
allowed not to sign.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.login import Accepted, Logins, Prompt
from tmad.network import attributes as dictionary
from tmad.network import policy
from tmad.network.client import PLAIN, Client
from tmad.network.decision import Admission
from tmad.network.logins import Admitted
from tmad.network.visit import Visit, ssid_of, station
from tmad.network.wish import Wish
from tmad.protocols.radius import codec, mab
from tmad.protocols.radius.codec import Attribute, Code, Packet
from tmad.protocols.radius.conversations import Conversations, Held
from tmad.protocols.radius.eap.conversation import Conversation
from tmad.protocols.radius.eap.method import Greeting, HandedOver
from tmad.protocols.radius.hooks import source_of

log = Logger()

_EAP_SECONDS: Final = 30
_RADIUS_REQUEST: Final = 1
_NO_ECHO: Final = 0
_CHARGEABLE_USER_IDENTITY: Final = 89
_TERMINATION_ACTION: Final = 29
_TRIES: Final = 8  # rounds of prompts in one login by password
_MS_CHAP: Final = frozenset({1, 25})  # vendor 311: MS-CHAP-Response, MS-CHAP2-Response
# Logins journals its refusals itself, those of a flood not one by one.
_JOURNALED: Final = ("login.", "otp.")


# Not frozen: it is made for each packet, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Asked:
    """One request and who asks it; ``secret`` is the one that it was made with."""

    packet: Packet
    client: Client
    secret: Secret
    address: str


@dataclass(slots=True, kw_only=True)
class Reply:
    """What to answer, before the authenticators; ``msk`` becomes the two key attributes."""

    code: Code
    attributes: list[Attribute] = field(default_factory=list)
    msk: Secret | None = None
    eap_identifier: int | None = None


BeginEAP = Callable[[Visit, Client], Conversation]


# -- the responder -----------------------------------------------------------------------------


class Responder:
    """Answers Access-Requests."""

    def __init__(
        self,
        conversations: Conversations,
        admission: Admission,
        logins: Logins,
        begin_eap: BeginEAP,
        *,
        patience: float = 120.0,
    ) -> None:
        """``patience`` is how many seconds a person has to answer a challenge."""
        conversations.on_lost = self._lost
        self._conversations = conversations
        self._admission = admission
        self._logins = logins
        self._begin_eap = begin_eap
        self._patience = patience

    async def respond(self, asked: Asked) -> Reply | None:
        """Return the answer, or None where there must be none."""
        packet = asked.packet
        eap = packet.eap
        if eap is None:
            return await self._plain(asked, visit_of(asked))
        if packet.first(codec.USER_PASSWORD) is not None or _chap_of(packet):
            return None  # RFC 3579, 2.1: both in one request are discarded
        state = packet.first(codec.STATE)
        if state is None:
            held = await self._open_eap(asked, visit_of(asked))
            if isinstance(held, Reply):
                return held
        else:
            found = self._conversations.find(state, asked.client.key)
            if found is None:
                # R-11; most often a restart, or a client that is very late.
                return _rejected(eap[1] if len(eap) > 1 else 0)
            held = found
        if held.last is not None and held.last[0] == eap:
            # a new packet around the same message; TLS must not see it twice.
            again: Reply = held.last[1]
            return again
        if held.is_over or held.is_busy or not isinstance(held.content, _EAPLogin):
            return None if held.is_busy else _rejected(eap[1] if len(eap) > 1 else 0)
        held.is_busy = True
        try:
            reply = await self._step(held, held.content, asked, eap)
        finally:
            held.is_busy = False
        if reply is not None:
            held.last = (eap, reply)
        return reply

    # -- EAP ----------------------------------------------------------------------------------

    async def _open_eap(self, asked: Asked, visit: Visit) -> Held | Reply:
        offered = [m for m in asked.client.document.methods if m not in PLAIN]
        if not offered:
            fault = _impossible("eap", "this RADIUS client is not set up for EAP", asked)
            await self._refuse(visit, fault, "eap")
            eap = asked.packet.eap or b""
            return _rejected(eap[1] if len(eap) > 1 else 0)
        conversation = self._begin_eap(visit, asked.client)
        return self._conversations.open(
            asked.client.key, visit.calling_station, _EAPLogin(conversation, visit)
        )

    async def _step(self, held: Held, login: _EAPLogin, asked: Asked, eap: bytes) -> Reply | None:
        try:
            step = await login.conversation.receive(
                eap, framed_mtu=asked.packet.number(codec.FRAMED_MTU)
            )
        except Fault as fault:
            if fault.code is not FaultCode.MALFORMED:
                raise
            log.debug("an EAP message was dropped: {why}", why=fault.detail)
            if held.last is None:
                self._conversations.close(held)
            return None
        message = codec.eap_attributes(step.eap)
        if step.outcome == "continue":
            waits = step.timeout or _EAP_SECONDS
            self._conversations.wait(held, waits)
            return _challenge(message, held.state, waits)
        self._conversations.finish(held)
        if step.outcome == "moved":
            return _challenge(message, step.state, step.timeout or _EAP_SECONDS)
        if step.outcome == "success" and step.admitted is not None:
            reply = _accepted(asked.packet, step.admitted, is_eap=True)
            reply.attributes += message
            reply.eap_identifier = step.eap[1]
            if step.keys is not None:
                reply.msk = Secret(step.keys.msk)
                if login.visit.wants_key_name and step.keys.session_id:
                    # RFC 7268, 2.2
                    reply.attributes.append((codec.EAP_KEY_NAME, step.keys.session_id))
            return reply
        if step.fault is not None:
            await self._refuse(login.visit, step.fault, step.method)
        return Reply(code=Code.ACCESS_REJECT, attributes=message)

    async def take_over(
        self, client: Client, visit: Visit, greeting: Greeting
    ) -> HandedOver | None:
        """Go on with a login that another worker has begun, if its TLS session is held here."""
        conversation = self._begin_eap(visit, client)
        data = await conversation.take_over(greeting)
        if data is None:
            return None
        held = self._conversations.open(
            client.key, visit.calling_station, _EAPLogin(conversation, visit)
        )
        return HandedOver(held.state, data)

    # -- passwords ----------------------------------------------------------------------------

    async def _plain(self, asked: Asked, visit: Visit) -> Reply | None:
        is_station = mab.is_asked(asked.packet, asked.client.document.methods)
        try:
            outcome = await (
                self._station(asked, visit) if is_station else self._password(asked, visit)
            )
        except Fault as fault:
            if fault.code in (FaultCode.UNAVAILABLE, FaultCode.INTERNAL):
                # Silence lets the client ask another server.
                raise
            await self._refuse(visit, fault, policy.MAC if is_station else "pap")
            return _refused(fault)
        if isinstance(outcome, Reply):
            return outcome
        return _accepted(asked.packet, outcome, is_eap=False)

    async def _station(self, asked: Asked, visit: Visit) -> Admitted:
        if policy.MAC not in asked.client.document.methods:
            raise _impossible("mac", "this RADIUS client is not set up for MAC addresses", asked)
        visit = mab.of_station(visit)
        mab.check_password(asked.packet, visit, asked.secret.reveal())
        return await self._admission.station(visit)

    async def _password(self, asked: Asked, visit: Visit) -> Reply | Admitted:
        packet = asked.packet
        if (method := _chap_of(packet)) is not None:
            # these need the password itself, or what is as good as it.
            raise _impossible(
                method, f"{method} needs passwords that are not hashed; use PAP", asked
            )
        hidden = packet.first(codec.USER_PASSWORD)
        if hidden is None:
            raise _impossible("none", "the request holds no password and no EAP message", asked)
        if "pap" not in asked.client.document.methods:
            raise _impossible("pap", "this RADIUS client is not set up for passwords", asked)
        password = self._reveal(asked, hidden)
        state = packet.first(codec.STATE)
        if state is None:
            return await self._begin(asked, visit, password)
        return await self._answer(asked, visit, password, state)

    def _reveal(self, asked: Asked, hidden: bytes) -> Secret:
        octets = codec.reveal_password(hidden, asked.packet.authenticator, asked.secret.reveal())
        try:
            octets.decode()
        except UnicodeDecodeError:
            if not asked.client.document.latin1:
                raise Fault(
                    FaultCode.UNAUTHENTICATED,
                    "the password is not UTF-8: most often the shared secret is another one",
                    rule="radius.password",
                    values={"client": asked.client.name},
                ) from None
            octets = octets.decode("latin-1").encode()
        return Secret(octets)

    async def _begin(self, asked: Asked, visit: Visit, password: Secret) -> Reply | Admitted:
        wish = Wish(self._admission, visit, "pap")
        outcome = await self._logins.begin(
            tenant=asked.client.tenant,
            name=visit.user_name,
            password=password,
            rules=asked.client.document.login,
            source=source_of(visit),
            via="radius",
            purpose=wish,
        )
        return await self._admit(asked, visit, wish, outcome, 1)

    async def _answer(
        self, asked: Asked, visit: Visit, code: Secret, state: bytes
    ) -> Reply | Admitted:
        held = self._conversations.find(state, asked.client.key)
        login = None if held is None else held.content
        if held is not None:
            # O-02: a State is good once.
            self._conversations.close(held)
        if not isinstance(login, _PasswordLogin) or login.name != visit.user_name:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the answer belongs to no question that waits",
                rule="radius.state",
                values={"client": asked.client.name},
            )
        wish = Wish(self._admission, visit, "pap")
        outcome = await self._logins.answer(
            login.prompt, code, source=source_of(visit), via="radius", purpose=wish
        )
        return await self._admit(asked, visit, wish, outcome, login.tries + 1)

    async def _admit(
        self, asked: Asked, visit: Visit, wish: Wish, outcome: Accepted | Prompt, tries: int
    ) -> Reply | Admitted:
        if not isinstance(outcome, Prompt):
            return await wish.granted(outcome.person)
        if tries > _TRIES:
            raise Fault(FaultCode.UNAUTHENTICATED, "too many questions", rule="radius.state")
        held = self._conversations.open(
            asked.client.key,
            visit.calling_station or visit.user_name,
            _PasswordLogin(outcome, visit.user_name, tries),
            patience=self._patience,
        )
        return Reply(
            code=Code.ACCESS_CHALLENGE,
            attributes=[
                *_messages(outcome.text),
                (codec.STATE, held.state),
                (codec.PROMPT, _NO_ECHO.to_bytes(4, "big")),
            ],
        )

    async def _refuse(self, visit: Visit, fault: Fault, method: str) -> None:
        if fault.explain_id or fault.rule.startswith(_JOURNALED):
            return
        await self._admission.refuse(visit, fault, method=method)

    def _lost(self, held: Held) -> None:
        """Journal why a conversation ended whose client fell silent (E-45)."""
        if not isinstance(held.content, _EAPLogin) or held.is_over:
            return
        fault = held.content.conversation.abandon()
        if fault is not None:
            method = held.content.conversation.method
            refused = ensureDeferred(self._refuse(held.content.visit, fault, method))
            refused.addErrback(lambda failure: log.failure("not journaled", failure))


@dataclass(slots=True)
class _EAPLogin:
    conversation: Conversation
    visit: Visit


@dataclass(slots=True)
class _PasswordLogin:
    prompt: Prompt
    name: str
    tries: int


# -- values ------------------------------------------------------------------------------------


def visit_of(asked: Asked) -> Visit:
    """Return what the request says about the login, in the core's words."""
    packet, client = asked.packet, asked.client
    called, ssid = ssid_of(packet.text(codec.CALLED_STATION_ID))
    calling = packet.text(codec.CALLING_STATION_ID)
    return Visit(
        tenant=client.tenant,
        client=client.name,
        tags=client.document.tags,
        address=asked.address,
        nas_identifier=packet.text(codec.NAS_IDENTIFIER) or _nas_address(packet),
        nas_port=packet.text(codec.NAS_PORT_ID) or _port(packet),
        nas_port_type=packet.number(codec.NAS_PORT_TYPE),
        ssid=ssid,
        called_station=called,
        calling_station=station(calling),
        calling_station_sent=calling,
        service_type=packet.number(codec.SERVICE_TYPE),
        user_name=packet.text(codec.USER_NAME),
        session_key=packet.text(codec.ACCT_SESSION_ID),
        wants_key_name=packet.first(codec.EAP_KEY_NAME) is not None,
    )


def _nas_address(packet: Packet) -> str:
    for kind, length in ((codec.NAS_IP_ADDRESS, 4), (codec.NAS_IPV6_ADDRESS, 16)):
        value = packet.first(kind)
        if value is not None and len(value) == length:
            return _address_text(value)
    return ""


@lru_cache(maxsize=4_096)
def _address_text(octets: bytes) -> str:
    return str(ip_address(octets))


def _port(packet: Packet) -> str:
    number = packet.number(codec.NAS_PORT)
    return "" if number is None else str(number)


def _chap_of(packet: Packet) -> str | None:
    if packet.first(codec.CHAP_PASSWORD) is not None:
        return "chap"
    if packet.first(codec.VENDOR_SPECIFIC) is None:
        return None
    for vendor, kind, _ in codec.vendor_values(packet.attributes):
        if vendor == codec.MICROSOFT and kind in _MS_CHAP:
            return "mschap"
    return None


def _challenge(message: Sequence[Attribute], state: bytes, seconds: int) -> Reply:
    return Reply(
        code=Code.ACCESS_CHALLENGE,
        attributes=[
            *message,
            (codec.STATE, state),
            (codec.SESSION_TIMEOUT, seconds.to_bytes(4, "big")),
        ],
    )


def _accepted(packet: Packet, admitted: Admitted, *, is_eap: bool) -> Reply:
    found: list[Attribute] = [
        (codec.USER_NAME, admitted.user_name.encode()[: codec.LONGEST_VALUE]),
        (codec.CLASS, admitted.session.encode()),
    ]
    for name, value in admitted.attributes:
        number, octets = dictionary.encode(name, value)
        if is_eap and number == codec.REPLY_MESSAGE:
            continue  # R-15; RFC 3579, 2.6.5
        found.append((number, octets))
    if admitted.session_timeout is not None:
        seconds = max(1, min(admitted.session_timeout, 0xFFFFFFFF))
        found.append((codec.SESSION_TIMEOUT, seconds.to_bytes(4, "big")))
        if is_eap and all(number != _TERMINATION_ACTION for number, _ in found):
            # RFC 3580, 3.17: else the port closes instead of asking for another login.
            found.append((_TERMINATION_ACTION, _RADIUS_REQUEST.to_bytes(4, "big")))
    if packet.first(_CHARGEABLE_USER_IDENTITY) is not None:
        # RFC 4372: a handle that stays the same for one identity.
        handle = hashlib.sha256(admitted.user_name.encode()).hexdigest()[:32]
        found.append((_CHARGEABLE_USER_IDENTITY, handle.encode()))
    return Reply(code=Code.ACCESS_ACCEPT, attributes=found)


def _refused(fault: Fault) -> Reply:
    suffix = f" [{fault.explain_id}]" if fault.explain_id else ""
    # The rule stays in the journal: a guesser must not learn what was wrong.
    text = fault.detail if fault.rule.startswith("radius.method") else "login refused"
    return Reply(code=Code.ACCESS_REJECT, attributes=[*_messages(text + suffix)])


def _rejected(identifier: int) -> Reply:
    """Return Access-Reject with EAP-Failure (RFC 3748, 4.2)."""
    return Reply(
        code=Code.ACCESS_REJECT,
        attributes=[(codec.EAP_MESSAGE, bytes((4, identifier, 0, 4)))],
    )


def spoiled(reply: Reply) -> Reply:
    """Return the refusal in the place of an answer that does not fit a packet (R-61)."""
    if reply.eap_identifier is None:
        return Reply(code=Code.ACCESS_REJECT)
    return _rejected(reply.eap_identifier)


def _messages(text: str) -> Sequence[Attribute]:
    octets = text.encode("utf-8", "replace")[: codec.LONGEST_VALUE]
    # Cut between characters.
    return [(codec.REPLY_MESSAGE, octets.decode("utf-8", "ignore").encode())]


def _impossible(method: str, detail: str, asked: Asked) -> Fault:
    return Fault(
        FaultCode.FORBIDDEN,
        detail,
        rule=f"radius.method.{method}",
        values={
            "client": asked.client.name,
            "methods": ", ".join(asked.client.document.methods),
        },
    )
