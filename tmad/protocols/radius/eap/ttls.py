"""EAP-TTLS: a password, MSCHAPv2 or another EAP method through a TLS tunnel.

RFC 5281, 7 to 11; RFC 9427, 2 and 3 for TLS 1.3.
"""

from __future__ import annotations

import hmac

from tmad.events import Secret
from tmad.network.logins import Admitted
from tmad.protocols.radius.eap import codec, eapmschapv2, mschapv2
from tmad.protocols.radius.eap.dialogue import Makers
from tmad.protocols.radius.eap.framing import peer_fault
from tmad.protocols.radius.eap.method import Hooks, Turn
from tmad.protocols.radius.eap.tls import Engine, Session
from tmad.protocols.radius.eap.tunnel import TunnelMethod

_LABEL = b"ttls keying material"
_CHALLENGE_LABEL = b"ttls challenge"
PAP = "eap-ttls-pap"
MSCHAPV2 = "eap-ttls-mschapv2"


class TTLS(TunnelMethod):
    """The server shows a certificate, the client says the rest inside."""

    type = codec.Type.TTLS

    def __init__(
        self,
        engine: Engine,
        hooks: Hooks,
        fragment_size: int,
        *,
        allowed: frozenset[str],
        makers: Makers,
    ) -> None:
        """``allowed`` are names of inner methods; ``makers`` makes those that are EAP."""
        super().__init__(engine, hooks, fragment_size, makers=makers)
        self._allowed = allowed
        self._identifier = 0
        self._admits: tuple[str, str] | None = None  # name and method, once the peer agrees
        self.name = "eap-ttls"

    async def _finished(self, session: Session) -> Turn:
        # In TLS 1.3 what the client has to say may come with the end of its handshake.
        data = session.read()
        if data:
            return await self._read(session, data)
        return Turn(self._outgoing.send(session.pending()))

    async def _received(self) -> Turn:
        assert self._session is not None
        data = self._session.read()
        if not data:
            raise peer_fault("nothing came through the tunnel", "incomplete")
        return await self._read(self._session, data)

    async def _acknowledged(self) -> Turn:
        if self._admits is None:
            raise peer_fault("the response is empty", "empty")
        assert self._session is not None
        return self._accept(self._session, await self._hooks.admit(*self._admits))

    async def _read(self, session: Session, data: bytes) -> Turn:
        if self._admits is not None:
            raise peer_fault("data came where an acknowledgement was due", "after-success")
        found: dict[tuple[int, int], bytes] = {}
        for avp in codec.avps(data):
            if avp.key == codec.AVP_EAP_MESSAGE:
                found[avp.key] = found.get(avp.key, b"") + avp.data
            elif avp.key in found:
                raise peer_fault("an AVP stands twice", "avp")
            elif avp.key in _KNOWN:
                found[avp.key] = avp.data
            elif avp.is_mandatory:
                # RFC 5281, 10.1
                raise peer_fault(f"AVP {avp.vendor}/{avp.code} is not known here", "avp")
        if codec.AVP_EAP_MESSAGE in found:
            return await self._eap(session, found[codec.AVP_EAP_MESSAGE])
        name = codec.text(found.get(codec.AVP_USER_NAME, b""), "name")
        if not name or len(name) > codec.LONGEST_IDENTITY:
            raise peer_fault("there is no user name, or one that is too long", "avp")
        if codec.AVP_MS_CHAP2_RESPONSE in found:
            return await self._mschapv2(session, name, found)
        if codec.AVP_USER_PASSWORD in found:
            return await self._pap(session, name, found[codec.AVP_USER_PASSWORD])
        raise peer_fault("there is neither a password nor a response", "avp")

    async def _pap(self, session: Session, name: str, password: bytes) -> Turn:
        self._choose(PAP)
        # RFC 5281, 11.2.5: padded with NULs to hide its length.
        typed = password.rstrip(b"\x00")
        codec.text(typed, "password")
        found = await self._hooks.password(name, Secret(typed), self.name)
        if not isinstance(found, Admitted):
            raise peer_fault("PAP cannot ask for a second factor: use EAP-GTC inside", "prompt")
        return self._accept(session, found)

    async def _mschapv2(
        self, session: Session, name: str, found: dict[tuple[int, int], bytes]
    ) -> Turn:
        self._choose(MSCHAPV2)
        response = codec.mschap2_response(
            found[codec.AVP_MS_CHAP2_RESPONSE], found[codec.AVP_USER_NAME]
        )
        # RFC 5281, 11.1: the challenge comes from the tunnel, so that nobody can choose it.
        material = session.export(_CHALLENGE_LABEL, mschapv2.CHALLENGE_OCTETS + 1)
        challenge, identifier = material[:-1], material[-1]
        given = found.get(codec.AVP_MS_CHAP_CHALLENGE, b"")
        if not hmac.compare_digest(given, challenge) or response.identifier != identifier:
            raise peer_fault("the response answers another challenge", "mschapv2.identifier")
        proof, _ = await eapmschapv2.check(self._hooks, self.name, challenge, response)
        self._admits = (name, self.name)
        answer = bytes((identifier,)) + proof.encode()
        return self._say(session, codec.AVP_MS_CHAP2_SUCCESS, answer)

    async def _eap(self, session: Session, packet: bytes) -> Turn:
        response = codec.decode(packet)
        if self._inner.identity is not None and response.identifier != self._identifier:
            raise peer_fault("the response inside answers another request", "identifier")
        turn = await self._inner.receive(response.type, response.data)
        method = self._inner.method
        assert method is not None
        self.name = method.name
        if turn.admitted is not None:
            return self._accept(session, turn.admitted)
        self._identifier = response.identifier + 1 & 0xFF
        message = codec.request(self._identifier, method.type, turn.data)
        return self._say(session, codec.AVP_EAP_MESSAGE, message)

    def _choose(self, name: str) -> None:
        if name not in self._allowed or self._inner.identity is not None:
            raise peer_fault(f"{name} is not allowed here", "no-method")
        self.name = name

    def _say(self, session: Session, key: tuple[int, int], data: bytes) -> Turn:
        session.write(codec.encode_avps([(key, data)]))
        return Turn(self._outgoing.send(session.pending()))

    def _accept(self, session: Session, admitted: Admitted) -> Turn:
        # RFC 9427, 3.1: after an inner method TTLS has no record that promises success.
        return Turn(admitted=admitted, keys=self._keys(session, _LABEL))


_KNOWN = frozenset(
    {
        codec.AVP_USER_NAME,
        codec.AVP_USER_PASSWORD,
        codec.AVP_MS_CHAP_CHALLENGE,
        codec.AVP_MS_CHAP2_RESPONSE,
    }
)
