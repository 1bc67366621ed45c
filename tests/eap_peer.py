"""An EAP peer of our own making, on pyOpenSSL's client side; it shares no code with the server.

RFC 3748 and 5216, 9190, 5281, 9427, [MS-PEAP], draft-kamath-pppext-eap-mschapv2. It has no
sockets: ``Peer.answer(request)`` takes an EAP packet and returns the next one. Tests use it to
do what no well-behaved supplicant does, the load generator to do a lot of what they all do.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from OpenSSL import SSL
from OpenSSL.crypto import X509

IDENTITY, NAK, GTC, TLS, TTLS, PEAP, MSCHAPV2, EXTENSIONS = 1, 3, 6, 13, 21, 25, 26, 33

_LABELS = {
    TLS: b"client EAP encryption",
    TTLS: b"ttls keying material",
    PEAP: b"client EAP encryption",
}
# RFC 3079, 3.4: the client's side of the table.
_SEND = b"On the client side, this is the send key; on the server side, it is the receive key."
_RECEIVE = b"On the client side, this is the receive key; on the server side, it is the send key."


class RefusedError(Exception):
    """The peer itself gives up: ``args`` say why."""


def client_context(
    *,
    anchors: Sequence[x509.Certificate],
    chain: Sequence[x509.Certificate] = (),
    key: Any = None,
    version: str | None = None,
    ask_status: Callable[[bytes], bool] | None = None,
    groups: bytes = b"X25519:P-256",
) -> SSL.Context:
    """Return a context that can be used for many logins; resuming needs the same one.

    ``groups`` are those of the supplicants of today: a hybrid key share is a fragment more.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    assert SSL._lib.SSL_CTX_set1_curves_list(context._context, groups) == 1
    if version is not None:
        number = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}[version]
        context.set_min_proto_version(number)
        context.set_max_proto_version(number)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    store = context.get_cert_store()
    assert store is not None
    for anchor in anchors:
        store.add_cert(X509.from_cryptography(anchor))
    context.set_verify(SSL.VERIFY_PEER, None)
    if chain:
        context.use_certificate(chain[0])
        for above in chain[1:]:
            context.add_extra_chain_cert(above)
        context.use_privatekey(key)
    if ask_status is not None:
        context.set_ocsp_client_callback(lambda connection, octets, data: ask_status(octets))
    return context


@dataclass
class Inner:
    """What the peer says inside a tunnel: "pap", "mschapv2", "gtc", "eap-mschapv2" or "tls"."""

    method: str
    name: str = "alice"
    password: str = ""
    answers: list[str] = field(default_factory=list)
    context: SSL.Context | None = None
    binding: bool = True  # answer crypto-binding


