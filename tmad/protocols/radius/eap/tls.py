"""The TLS of EAP: contexts of one tenant, and one handshake on memory BIOs.

RFC 5216, 2.1 and 2.3; RFC 9190, 2.1 to 2.3 and 5.7; RFC 9427, 2.1. The order and the options
here were tried against eapol_test (spec, aaa-protocols, 1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, X509StoreFlags, dump_certificate
from twisted.logger import Logger

from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.service_records import ServiceCertificate
from tmad.ca.service_wishes import eap_scope
from tmad.ca.turns import Turns
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, utc_now
from tmad.network import reasons
from tmad.network.logins import Trusted
from tmad.protocols.radius.eap.hello import offered
from tmad.protocols.radius.eap.method import Chain, Keys
from tmad.signer.algorithms import KeyAlgorithm
from tmad.signer.keyring import Keyring
from tmad.storage.changes import Changes

log = Logger()

_READ: Final = 65_536 + 2048  # octets: all that one step can have written
_STAPLE_SECONDS: Final = 600.0
# How long what is in use is used without a look, while no change is heard of.
_ASK_SECONDS: Final = 60.0
# Whatever may change the server's certificate or the anchors of its clients.
_TOPICS: Final = ("issuers", "objects", "anchors", "service_certificates")
_CHAINS: Final = 4096
_SESSIONS: Final = 20_480  # as many as OpenSSL keeps
_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_DONE: Final = SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN
_MUST_SHOW: Final = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSRules:
    """How handshakes of one server are done."""

    # More than one kind of key lets the client choose; the first one is the usual one.
    keys: tuple[KeyAlgorithm, ...] = (KeyAlgorithm.P256,)
    lowest: str = "1.2"
    highest: str = "1.3"
    # TLS 1.2 with forward secrecy; CBC for supplicants of printers and scanners.
    ciphers: bytes = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"
    # TLS 1.3, the preferred first. Neither P-256 nor X25519 is worth more than 128 bits, and a key
    # schedule of SHA-256 takes a quarter of the time of one of SHA-384. A client of the 192-bit
    # mode of WPA3 offers nothing but the second.
    suites: bytes = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    # Seconds in which a session can be resumed: 0 is never, RFC 9190, 2.1.2 allows a week.
    resumption: int = 3600
    # Whether other workers ask which sessions are held here.
    is_shared: bool = False


Staple = Callable[[ServiceCertificate], Awaitable[bytes | None]]


@dataclass(slots=True)
class _Served:
    """A context and what belongs to it; replaced as a whole, never changed."""

    context: SSL.Context
    # What OpenSSL calls with its verdict on each certificate; it must live as long as handshakes.
    verdict: object = None
    chains: dict[bytes, Chain] = field(default_factory=dict)
    # The ids of those that can be resumed; None where nobody asks.
    sessions: dict[bytes, None] | None = None


class Engine:
    """Opens handshakes for one tenant; a certificate renewed or an anchor gone shows at once."""

    def __init__(
        self,
        tenant: str,
        host: str,
        certificates: ServiceCertificates,
        keyring: Keyring,
        changes: Changes,
        trust: Callable[[str], Awaitable[Trusted]],
        *,
        rules: TLSRules = TLSRules(),
        staple: Staple | None = None,
        now: Clock = utc_now,
    ) -> None:
        """``host`` is the name that supplicants look for.

        ``staple`` returns an OCSP response about a certificate of ours, in DER: anything else
        OpenSSL drops without a word.
        """
        self._tenant = tenant
        self._scopes = [eap_scope(tenant, host, algorithm) for algorithm in rules.keys]
        self._certificates = certificates
        self._keyring = keyring
        self._trust = trust
        self._rules = rules
        self._staple = staple
        self._now = now
        self._staples: dict[int, bytes] = {}
        self._stapled_at = float("-inf")
        self._asked_at = float("-inf")
        self._heard = 0  # rises with each change that may concern what is in use
        self._looked = -1  # what it was before the last look
        self._turns = Turns()
        self._changes = changes
        self._made_of: tuple[object, ...] = ()
        self._found: tuple[ServiceCertificate, ...] = ()
        self._mutual: _Served | None = None
        self._tunnel: _Served | None = None
        for topic in _TOPICS:
            changes.listen(topic, self._forget)
        changes.listen("status", self._on_status)

    async def mutual(self) -> Session:
        """Open a handshake in which the client must show a certificate."""
        await self._refresh()
        assert self._mutual is not None
        return Session(self._mutual)

    async def tunnel(self) -> Session:
        """Open a handshake that only the server's certificate takes part in.

        Its sessions are never resumed: that would skip the inner method (CVE-2017-9148).
        """
        await self._refresh()
        assert self._tunnel is not None
        return Session(self._tunnel)

    def missing(self, message: bytes) -> tuple[bytes, ...]:
        """Return the sessions that a ClientHello offers, if only another worker may hold them."""
        served = self._mutual
        if served is None or served.sessions is None:
            return ()
        ids = offered(message, speaks_13=self._rules.highest == "1.3")
        return () if self.holds(ids) else ids

    def holds(self, ids: Sequence[bytes]) -> bool:
        """Tell whether one of these TLS sessions was made here and can be resumed."""
        served = self._mutual
        sessions = served.sessions if served is not None else None
        return sessions is not None and any(each in sessions for each in ids)

    def _forget(self, key: str) -> None:
        self._heard += 1

    def _on_status(self, key: str) -> None:
        self._stapled_at = float("-inf")
        if any(each.status_key == key for each in self._found):
            self._heard += 1  # one that is revoked is followed by another

    async def _refresh(self) -> None:
        await self._changes.catch_up()
        if not self._is_fresh:
            # One look at a time: an older one must not undo a newer one, and whoever comes
            # while it lasts must not go on with what was in use before.
            async with self._turns:
                if not self._is_fresh:
                    heard, now = self._heard, monotonic()
                    await self._look()
                    self._looked, self._asked_at = heard, now
        if self._staple is not None and monotonic() - self._stapled_at > _STAPLE_SECONDS:
            await self._fetch_staples(self._staple)

    @property
    def _is_fresh(self) -> bool:
        return self._looked == self._heard and monotonic() - self._asked_at < _ASK_SECONDS

    async def _look(self) -> None:
        """Make new contexts if the old ones are made of something else."""
        trusted = await self._trust(self._tenant)
        found = await self._current()
        made_of = (trusted.version, *[certificate.id for certificate in found])
        if made_of != self._made_of:
            mutual, tunnel = self._context(trusted.certificates), self._context(None)
            sent: set[bytes] = set()
            for each in found:
                for context in (mutual, tunnel):
                    await self._keyring.use(each.key_id, partial(_show, context, each))
                    _show_issuers(context, each, sent)
                sent |= {_der(above) for above in each.chain[1:]}
            # Running handshakes keep the context that they began with.
            self._mutual = _Served(mutual, _tell_only_mistakes(mutual))
            self._tunnel = _Served(tunnel)
            if self._rules.is_shared and self._rules.resumption:
                self._mutual.sessions = {}
            self._made_of, self._found = made_of, found
            self._stapled_at = float("-inf")

    async def _current(self) -> tuple[ServiceCertificate, ...]:
        try:
            return tuple([await self._certificates.current("eap", scope) for scope in self._scopes])
        except Fault as fault:
            # What is in use stays in use while no other can be made.
            now = self._now()
            if not self._found or any(each.not_after <= now for each in self._found):
                raise
            log.warn("The EAP server's certificate: {fault}", fault=str(fault))
            return self._found

    async def _fetch_staples(self, staple: Staple) -> None:
        began = self._stapled_at = monotonic()
        staples: dict[int, bytes] = {}
        for each in self._found:
            try:
                answer = await staple(each)
            except Fault as fault:
                # A login without a staple is better than none (RFC 9190, 5.4: clients decide).
                log.warn("No OCSP staple for EAP: {fault}", fault=str(fault))
                continue
            if answer:
                staples[each.certificate.serial_number] = answer
        if began == self._stapled_at:  # else they are asked for anew, perhaps of others
            self._staples = staples

    def _context(self, anchors: tuple[x509.Certificate, ...] | None) -> SSL.Context:
        """Make a context; ``anchors`` None does not ask for a client certificate."""
        rules = self._rules
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(_VERSIONS[rules.lowest])
        context.set_max_proto_version(_VERSIONS[rules.highest])
        # Stateless tickets would carry the client's certificate, two each time: two round
        # trips more.
        context.set_options(
            SSL.OP_NO_TICKET
            | SSL.OP_NO_COMPRESSION
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list(rules.ciphers)
        context.set_tls13_ciphersuites(rules.suites)
        if self._staple is not None:
            context.set_ocsp_server_callback(self._stapled)
        if anchors is None:
            context.set_session_id(b"tmad eap tunnel")
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            return context
        store = context.get_cert_store()
        assert store is not None
        for anchor in anchors:
            store.add_cert(X509.from_cryptography(anchor))
        # Each anchor ends a path, also one below a root (RFC 5280, 6.1.1 d).
        store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
        context.set_verify(_MUST_SHOW, _note)
        # Mandatory: without it a second login in TLS 1.3 fails and none in 1.2 is resumed.
        context.set_session_id(b"tmad eap-tls")
        if rules.resumption:
            context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
            context.set_timeout(rules.resumption)
        else:
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        return context

    def _stapled(self, connection: SSL.Connection, data: object) -> bytes:
        if len(self._staples) > 1:
            chosen = connection.get_certificate(as_cryptography=True)
            return self._staples.get(chosen.serial_number, b"") if chosen else b""
        return next(iter(self._staples.values()), b"")


def _show(context: SSL.Context, found: ServiceCertificate, key: Any) -> None:
    # The key stays inside the context: OpenSSL in the wheel cannot reach one in an HSM.
    context.use_certificate(found.certificate)
    context.use_privatekey(key)
    context.check_privatekey()


def _show_issuers(context: SSL.Context, found: ServiceCertificate, sent: set[bytes]) -> None:
    for above in found.chain[1:]:
        # A root is trusted or it is not; sending it only costs fragments.
        if above.subject != above.issuer and _der(above) not in sent:
            context.add_extra_chain_cert(above)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass(slots=True)
class _Path:
    """What was wrong when OpenSSL checked a client's certificates."""

    error: int = 0
    certificate: X509 | None = None


