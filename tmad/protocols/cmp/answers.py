"""Answers on their way out: headers, protection, and refusals that can be believed.

RFC 9810, 5.1.1 and 5.1.3; RFC 9483, 3.1, 3.2 and 3.6. An answer is protected like its request;
where nobody was authenticated it is signed, so that a client can believe at least the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault
from tmad.protocols.cmp import bodies, codec, protection
from tmad.protocols.cmp.bodies import Reply
from tmad.protocols.cmp.codec import VERSIONS, Body, Header
from tmad.protocols.cmp.sender import MACSender, Sender, Senders
from tmad.wire import cms, crmf, der
from tmad.wire.cms import Random
from tmad.wire.signatures import Algorithm

if TYPE_CHECKING:
    from tmad.ca.service_records import ServiceCertificate
    from tmad.plugin import Services
    from tmad.protocols.cmp.visit import Visit

NONCE: Final = 16  # octets (RFC 9810, 5.1.1)
_NULL_DN: Final = crmf.general_name(x509.Name([]))
_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Signer:
    """Our own certificate for messages, in the pieces that answers need."""

    key_id: str
    certificate_der: bytes
    chain: tuple[bytes, ...]  # the certificate first, without the root
    name: bytes  # GeneralName
    key_identifier: bytes | None
    algorithm: Algorithm

    @classmethod
    def of(cls, found: ServiceCertificate) -> Signer:
        """Encode what stays the same as long as the certificate does."""
        certificate_der = found.certificate.public_bytes(Encoding.DER)
        return cls(
            key_id=found.key_id,
            certificate_der=certificate_der,
            chain=(certificate_der, *chain_of(found.chain[1:])),
            name=der.explicit(4, cms.subject_of(certificate_der)),
            key_identifier=cms.key_identifier(certificate_der),
            algorithm=protection.algorithm_of(found.certificate.public_key()),
        )


@dataclass(frozen=True, slots=True)
class Sealed:
    """An answer as it leaves, and the nonce in it that the next message must repeat."""

    octets: bytes
    nonce: bytes


@lru_cache(_KEPT)
def chain_of(chain: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    """Return the certificates between a certificate and its root, which nobody should be sent."""
    return tuple(each.public_bytes(Encoding.DER) for each in chain if each.issuer != each.subject)


@lru_cache(_KEPT)
def roots_of(chain: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    """Return the roots in a chain."""
    return tuple(each.public_bytes(Encoding.DER) for each in chain if each.issuer == each.subject)


class Answers:
    """Protects answers."""

    def __init__(self, services: Services, senders: Senders, random: Random) -> None:
        self._services = services
        self._senders = senders
        self._random = random
        self._signers: dict[int, tuple[ServiceCertificate, Signer]] = {}

    async def signer(self, visit: Visit) -> Signer:
        """Return what signs at an endpoint; UNAVAILABLE when its authority cannot certify it."""
        found = await self._services.service_certificates.current("cmp", visit.door)
        kept = self._signers.get(found.id)
        # Not its id alone: above it an authority may have got another certificate.
        if kept is None or kept[0] is not found:
            if len(self._signers) >= _KEPT:
                self._signers.clear()
            kept = self._signers[found.id] = found, Signer.of(found)
        return kept[1]

    async def seal(
        self, visit: Visit, request: Header, reply: Reply, sender: Sender | None
    ) -> Sealed:
        """Return a reply to ``request``, protected like it; signed where ``sender`` is None."""
        if isinstance(sender, MACSender):
            return await self._under_secret(visit, request, reply, sender)
        signer = await self.signer(visit)
        header = self._header(
            request,
            reply,
            sender=signer.name,
            protection=signer.algorithm,
            sender_kid=signer.key_identifier,
        )
        header_der, body_der = codec.encode_header(header), reply.encode()
        value = await self._sign(signer, der.sequence(header_der, body_der))
        extra = tuple(dict.fromkeys((*signer.chain, *reply.extra)))
        return _sealed(header, codec.encode(header_der, body_der, value, extra))

    async def _under_secret(
        self, visit: Visit, request: Header, reply: Reply, sender: MACSender
    ) -> Sealed:
        shared = await self._senders.answering(request.transaction, sender)
        try:
            name = (await self.signer(visit)).name
        except Fault:
            # What is protected without a key of ours does not wait for one: only its name is not
            # known (RFC 9483, 3.1: then it is the NULL-DN).
            name = _NULL_DN
        header = self._header(
            request,
            reply,
            sender=name,
            protection=shared.algorithm,
            sender_kid=request.sender_kid,
        )
        header_der, body_der = codec.encode_header(header), reply.encode()
        value = shared.mac.of(shared.key.reveal(), der.sequence(header_der, body_der))
        return _sealed(header, codec.encode(header_der, body_der, value, reply.extra))

    async def _sign(self, signer: Signer, protected: bytes) -> bytes:
        def sign(key: PrivateKeyTypes) -> bytes:
            return protection.sign(key, protected)

        return await self._services.keyring.use(signer.key_id, sign)

    def unprotected(self, request: Header, reply: Reply) -> bytes:
        """Return a reply for when there is nothing to protect it with."""
        header = self._header(request, reply)
        return codec.encode(codec.encode_header(header), reply.encode(), None)

    def _header(
        self,
        request: Header,
        reply: Reply,
        *,
        sender: bytes = _NULL_DN,
        protection: Algorithm | None = None,
        sender_kid: bytes | None = None,
    ) -> Header:
        return Header(
            version=3 if reply.needs_2021 else nearest_version(request.version),
            sender=sender,
            recipient=request.sender,
            time=self._services.now(),
            protection=protection,
            sender_kid=sender_kid,
            transaction=request.transaction,
            sender_nonce=self._random(NONCE),
            recipient_nonce=request.sender_nonce,
            info=reply.info,
        )


def _sealed(header: Header, octets: bytes) -> Sealed:
    assert header.sender_nonce is not None
    return Sealed(octets, header.sender_nonce)


def nearest_version(version: int) -> int:
    """Return the pvno that we speak and that is closest to a client's (RFC 9810, 7)."""
    return min(max(version, VERSIONS[0]), VERSIONS[-1])


def words_of(fault: Fault) -> str:
    """Return what a refusal says to people, with the id that explains it."""
    return f"{fault.detail} [{fault.explain_id}]" if fault.explain_id else fault.detail


def error(fault: Fault) -> Reply:
    """Return the error message that tells a Fault."""
    status = bodies.rejection(codec.fail_info(fault), words_of(fault))
    return Reply(body=Body.ERROR, content=bodies.error(status))