@dataclass
class Peer:
    """One login. ``context`` is None for methods without TLS."""

    method: int
    context: SSL.Context | None = None
    identity: bytes = b"anonymous"
    inner: Inner | None = None
    session: Any = None
    fragment: int = 1200
    include_length: bool = False
    password: str = ""
    answers: list[str] = field(default_factory=list)
    ask_status: bool = False

    def __post_init__(self) -> None:
        self.rounds = 0
        self.success: bool | None = None
        self.msk = b""
        self.session_id = b""
        self.commitment = False
        self.alert: str = ""
        self.prompts: list[str] = []
        self._connection: Any = None
        self._in = bytearray()
        self._out = b""
        self._done = False
        self._inner_tls: Peer | None = None
        self._inner_key = b""
        self._waits_for_proof = ""
        self._mschap: tuple[bytes, bytes, bytes, str] | None = None
        self._proved = False

    # -- EAP ----------------------------------------------------------------------------------

    def answer(self, packet: bytes) -> bytes | None:
        """Return the response to a request; None after success or failure."""
        code, identifier, length = struct.unpack("!BBH", packet[:4])
        assert length == len(packet), "the EAP length is wrong"
        if code in (3, 4):
            self.success = code == 3
            if self.success and self._connection is not None:
                # Or OpenSSL would take the session for broken, and never resume it.
                self._connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
            return None
        assert code == 1, f"code {code}"
        self.rounds += 1
        type_, data = packet[4], packet[5:]
        return self.respond(identifier, *self._react(type_, data))

    @staticmethod
    def respond(identifier: int, type_: int, data: bytes) -> bytes:
        """Return a response."""
        return struct.pack("!BBHB", 2, identifier, len(data) + 5, type_) + data

    def _react(self, type_: int, data: bytes) -> tuple[int, bytes]:
        if type_ == IDENTITY:
            return IDENTITY, self.identity
        if type_ != self.method:
            return NAK, bytes((self.method,))
        if type_ == GTC:
            self.prompts.append(data.decode())
            first = len(self.prompts) == 1
            return GTC, (self.password if first else self.answers.pop(0)).encode()
        return type_, self._tls(data)

    # -- TLS in EAP ---------------------------------------------------------------------------

    def _tls(self, data: bytes) -> bytes:
        flags = data[0]
        if flags & 0x20:
            return self._send(self._begin())
        body = data[5:] if flags & 0x80 else data[1:]
        if self._out:
            assert not body, "data where our fragment was to be acknowledged"
            return self._piece()
        self._in += body
        if flags & 0x40:
            return b"\x00"
        message = bytes(self._in)
        self._in.clear()
        return self._send(self._process(message))

    def _begin(self) -> bytes:
        assert self.context is not None
        self._connection = connection = SSL.Connection(self.context, None)
        connection.set_connect_state()
        if self.session is not None:
            connection.set_session(self.session)
        if self.ask_status:
            connection.request_ocsp()
        self._shake()
        return self._flush()

    def _process(self, message: bytes) -> bytes:
        connection = self._connection
        if message:
            connection.bio_write(message)
        if not self._done:
            if not self._shake():
                return self._flush()
            self._derive()
            if self.method == TTLS:
                self._say_first()
        received = self._receive()
        if received:
            self._inside(received)
        return self._flush()

    def _shake(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            self.alert = error.args[0][0][2] if error.args and error.args[0] else "?"
            return False
        self._done = True
        return True

    def _receive(self) -> bytes:
        found = b""
        try:
            while True:
                found += self._connection.recv(16_384)
        except SSL.WantReadError:
            return found
        except SSL.Error as error:
            self.alert = error.args[0][0][2] if error.args and error.args[0] else "?"
            return found

    def _flush(self) -> bytes:
        try:
            octets: bytes = self._connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""
        return octets

    def _send(self, message: bytes) -> bytes:
        self._out = message
        if len(message) <= self.fragment:
            self._out = b""
            if self.include_length and message:
                return b"\x80" + len(message).to_bytes(4) + message
            return b"\x00" + message
        head = b"\xc0" + len(message).to_bytes(4)
        piece, self._out = message[: self.fragment], message[self.fragment :]
        return head + piece

    def _piece(self) -> bytes:
        piece, self._out = self._out[: self.fragment], self._out[self.fragment :]
        return (b"\x40" if self._out else b"\x00") + piece

    def _derive(self) -> None:
        connection, kind = self._connection, bytes((self.method,))
        if connection.get_protocol_version_name() == "TLSv1.3":
            block = connection.export_keying_material(b"EXPORTER_EAP_TLS_Key_Material", 128, kind)
            tail = connection.export_keying_material(b"EXPORTER_EAP_TLS_Method-Id", 64, kind)
        else:
            block = connection.export_keying_material(_LABELS[self.method], 128)
            tail = connection.client_random() + connection.server_random()
        self.msk, self.session_id = block[:64], kind + tail

    @property
    def resumed(self) -> bool:
        """Whether the session was resumed."""
        return bool(SSL._lib.SSL_session_reused(self._connection._ssl))

    def remembered(self) -> Any:
        """Return the session, for another login."""
        return self._connection.get_session()

    def tunnel(self) -> Any:
        """Return the TLS connection, for tests that want to misuse it."""
        return self._connection

    # -- Inside the tunnel --------------------------------------------------------------------

    def _inside(self, data: bytes) -> None:
        if self.method == TLS:
            assert data == b"\x00", data
            self.commitment = True
        elif self.method == PEAP:
            reply = self._peap(data)
            if reply:
                self._connection.sendall(reply)
        else:
            self._ttls(data)

    def _say_first(self) -> None:
        inner = self.inner
        assert inner is not None
        if inner.method == "pap":
            padded = inner.password.encode()
            padded += bytes(-len(padded) % 16)
            self._avps((0, 1, inner.name.encode()), (0, 2, padded))
        elif inner.method == "mschapv2":
            material = self._connection.export_keying_material(b"ttls challenge", 17)
            challenge, identifier = material[:16], material[16]
            response = self._mschap_response(challenge)
            self._avps(
                (0, 1, inner.name.encode()),
                (311, 11, challenge),
                (311, 25, bytes((identifier, 0)) + response[:-1]),
            )
        else:
            self._avps((0, 79, self.respond(0, IDENTITY, inner.name.encode())))

    def _ttls(self, data: bytes) -> None:
        found = dict(read_avps(data))
        if (311, 26) in found:
            if found[311, 26][1:43].decode() != self._waits_for_proof:
                raise RefusedError("the server's proof is wrong")
            self._proved = True
            return
        packet = found[0, 79]
        self._avps((0, 79, self.respond(packet[1], *self._inner_eap(packet[4], packet[5:]))))

    def _avps(self, *found: tuple[int, int, bytes]) -> None:
        self._connection.sendall(write_avps(*found))

    def _inner_eap(self, type_: int, data: bytes) -> tuple[int, bytes]:
        inner = self.inner
        assert inner is not None
        wanted = {"gtc": GTC, "eap-mschapv2": MSCHAPV2, "tls": TLS}[inner.method]
        if type_ == IDENTITY:
            return IDENTITY, inner.name.encode()
        if type_ != wanted:
            return NAK, bytes((wanted,))
        if type_ == GTC:
            self.prompts.append(data.decode())
            first = len(self.prompts) == 1
            return GTC, (inner.password if first else inner.answers.pop(0)).encode()
        if type_ == MSCHAPV2:
            return MSCHAPV2, self._mschapv2(data)
        if self._inner_tls is None:
            self._inner_tls = Peer(TLS, inner.context, fragment=self.fragment - 100)
        reply = self._inner_tls._tls(data)
        self._inner_key = self._inner_tls.msk
        return TLS, reply

    def _mschapv2(self, data: bytes) -> bytes:
        op, identifier = data[0], data[1]
        if op == 1:
            response = self._mschap_response(data[5:21])
            assert self.inner is not None
            body = bytes((49,)) + response + self.inner.name.encode()
            return struct.pack("!BBH", 2, identifier, 4 + len(body)) + body
        if op == 3:
            if data[4:46].decode() != self._waits_for_proof:
                raise RefusedError("the server's proof is wrong")
            self._proved = True
            return bytes((3,))
        return bytes((4,))

    def _mschap_response(self, challenge: bytes) -> bytes:
        inner = self.inner
        assert inner is not None
        own = hashlib.sha256(challenge).digest()[:16]
        digest = md4(inner.password.encode("utf-16-le"))
        account = inner.name.rsplit("\\", 1)[-1].encode()
        plain = hashlib.sha1(own + challenge + account).digest()[:8]
        response = _des3(digest, plain)
        twice = md4(digest)
        inside = hashlib.sha1(
            twice + response + b"Magic server to client signing constant"
        ).digest()
        self._waits_for_proof = (
            "S="
            + hashlib.sha1(inside + plain + b"Pad to make it do more than one iteration")
            .hexdigest()
            .upper()
        )
        master = hashlib.sha1(twice + response + b"This is the MPPE Master Key").digest()[:16]
        self._inner_key = b"".join(
            hashlib.sha1(master + bytes(40) + magic + b"\xf2" * 40).digest()[:16]
            for magic in (_SEND, _RECEIVE)
        )
        return own + bytes(8) + response + b"\x00"

    # -- PEAP ---------------------------------------------------------------------------------

    def _peap(self, data: bytes) -> bytes:
        if len(data) > 4 and data[0] == 1 and data[4] == EXTENSIONS:
            return self._extensions(data[1], data[5:])
        type_, reply = self._inner_eap(data[0], data[1:])
        return bytes((type_,)) + reply

    def _extensions(self, identifier: int, data: bytes) -> bytes:
        result, binding = 0, b""
        while data:
            kind, length = struct.unpack("!HH", data[:4])
            value, tlv, data = data[4 : 4 + length], data[: 4 + length], data[4 + length :]
            if kind & 0x3FFF == 3:
                result = int.from_bytes(value)
            elif kind & 0x3FFF == 12:
                binding = tlv
        answer = struct.pack("!HHH", 0x8003, 2, result)
        assert self.inner is not None
        if result == 1 and binding and self.inner.binding:
            answer += self._bind(binding)
        return self.respond(identifier, EXTENSIONS, answer)

    def _bind(self, tlv: bytes) -> bytes:
        isk = self._inner_key[:32].ljust(32, b"\x00")
        made = prf_plus(self.msk[:40], b"Inner Methods Compound Keys" + isk, 60)
        ipmk, cmk = made[:40], made[40:]
        if hmac.digest(cmk, tlv[:40] + bytes(20) + b"\x19", "sha1") != tlv[40:]:
            raise RefusedError("the crypto-binding is wrong")
        block = prf_plus(ipmk, b"Session Key Generating Function\x00", 128)
        self.msk = block[:64]
        own = tlv[:4] + bytes((0, 0, 0, 1)) + hashlib.sha256(tlv).digest()
        return own + hmac.digest(cmk, own + bytes(20) + b"\x19", "sha1")


def prf_plus(key: bytes, seed: bytes, length: int) -> bytes:
    """Return octets as PEAP version 0 makes them."""
    made, last = b"", b""
    for counter in range(1, length // 20 + 2):
        last = hmac.digest(key, last + seed + bytes((counter, 0, 0)), "sha1")
        made += last
    return made[:length]


def write_avps(*found: tuple[int, int, bytes]) -> bytes:
    """Return AVPs (vendor, code, data)."""
    octets = b""
    for vendor, code, data in found:
        body = (vendor.to_bytes(4) if vendor else b"") + data
        flags = 0xC0 if vendor else 0x40
        octets += struct.pack("!II", code, flags << 24 | (8 + len(body))) + body
        octets += bytes(-len(octets) % 4)
    return octets


def read_avps(octets: bytes) -> list[tuple[tuple[int, int], bytes]]:
    """Return what write_avps wrote."""
    found = []
    while octets:
        code, rest = struct.unpack("!II", octets[:8])
        length = rest & 0xFFFFFF
        if rest >> 31:
            found.append(((int.from_bytes(octets[8:12]), code), octets[12:length]))
        else:
            found.append(((0, code), octets[8:length]))
        octets = octets[length + -length % 4 :]
    return found


def _des3(digest: bytes, plain: bytes) -> bytes:
    padded = digest + bytes(5)
    result = b""
    for at in (0, 7, 14):
        bits = "".join(f"{octet:08b}" for octet in padded[at : at + 7])
        key = bytes(int(bits[i : i + 7] + "0", 2) for i in range(0, 56, 7))
        encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
        result += encryptor.update(plain)
    return result


def md4(octets: bytes) -> bytes:
    """Return the MD4 of at most a few hundred octets (RFC 1320)."""
    a0, b0, c0, d0 = 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476
    data = octets + b"\x80"
    data += bytes((56 - len(data)) % 64) + struct.pack("<Q", len(octets) * 8)
    for at in range(0, len(data), 64):
        words = struct.unpack("<16I", data[at : at + 64])
        a, b, c, d = a0, b0, c0, d0
        for step in range(48):
            turn, place = divmod(step, 16)
            if turn == 0:
                mixed, constant, word = (b & c) | (~b & d), 0, place
                shift = (3, 7, 11, 19)[place % 4]
            elif turn == 1:
                mixed, constant = (b & c) | (b & d) | (c & d), 0x5A827999
                word, shift = place % 4 * 4 + place // 4, (3, 5, 9, 13)[place % 4]
            else:
                mixed, constant = b ^ c ^ d, 0x6ED9EBA1
                word = int(f"{place:04b}"[::-1], 2)
                shift = (3, 9, 11, 15)[place % 4]
            total = (a + mixed + words[word] + constant) & 0xFFFFFFFF
            a, d, c, b = d, c, b, (total << shift | total >> (32 - shift)) & 0xFFFFFFFF
        a0, b0 = (a0 + a) & 0xFFFFFFFF, (b0 + b) & 0xFFFFFFFF
        c0, d0 = (c0 + c) & 0xFFFFFFFF, (d0 + d) & 0xFFFFFFFF
    return struct.pack("<4I", a0, b0, c0, d0)