def _note(connection: SSL.Connection, certificate: X509, error: int, depth: int, good: int) -> bool:
    path: _Path = connection.get_app_data()
    if not good:
        path.error, path.certificate = error, certificate
    return bool(good)


def _tell_only_mistakes(context: SSL.Context) -> object:
    """Have ``_note`` hear of nothing that is right; return what is to be kept meanwhile.

    OpenSSL asks at each certificate of a path, and pyOpenSSL makes an object of each: a
    twentieth of a handshake. What is raised in here is taken for a refusal.
    """
    assert context._verify_helper is not None  # set_verify was called
    told = context._verify_helper.callback

    def verdict(good: int, store: object) -> int:
        return 1 if good else int(told(good, store))

    callback = Binding.ffi.callback("int (*)(int, X509_STORE_CTX *)", verdict)
    Binding.lib.SSL_CTX_set_verify(context._context, _MUST_SHOW, callback)
    return callback


class Session:
    """One handshake and, once it is done, its tunnel."""

    def __init__(self, served: _Served) -> None:
        self._served = served
        self._connection = connection = SSL.Connection(served.context, None)
        connection.set_accept_state()
        self._path = _Path()
        connection.set_app_data(self._path)
        self.version = ""

    @property
    def is_13(self) -> bool:
        """Whether it is TLS 1.3; known once the handshake is done."""
        return self.version == "TLSv1.3"

    @property
    def cipher(self) -> str:
        """Return the cipher suite."""
        return self._connection.get_cipher_name() or ""

    @property
    def is_resumed(self) -> bool:
        """Whether the client showed no certificate, but was remembered."""
        return bool(Binding.lib.SSL_session_reused(self._connection._ssl))

    def receive(self, data: bytes) -> None:
        """Take octets from the peer."""
        self._connection.bio_write(data)

    def handshake(self) -> bool:
        """Go on with the handshake; tell whether it is done.

        Raise Fault(UNAUTHENTICATED) when it has failed; ``pending`` may then hold an alert.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise self._fault(error) from None
        self.version = self._connection.get_protocol_version_name()
        return True

    def pending(self) -> bytes:
        """Return what is to be sent, perhaps nothing."""
        try:
            return self._connection.bio_read(_READ)
        except SSL.WantReadError:
            return b""

    def read(self) -> bytes:
        """Return what the peer sent through the tunnel, perhaps nothing."""
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._connection.recv(16_384))
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return b"".join(pieces)
        except SSL.Error as error:
            raise self._fault(error) from None

    def write(self, data: bytes) -> None:
        """Send something through the tunnel."""
        try:
            self._connection.sendall(data)
        except SSL.Error as error:
            raise self._fault(error) from None

    def chain(self) -> Chain:
        """Return the client's certificate and what it was verified by, the anchor last.

        A resumed session knows only the first one; the others are remembered from before.
        """
        connection = self._connection
        leaf = connection.get_peer_certificate()
        if leaf is None:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the client showed no certificate",
                rule="network.no-certificate",
            )
        known = dump_certificate(FILETYPE_ASN1, leaf)
        chains = self._served.chains
        chain = chains.get(known)
        if chain is None:
            above = connection.get_verified_chain(as_cryptography=True)
            if above is None:
                sent = connection.get_peer_cert_chain(as_cryptography=True) or ()
                above = [leaf.to_cryptography(), *sent]
            if len(chains) >= _CHAINS:
                chains.clear()
            chain = chains[known] = tuple(above)
        return chain

    def finish(self) -> None:
        """Let the session be resumed; one that is dropped without this never is."""
        sessions = self._served.sessions
        if sessions is not None and (session_id := _session_id(self._connection)):
            if len(sessions) >= _SESSIONS:
                del sessions[next(iter(sessions))]
            sessions[session_id] = None
        # OpenSSL would take the missing close_notify for an attack and forget the session.
        self._connection.set_shutdown(_DONE)

    def close(self) -> None:
        """Free it, whoever still holds this object; nothing else may be called afterwards."""
        del self._connection

    def keys(self, type_: int, label: bytes, *, has_id: bool) -> Keys:
        """Return the keys; ``label`` is that of TLS 1.2 (RFC 5216, 2.3; RFC 9427, 2.1).

        The EMSK, their second half, is used by nobody.
        """
        session_id = self._session_id(type_) if has_id else b""
        if self.is_13:
            # All 128 octets: the length goes into the derivation.
            block = self._connection.export_keying_material(
                b"EXPORTER_EAP_TLS_Key_Material", 128, bytes((type_,))
            )
            return Keys(block[:64], session_id)
        return Keys(self._connection.export_keying_material(label, 64), session_id)

    def _session_id(self, type_: int) -> bytes:
        connection, type_octet = self._connection, bytes((type_,))
        if self.is_13:
            return type_octet + connection.export_keying_material(
                b"EXPORTER_EAP_TLS_Method-Id", 64, type_octet
            )
        client, server = connection.client_random(), connection.server_random()
        assert client is not None
        assert server is not None
        return type_octet + client + server

    def export(self, label: bytes, length: int) -> bytes:
        """Return keying material without a context."""
        return self._connection.export_keying_material(label, length)

    def _fault(self, error: SSL.Error) -> Fault:
        if self._path.error:
            return self._path_fault()
        found = [str(entry[2]) for entry in error.args[0]] if error.args else []
        reason = found[0] if found else "for no reason that is known"
        if "alert" in reason:
            return reasons.peer_alert(reason)
        if "did not return a certificate" in reason:
            return Fault(
                FaultCode.UNAUTHENTICATED,
                "the client showed no certificate",
                rule="network.no-certificate",
            )
        return Fault(
            FaultCode.UNAUTHENTICATED,
            f"the TLS handshake failed: {reason}",
            rule="eap.tls",
            values={"reason": ", ".join(found)},
        )

    def _path_fault(self) -> Fault:
        fault = reasons.verification(self._path.error, "")
        if self._path.certificate is not None:
            certificate = self._path.certificate.to_cryptography()
            fault.values |= {
                "subject": _name(certificate.subject),
                "issuer": _name(certificate.issuer),
                "serial": f"{certificate.serial_number:x}",
            }
        return fault


def _session_id(connection: SSL.Connection) -> bytes:
    """Return what a client will call this session by: in TLS 1.3, of two the newest name.

    pyOpenSSL has no word for it, so it is read from OpenSSL's own form of a session:
    SEQUENCE { two INTEGERs, cipher OCTET STRING, id OCTET STRING, … }.
    """
    session = connection.get_session()
    if session is None:
        return b""
    library, foreign = Binding.lib, Binding.ffi
    length = library.i2d_SSL_SESSION(session._session, foreign.NULL)
    octets = foreign.new("unsigned char[]", length)
    library.i2d_SSL_SESSION(session._session, foreign.new("unsigned char **", octets))
    found = foreign.buffer(octets)
    at = 2 + max(0, found[1][0] - 0x80)  # behind the head of the SEQUENCE
    for _ in range(3):
        at += 2 + found[at + 1][0]
    session_id: bytes = found[at + 2 : at + 2 + found[at + 1][0]]
    found[:] = bytes(length)  # the keys, too, are there
    return session_id


def _name(name: x509.Name) -> str:
    try:
        return name.rfc4514_string()[:500]
    except (ValueError, TypeError):  # a BIT STRING where text belongs
        return "unreadable"
