"""PEAP version 0: EAP through a TLS tunnel, sealed by a result and a crypto-binding.

[MS-PEAP] 3.1.5 (keys and TLVs), draft-kamath-pppext-peapv0; RFC 9427, 2 and 3 for TLS 1.3.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from tmad.errors import Fault
from tmad.network.logins import Admitted
from tmad.protocols.radius.eap import codec
from tmad.protocols.radius.eap.dialogue import Makers
from tmad.protocols.radius.eap.framing import peer_fault
from tmad.protocols.radius.eap.method import Hooks, Keys, Turn
from tmad.protocols.radius.eap.tls import Engine, Session
from tmad.protocols.radius.eap.tunnel import TunnelMethod

_LABEL = b"client EAP encryption"
_NONCE_OCTETS = 32


class PEAP(TunnelMethod):
    """The server shows a certificate; inside, identity and one EAP method as anywhere."""

    type = codec.Type.PEAP

    def __init__(
        self,
        engine: Engine,
        hooks: Hooks,
        fragment_size: int,
        *,
        makers: Makers,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        super().__init__(engine, hooks, fragment_size, makers=makers)
        self._random = random
        self._is_asking = False
        self._result: Fault | Turn | None = None  # of the inner method, told but not answered
        self._binding: codec.CryptoBinding | None = None
        self._compound = _Compound(b"", b"")
        self.name = "peap"

    async def _finished(self, session: Session) -> Turn:
        if session.is_13:
            return self._ask_identity(session)
        # Until the end of our handshake has arrived, the client has no tunnel.
        return Turn(self._outgoing.send(session.pending()))

    async def _acknowledged(self) -> Turn:
        if self._is_asking:
            raise peer_fault("the response is empty", "empty")
        assert self._session is not None
        return self._ask_identity(self._session)

    def _ask_identity(self, session: Session) -> Turn:
        self._is_asking = True
        return self._say(session, bytes((codec.Type.IDENTITY,)))

    async def _received(self) -> Turn:
        session = self._session
        assert session is not None
        data = session.read()
        if not data or not self._is_asking:
            raise peer_fault("nothing was asked, or nothing came through the tunnel", "incomplete")
        if self._result is not None:
            return self._conclude(self._result, data)
        try:
            # [MS-PEAP] 3.1.5.6: inside, packets have no header.
            turn = await self._inner.receive(data[0], data[1:])
        except Fault as fault:
            self._result = fault
            return self._say(session, self._extensions(codec.RESULT_FAILURE))
        method = self._inner.method
        assert method is not None
        self.name = method.name
        if turn.admitted is None:
            return self._say(session, bytes((method.type,)) + turn.data)
        return self._bind(session, turn.admitted, turn.keys)

    def _bind(self, session: Session, admitted: Admitted, inner: Keys | None) -> Turn:
        keys = self._keys(session, _LABEL)
        self._result = Turn(admitted=admitted, keys=keys)
        self._compound = _Compound(keys.msk, inner.msk if inner is not None else b"")
        binding = codec.CryptoBinding(0, 0, False, self._random(_NONCE_OCTETS), bytes(20))
        self._binding = binding
        tlv = binding.encode(self._compound.mac(binding))
        return self._say(session, self._extensions(codec.RESULT_SUCCESS, tlv))

    def _conclude(self, result: Fault | Turn, data: bytes) -> Turn:
        if isinstance(result, Fault):
            raise result
        response = codec.decode(data)
        if response.type != codec.Type.TLV:
            raise peer_fault("the result is to be answered", "order")
        answer = codec.extensions(response.data)
        if answer.result != codec.RESULT_SUCCESS:
            raise peer_fault("the client does not take it for a success", "peap.result")
        if answer.binding is None:
            # Clients that know no crypto-binding; the keys are then those of the tunnel.
            return result
        assert self._binding is not None
        expected = self._compound.mac(answer.binding)
        if not hmac.compare_digest(expected, answer.binding.mac) or not answer.binding.is_response:
            raise peer_fault("tunnel and inner method have not the same ends", "peap.binding")
        assert result.keys is not None
        return Turn(admitted=result.admitted, keys=self._compound.keys(result.keys.session_id))

    def _extensions(self, result: int, tlvs: bytes = b"") -> bytes:
        # Alone among what goes through the tunnel, this has its header.
        return codec.request(self._random(1)[0], codec.Type.TLV, codec.encode_result(result) + tlvs)

    def _say(self, session: Session, data: bytes) -> Turn:
        session.write(data)
        return Turn(self._outgoing.send(session.pending()))


class _Compound:
    """Keys that only somebody has who was there inside and outside ([MS-PEAP] 3.1.5.5.2)."""

    def __init__(self, tunnel_key: bytes, inner_key: bytes) -> None:
        session_key = inner_key[:32].ljust(32, b"\x00")
        made = _prf_plus(tunnel_key[:40], b"Inner Methods Compound Keys" + session_key, 60)
        self._ipmk, self._cmk = made[:40], made[40:]

    def mac(self, binding: codec.CryptoBinding) -> bytes:
        """Return the MAC that a crypto-binding TLV should have."""
        octets = binding.encode(bytes(20)) + bytes((codec.Type.PEAP,))
        return hmac.digest(self._cmk, octets, hashlib.sha1)

    def keys(self, session_id: bytes) -> Keys:
        """Return the keys of the login."""
        msk = _prf_plus(self._ipmk, b"Session Key Generating Function\x00", 64)
        return Keys(msk, session_id)


def _prf_plus(key: bytes, seed: bytes, length: int) -> bytes:
    """[MS-PEAP] 3.1.5.5.2.2, as for version 0: two zero octets behind the counter."""
    made, last, counter = b"", b"", 0
    while len(made) < length:
        counter += 1
        last = hmac.digest(key, last + seed + bytes((counter, 0, 0)), hashlib.sha1)
        made += last
    return made[:length]
