"""tls-alpn-01: a certificate shown to a protocol of its own (RFC 8737; RFC 8738, 6)."""

from __future__ import annotations

import ipaddress
from hashlib import sha256
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tmad.ca.validation.contract import Identifier, Problem, Question, refusal
from tmad.ca.validation.resolver import Address
from tmad.ca.validation.targets import FAILURES, Reach, in_words
from tmad.errors import Fault
from tmad.events import JSON
from tmad.wire.parsing import UNREADABLE

PROTOCOL: Final = b"acme-tls/1"
_GOODBYE: Final = 1.0  # seconds
ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


async def validate(question: Question, reach: Reach) -> dict[str, JSON]:
    """Return the record of a good certificate, or raise a refusal."""
    host, port = question.identifier.value, reach.rules.tls_port
    tried: list[JSON] = []
    failure: Fault | None = None
    for address in await reach.addresses(host, port):
        note: dict[str, JSON] = {"host": host, "port": port, "address": str(address)}
        tried.append(note)
        try:
            certificate = await _shown(question.identifier, address, port, reach)
        except (*FAILURES, SSL.Error, Fault) as error:
            note["failure"] = in_words(error)
            failure = failure or _trouble(error, host, port, str(address))
        else:
            check(certificate, question.identifier, question.key_authorization)
            return {"connections": tried}
    assert failure is not None  # a host without addresses is refused before
    raise failure


def _trouble(error: BaseException, host: str, port: int, address: str) -> Fault:
    if isinstance(error, Fault):
        return error
    return refusal(
        Problem.TLS if isinstance(error, SSL.Error) else Problem.CONNECTION,
        f"{host} at {address} port {port}: {in_words(error)}",
        host=host,
        address=address,
        port=str(port),
    )


def check(certificate: x509.Certificate, identifier: Identifier, key_authorization: str) -> None:
    """Refuse a certificate that is not the answer (RFC 8737, 3)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except x509.ExtensionNotFound:
        raise _wrong(identifier, "it lacks the extension acmeIdentifier or names") from None
    except UNREADABLE:
        raise _wrong(identifier, "its extensions cannot be read") from None
    if list(names) != [_name(identifier)]:
        raise _wrong(identifier, "it must have this one name and no other")
    if not found.critical:
        raise _wrong(identifier, "its extension acmeIdentifier must be critical")
    value: Any = found.value
    digest = sha256(key_authorization.encode()).digest()
    # OCTET STRING of 32 octets.
    if value.value != b"\x04\x20" + digest:
        raise _wrong(identifier, "acmeIdentifier is not the digest of the key authorisation")
    try:
        certificate.verify_directly_issued_by(certificate)
    except (*UNREADABLE, InvalidSignature):
        raise _wrong(identifier, "it must be signed by its own key") from None


def _name(identifier: Identifier) -> x509.GeneralName:
    if identifier.type == "ip":
        return x509.IPAddress(ipaddress.ip_address(identifier.value))
    return x509.DNSName(identifier.value)


def _wrong(identifier: Identifier, why: str) -> Fault:
    return refusal(
        Problem.INCORRECT_RESPONSE,
        f"the certificate that {identifier.value} shows to acme-tls/1 is not the answer: {why}",
        host=identifier.value,
    )


def server_name(identifier: Identifier) -> str:
    """Return what SNI says: an address as its name in the reverse tree (RFC 8738, 6)."""
    if identifier.type == "ip":
        return ipaddress.ip_address(identifier.value).reverse_pointer
    return identifier.value


async def _shown(
    identifier: Identifier, address: Address, port: int, reach: Reach
) -> x509.Certificate:
    conversation = _Handshake()
    await reach.connect(address, port, conversation, _Offer(server_name(identifier)))
    try:
        negotiated, certificate = await conversation.done.addTimeout(reach.left(), reach.reactor)
    finally:
        conversation.hang_up(reach.reactor)
    if negotiated != PROTOCOL:
        raise refusal(
            Problem.TLS,
            f"{identifier.value} at {address} port {port} does not speak acme-tls/1",
            host=identifier.value,
            address=str(address),
        )
    if certificate is None:
        raise _wrong(identifier, "it cannot be read")
    return certificate


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Waits for the end of a handshake and says nothing."""

    def __init__(self) -> None:
        self.done: Deferred[tuple[bytes, x509.Certificate | None]] = Deferred()
        self.is_complete = False

    def hang_up(self, reactor: Any) -> None:
        transport: Any = self.transport
        if transport is None:
            return
        if not self.is_complete:
            transport.abortConnection()
            return
        # The server gets the end of its handshake, and a moment to say goodbye.
        transport.loseConnection()
        reactor.callLater(_GOODBYE, transport.abortConnection)

    def handshakeCompleted(self) -> None:  # noqa: N802  Twisted's name
        if self.done.called:
            return
        self.is_complete = True
        transport: Any = self.transport
        connection: SSL.Connection = transport.getHandle()
        try:
            certificate = connection.get_peer_certificate(as_cryptography=True)
        except UNREADABLE:  # by cryptography, though OpenSSL has read it
            certificate = None
        self.done.callback((connection.get_alpn_proto_negotiated(), certificate))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self.done.called:
            self.done.errback(reason)


@implementer(IOpenSSLClientConnectionCreator)
class _Offer:
    """TLS 1.2 or newer that offers acme-tls/1 alone (RFC 8737, 3)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_verify(SSL.VERIFY_NONE)
        context.set_alpn_protos([PROTOCOL])
        connection = SSL.Connection(context, None)
        connection.set_tlsext_host_name(self._name.encode("ascii"))
        connection.set_connect_state()
        return connection
