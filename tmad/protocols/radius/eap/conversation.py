"""One EAP authentication, from the identity to success or failure (RFC 3748, 4; RFC 3579, 2).

It knows nothing of RADIUS: octets come in, a Step goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final, Literal, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.network.logins import Admitted
from tmad.network.visit import Visit
from tmad.protocols.radius.eap import codec
from tmad.protocols.radius.eap.dialogue import Dialogue, Makers
from tmad.protocols.radius.eap.eapmschapv2 import EAPMSCHAPv2
from tmad.protocols.radius.eap.eaptls import EAPTLS
from tmad.protocols.radius.eap.framing import SMALLEST_FRAGMENT
from tmad.protocols.radius.eap.gtc import GTC
from tmad.protocols.radius.eap.method import Greeting, Hooks, Keys, Method
from tmad.protocols.radius.eap.peap import PEAP
from tmad.protocols.radius.eap.tls import Engine
from tmad.protocols.radius.eap.ttls import MSCHAPV2, PAP, TTLS

# What may be allowed, the preferred first. "eap-ttls" and "peap" allow all that begins so.
TTLS_METHODS: Final = (PAP, MSCHAPV2, "eap-ttls-eap-gtc", "eap-ttls-eap-mschapv2")
# GTC first: it works with every kind of password and one-time code that is kept here.
PEAP_METHODS: Final = ("peap-gtc", "peap-mschapv2", "peap-tls")
METHODS: Final = (
    "eap-tls",
    "eap-ttls",
    *TTLS_METHODS,
    "peap",
    *PEAP_METHODS,
    "eap-gtc",
)

MOST_ROUNDS: Final = 60
MOST_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 30
PERSON_SECONDS: Final = 120  # to find a phone and type what it shows
_WIRELESS: Final = 19  # NAS-Port-Type: Wireless-802.11
_EAP_OVERHEAD: Final = 4  # octets: the IEEE 802.1X header (RFC 3579, 2.4)


class Step(NamedTuple):
    """What follows a response: ``eap`` goes to the peer.

    ``timeout`` is how many seconds the peer has to answer. When another worker goes on from
    here ("moved"), ``state`` is its State. On success ``admitted`` is there,
    and ``keys`` but for EAP-GTC; on failure ``fault``, which nobody has journaled yet unless
    it has an explain id.
    """

    eap: bytes
    outcome: Literal["continue", "moved", "success", "failure"]
    method: str = ""
    keys: Keys | None = None
    admitted: Admitted | None = None
    fault: Fault | None = None
    timeout: int | None = None
    state: bytes = b""


class Conversation:
    """The server's end of one authentication."""

    def __init__(
        self,
        visit: Visit,
        methods: Sequence[str],
        engine: Engine,
        hooks: Hooks,
        *,
        fragment_size: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``methods`` are names of METHODS, in the order in which they are offered."""
        self.visit = visit
        self._clock = clock
        self._deadline = clock() + MOST_SECONDS
        self._rounds = 0
        self._fragment_size = fragment_size
        self._hooks = hooks
        self._engine = engine
        self._dialogue = Dialogue(
            _makers(methods, engine, hooks, fragment_size, visit.nas_port_type == _WIRELESS)
        )
        self._outstanding: int | None = None  # identifier of the request that waits
        self._answered: int | None = None  # identifier that the last step answers
        self._last: Step | None = None
        self._is_busy = False

    @property
    def identity(self) -> str:
        """Return who the peer says it is, unauthenticated."""
        return self._dialogue.identity or ""

    @property
    def method(self) -> str:
        """Return the name of the method that is being used."""
        method = self._dialogue.method
        return "eap" if method is None else method.name

    @property
    def is_over(self) -> bool:
        """Whether it has ended; retransmissions are still answered."""
        return self._last is not None and self._last.outcome != "continue"

    async def receive(self, eap: bytes, *, framed_mtu: int | None = None) -> Step:
        """Take a packet of the peer; raise Fault(MALFORMED) for one that is to be ignored.

        No octets are EAP-Start (RFC 3579, 2.1). What has been answered before is answered
        with the same step again.
        """
        if self._is_busy:
            raise _ignored("the last packet is still being answered")
        if not eap and self._last is None:
            self._outstanding = 0
            return Step(
                eap=codec.request(0, codec.Type.IDENTITY, b""),
                outcome="continue",
                timeout=ANSWER_SECONDS,
            )
        response = codec.decode(eap)
        last = self._last
        if last is not None and response.identifier == self._answered:
            return last
        if self.is_over or self._outstanding not in (None, response.identifier):
            raise _ignored("the response answers no request that waits")
        self._is_busy = True
        try:
            step = await self._answer(response, framed_mtu)
        finally:
            self._is_busy = False
        if step.outcome != "continue":
            self._close()
        self._answered = response.identifier
        self._last = step
        return step

    async def take_over(self, greeting: Greeting) -> bytes | None:
        """Go on with EAP-TLS that another worker has begun, if a session it needs is held here.

        Return the data of the next request, which the other one sends.
        """
        if not self._engine.holds(greeting.sessions):
            return None
        method = self._dialogue.adopt(greeting.identity, codec.Type.TLS)
        return await method.take_over(greeting) if isinstance(method, EAPTLS) else None

    def abandon(self) -> Fault | None:
        """Return why it ended when the peer has fallen silent; None if it ended well before.

        For whoever throws it away: call it once.
        """
        if self.is_over or self._dialogue.identity is None:
            return None
        fault = _silence(self._dialogue.method, self._rounds)
        self._close()
        return fault

    def _close(self) -> None:
        if self._dialogue.method is not None:
            self._dialogue.method.close()

    async def _answer(self, response: codec.Response, framed_mtu: int | None) -> Step:
        self._rounds += 1
        try:
            if self._rounds > MOST_ROUNDS or self._clock() > self._deadline:
                raise Fault(
                    FaultCode.REJECTED,
                    f"the login took more than {MOST_ROUNDS} packets or {MOST_SECONDS:.0f} seconds",
                    rule="eap.limit",
                )
            turn = await self._dialogue.receive(response.type, response.data)
            if turn.admitted is not None:
                # Often decided before the peer's last message, which may have taken its time.
                await self._hooks.confirm(turn.admitted)
        except Fault as fault:
            return Step(
                eap=codec.failure(response.identifier),
                outcome="failure",
                method=self.method,
                fault=fault,
            )
        if turn.admitted is not None:
            return Step(
                eap=codec.success(response.identifier),
                outcome="success",
                method=self.method,
                keys=turn.keys,
                admitted=turn.admitted,
            )
        method, seconds = self._dialogue.method, ANSWER_SECONDS
        assert method is not None  # it asks the next question
        if framed_mtu is not None:
            method.fit(min(self._fragment_size, framed_mtu - _EAP_OVERHEAD))
        if method.asks_person:
            seconds = PERSON_SECONDS
            self._deadline = max(self._deadline, self._clock() + MOST_SECONDS + seconds)
        identifier = self._outstanding = response.identifier + 1 & 0xFF
        return Step(
            eap=codec.request(identifier, method.type, turn.data),
            outcome="moved" if turn.state else "continue",
            method=method.name,
            timeout=seconds,
            state=turn.state,
        )


def _makers(
    methods: Sequence[str], engine: Engine, hooks: Hooks, fragment_size: int, is_wireless: bool
) -> Makers:
    """Return what makes each outer method, in the order of ``methods``."""
    found: dict[int, Callable[[], Method]] = {}
    for name in methods:
        if name == "eap-tls":
            found.setdefault(codec.Type.TLS, partial(EAPTLS, engine, hooks, fragment_size))
        elif name.startswith("eap-ttls"):
            inner = _inner(methods, "eap-ttls", TTLS_METHODS)
            found.setdefault(
                codec.Type.TTLS,
                partial(
                    TTLS,
                    engine,
                    hooks,
                    fragment_size,
                    allowed=frozenset(inner),
                    makers=_inner_makers(inner, engine, hooks, fragment_size),
                ),
            )
        elif name.startswith("peap"):
            inner = _inner(methods, "peap", PEAP_METHODS)
            makers = _inner_makers(inner, engine, hooks, fragment_size)
            found.setdefault(
                codec.Type.PEAP, partial(PEAP, engine, hooks, fragment_size, makers=makers)
            )
        elif name == "eap-gtc" and not is_wireless:
            # It makes no keys: an access point could not encrypt what follows.
            found.setdefault(codec.Type.GTC, partial(GTC, hooks, name))
    return found


def _inner(methods: Sequence[str], outer: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inner methods that are allowed, those named one by one first."""
    named = [name for name in methods if name in known]
    if outer in methods:
        named += [name for name in known if name not in named]
    return tuple(named)


def _inner_makers(names: Sequence[str], engine: Engine, hooks: Hooks, fragment_size: int) -> Makers:
    found: dict[int, Callable[[], Method]] = {}
    # What has been cut to fit inside need not be cut again outside.
    room = max(fragment_size - 100, SMALLEST_FRAGMENT)
    for name in names:
        if name.endswith("-gtc"):
            found[codec.Type.GTC] = partial(GTC, hooks, name)
        elif name in ("peap-mschapv2", "eap-ttls-eap-mschapv2"):
            found[codec.Type.MSCHAPV2] = partial(EAPMSCHAPv2, hooks, name)
        elif name == "peap-tls":
            found[codec.Type.TLS] = partial(EAPTLS, engine, hooks, room, name=name)
    return found


def _silence(method: Method | None, rounds: int) -> Fault:
    if isinstance(method, EAPTLS | TTLS | PEAP):
        if method.ending is not None:
            return method.ending
        if method.stage() == "handshake" and rounds > 1:
            return Fault(
                FaultCode.UNAUTHENTICATED,
                "the client fell silent during the TLS handshake: it may not trust our server"
                " certificate, or large packets do not reach it",
                rule="eap.timeout",
                values={"stage": "handshake", "packets": str(rounds)},
            )
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the client fell silent",
        rule="eap.timeout",
        values={"stage": "start" if method is None else method.stage(), "packets": str(rounds)},
    )


def _ignored(detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule="eap.ignored")
