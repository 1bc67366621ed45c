"""Answers on their way out: headers, protection, and refusals that can be believed.

RFC 9810, 5.1.1 and 5.1.3; RFC 9483, 3.1, 3.2 and 3.6. An answer is protected like its request;
where nobody was authenticated it is signed, so that a client can believe at least the refusal.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault
from tmad.events import Clock, Secret
from tmad.protocols.cmp import bodies, codec, protection
from tmad.protocols.cmp.bodies import Reply
from tmad.protocols.cmp.codec import VERSIONS, Body, Header
from tmad.protocols.cmp.protection import MAC
from tmad.protocols.cmp.sender import MACSender, Sender, Senders
from tmad.wire import cms, crmf, der
from tmad.wire.cms import Random
from tmad.wire.signatures import Algorithm

if TYPE_CHECKING:
    from tmad.ca.service_certificates import ServiceCertificate
    from tmad.plugin import Services
    from tmad.protocols.cmp.visit import Visit

NONCE: Final = 16  # octets (RFC 9810, 5.1.1)
_NULL_DN: Final = crmf.general_name(x509.Name([]))
_KEPT: Final = 1_000
_SALT_KEPT: Final = timedelta(minutes=10)
_SALTS_KEPT: Final = 1_000


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


def chain_of(chain: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    """Return the certificates between a certificate and its root, which nobody should be sent."""
    return tuple(each.public_bytes(Encoding.DER) for each in chain if each.issuer != each.subject)


class Answers:
    """Protects answers."""

    def __init__(self, services: Services, senders: Senders, random: Random) -> None:
        self._services = services
        self._own = _OwnSalts(senders, random, services.now)
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
        signer = await self.signer(visit)
        nonce = self._random(NONCE)
        is_mac = isinstance(sender, MACSender)
        mac, key = None, b""
        if isinstance(sender, MACSender):
            mac, key = await self._own.of(request.transaction, sender)
        header = Header(
            version=3 if reply.needs_2021 else nearest_version(request.version),
            sender=signer.name,
            recipient=request.sender,
            time=self._services.now(),
            protection=signer.algorithm if mac is None else mac.algorithm(),
            sender_kid=request.sender_kid if is_mac else signer.key_identifier,
            transaction=request.transaction,
            sender_nonce=nonce,
            recipient_nonce=request.sender_nonce,
            info=reply.info,
        )
        header_der, body_der = codec.encode_header(header), reply.encode()
        protected = der.sequence(header_der, body_der)
        if mac is not None:
            value = mac.of(key, protected)
            extra = reply.extra
        else:
            value = await self._sign(signer, protected)
            extra = tuple(dict.fromkeys((*signer.chain, *reply.extra)))
        return Sealed(codec.encode(header_der, body_der, value, extra), nonce)

    async def _sign(self, signer: Signer, protected: bytes) -> bytes:
        def sign(key: PrivateKeyTypes) -> bytes:
            return protection.sign(key, protected)

        return await self._services.keyring.use(signer.key_id, sign)

    def unprotected(self, request: Header, reply: Reply) -> bytes:
        """Return a reply for when there is nothing to protect it with."""
        header = Header(
            version=nearest_version(request.version),
            sender=_NULL_DN,
            recipient=request.sender,
            time=self._services.now(),
            transaction=request.transaction,
            sender_nonce=self._random(NONCE),
            recipient_nonce=request.sender_nonce,
        )
        return codec.encode(codec.encode_header(header), reply.encode(), None)


class _OwnSalts:
    """Salts of our own, with the keys that come of them: one for each transaction.

    RFC 9810, 5.1.3.1 recommends it; to derive a key takes longer than all else in an answer.
    """

    def __init__(self, senders: Senders, random: Random, now: Clock) -> None:
        self._senders = senders
        self._random = random
        self._now = now
        self._blind = token_bytes(32)
        self._known: OrderedDict[tuple[object, ...], tuple[datetime, MAC, Secret]] = OrderedDict()

    async def of(self, transaction: bytes | None, sender: MACSender) -> tuple[MAC, bytes]:
        """Return how an answer in a transaction is protected, and the key for that."""
        mac, now = sender.mac, self._now()
        digest = hashlib.sha256(self._blind + sender.secret.reveal()).digest()
        how = (mac.kind, mac.rounds, mac.hash_oid, mac.mac_algorithm, mac.key_length)
        name = (transaction, digest, *how)
        found = self._known.get(name)
        if found is not None and timedelta(0) <= now - found[0] < _SALT_KEPT:
            return found[1], found[2].reveal()
        own = mac.renewed(self._random)
        key = await self._senders.key_for(own, sender.secret)
        self._known[name] = now, own, Secret(key)
        self._known.move_to_end(name)
        if len(self._known) > _SALTS_KEPT:
            self._known.popitem(last=False)
        return own, key


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
