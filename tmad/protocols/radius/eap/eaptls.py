"""EAP-TLS: both ends show a certificate (RFC 5216; RFC 9190 for TLS 1.3).

``TLSMethod`` is also what TTLS and PEAP are made of (tunnel.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from tmad.errors import Fault
from tmad.network.logins import Admitted, TLSLogin
from tmad.protocols.radius.eap import codec
from tmad.protocols.radius.eap.framing import Incoming, Outgoing, peer_fault
from tmad.protocols.radius.eap.method import Greeting, Hooks, Keys, Turn
from tmad.protocols.radius.eap.tls import Engine, Session

_LABEL = b"client EAP encryption"


class TLSMethod(ABC):
    """Fragments, the handshake and alerts; what follows is up to the method."""

    type: int
    name: str

    def __init__(self, engine: Engine, hooks: Hooks, fragment_size: int) -> None:
        self._engine = engine
        self._hooks = hooks
        self._incoming = Incoming()
        self._outgoing = Outgoing(fragment_size)
        self._session: Session | None = None
        self._has_begun = False
        self._is_established = False
        self._ending: Fault | Turn | None = None  # once the peer has acknowledged
        self.identity = ""

    async def start(self, identity: str) -> bytes:
        """Return the EAP-TLS start (RFC 5216, 2.1.1)."""
        self.identity = identity
        self._session = await self._open()
        return bytes((codec.START,))

    @property
    def asks_person(self) -> bool:
        """Return whether a person is being asked inside."""
        return False

    @property
    def ending(self) -> Fault | None:
        """Return the refusal that the peer has been told, and has not acknowledged yet."""
        return self._ending if isinstance(self._ending, Fault) else None

    def fit(self, size: int) -> None:
        """Send no EAP packet longer than this."""
        self._outgoing.fit(size)

    def close(self) -> None:
        """Free the TLS session; one that did not end well can then not be resumed."""
        if self._session is not None:
            self._session.close()

    def stage(self) -> str:
        """Return how far it has come."""
        if isinstance(self._ending, Fault):
            return "refused"
        if self._ending is not None:
            return "accepted"
        if self._is_established:
            return "in the tunnel"
        return "handshake"

    async def respond(self, data: bytes) -> Turn:
        """Take a fragment or an acknowledgement."""
        fragment = codec.fragment(data)
        if self._outgoing.is_waiting:
            if fragment.data or fragment.more:
                raise peer_fault("data came where an acknowledgement was due", "fragment")
            return Turn(self._outgoing.next())
        message = self._incoming.add(fragment)
        if message is None:
            return Turn(self._outgoing.acknowledge())
        ending = self._ending
        if ending is not None:
            if isinstance(ending, Fault):
                raise ending
            if message:
                self._refused_by_peer(message)
            return ending
        if not message:
            return await self._acknowledged()
        assert self._session is not None
        if not self._has_begun:
            self._has_begun = True
            if (turn := await self._leave(message)) is not None:
                return turn
        self._session.receive(message)
        if self._is_established:
            return await self._received()
        return await self._shake(self._session)

    async def _shake(self, session: Session) -> Turn:
        try:
            is_done = session.handshake()
        except Fault as fault:
            alert = session.pending()
            if not alert:
                raise
            # RFC 9190, 2.1.4: the peer learns why, and answers empty.
            return self._end(alert, fault)
        if not is_done:
            reply = session.pending()
            if not reply:
                raise peer_fault("the TLS message is incomplete", "incomplete")
            return Turn(self._outgoing.send(reply))
        self._is_established = True
        return await self._finished(session)

    def _keys(self, session: Session, label: bytes) -> Keys:
        return session.keys(self.type, label, has_id=self._hooks.wants_session_id)

    def _end(self, message: bytes, ending: Fault | Turn) -> Turn:
        """Send a last message; what follows it is settled."""
        self._ending = ending
        return Turn(self._outgoing.send(message))

    def _refused_by_peer(self, message: bytes) -> None:
        # After the last message a peer has nothing to say but an alert.
        assert self._session is not None
        self._session.receive(message)
        self._session.read()
        raise peer_fault("data came after the login had ended", "after-success")

    # -- what the method does -----------------------------------------------------------------

    @abstractmethod
    async def _open(self) -> Session:
        """Begin the handshake."""

    @abstractmethod
    async def _finished(self, session: Session) -> Turn:
        """Go on after the handshake."""

    async def _leave(self, message: bytes) -> Turn | None:
        """Let another worker go on from the client's first message, if that is its business."""
        return None

    async def _received(self) -> Turn:
        """Read what came through the tunnel."""
        raise peer_fault("data came through a tunnel that has no use", "unexpected-data")

    async def _acknowledged(self) -> Turn:
        """Go on after an empty response that answers no fragment."""
        raise peer_fault("the response is empty", "empty")


class EAPTLS(TLSMethod):
    """The client is who its certificate says, if the core agrees now."""

    type = codec.Type.TLS

    def __init__(
        self, engine: Engine, hooks: Hooks, fragment_size: int, *, name: str = "eap-tls"
    ) -> None:
        super().__init__(engine, hooks, fragment_size)
        self.name = name
        self._is_outer = name == "eap-tls"  # a tunnel around it cannot leave

    async def take_over(self, greeting: Greeting) -> bytes:
        """Begin where another worker was greeted; return the data of the next request."""
        await self.start(greeting.identity)
        self.fit(greeting.size)
        self._has_begun = True
        return (await self.respond(b"\x00" + greeting.message)).data

    async def _leave(self, message: bytes) -> Turn | None:
        sessions = self._engine.missing(message) if self._is_outer else ()
        if not sessions:
            return None
        greeting = Greeting(self.identity, message, sessions, self._outgoing.size)
        taken = await self._hooks.hand_over(greeting)
        return None if taken is None else Turn(taken.data, state=taken.state)

    async def _open(self) -> Session:
        return await self._engine.mutual()

    async def _finished(self, session: Session) -> Turn:
        login = TLSLogin(
            method=self.name,
            version=session.version,
            cipher=session.cipher,
            resumed=session.is_resumed,
            outer_identity=self.identity,
        )
        # Also, and above all, on a resumed session: whatever was true when it began may have
        # changed (RFC 9190, 2.1.3 and 5.7). A refusal is an EAP-Failure at once: peers that
        # are sent a close_notify instead stop talking EAP.
        admitted: Admitted = await self._hooks.certificate(session.chain(), login)
        turn = Turn(admitted=admitted, keys=self._keys(session, _LABEL))
        if session.is_13:
            # RFC 9190, 2.1.1: a promise that nothing but success follows.
            session.write(b"\x00")
        message = session.pending()
        session.finish()
        return self._end(message, turn) if message else turn
