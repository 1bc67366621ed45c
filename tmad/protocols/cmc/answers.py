"""Answers on their way out: simple, full, signed (RFC 10002, 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault
from tmad.protocols.cmc import codec
from tmad.protocols.cmc.codec import Path, Status, StatusInfo
from tmad.wire import cms, der, signatures
from tmad.wire.signatures import Digest

if TYPE_CHECKING:
    from tmad.ca.service_records import ServiceCertificate
    from tmad.plugin import Services
    from tmad.protocols.cmc.visit import Visit

_KEPT: Final = 1_000

Pair: TypeAlias = tuple[bytes, bytes]  # a control's OID and value


@dataclass(slots=True, kw_only=True)
class Reply:
    """What is to be said about one PKIData, gathered while it is served.

    ``echoes`` are controls that repeat or follow the client's; ``messages`` numbered
    ContentInfos that controls refer to.
    """

    statuses: list[StatusInfo] = field(default_factory=list)
    echoes: list[Pair] = field(default_factory=list)
    controls: list[Pair] = field(default_factory=list)
    messages: list[tuple[int, bytes]] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    crls: list[bytes] = field(default_factory=list)
    has_old_status: bool = False
    must_be_full: bool = False

    @property
    def is_refusal(self) -> bool:
        """Tell whether nothing that was asked for was done."""
        bad = (Status.FAILED, Status.NO_SUPPORT)
        return bool(self.statuses) and all(each.status in bad for each in self.statuses)

    @property
    def is_simple(self) -> bool:
        """Tell whether certificates and CRLs say it all (RFC 10002, 3.2 and 4.1)."""
        return (
            not self.must_be_full
            and not self.echoes
            and not self.controls
            and not self.messages
            and bool(self.certificates or self.crls)
            and all(each.status is Status.SUCCESS for each in self.statuses)
        )

    def add(self, certificates: Sequence[bytes]) -> None:
        """Send certificates along, each once."""
        self.certificates += [each for each in certificates if each not in self.certificates]

    def encode(self) -> bytes:
        """Return the PKIResponse."""
        statuses = [(codec.STATUS_INFO_V2, each.encode()) for each in self.statuses]
        if self.has_old_status:
            statuses += [(codec.STATUS_INFO, each.encode_old()) for each in self.statuses]
        return codec.pki_response([*statuses, *self.echoes, *self.controls], self.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """A CMS message on its way out."""

    octets: bytes = field(repr=False)
    is_full: bool
    is_refusal: bool


@dataclass(frozen=True, slots=True)
class Signer:
    """Our own certificate for messages, in the pieces that answers need."""

    key_id: str
    certificate_der: bytes
    chain: tuple[bytes, ...]  # the certificate first, without the root
    digest: Digest

    @classmethod
    def of(cls, found: ServiceCertificate) -> Signer:
        """Encode what stays the same as long as the certificate does."""
        certificate_der = found.certificate.public_bytes(Encoding.DER)
        return cls(
            key_id=found.key_id,
            certificate_der=certificate_der,
            chain=(certificate_der, *chain_of(found.chain[1:])),
            digest=signatures.fitting_digest(found.certificate.public_key()),
        )


def chain_of(chain: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    """Return the certificates between a certificate and its root, which nobody should be sent."""
    return tuple(each.public_bytes(Encoding.DER) for each in chain if each.issuer != each.subject)


class Answers:
    """Signs answers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._signers: dict[int, tuple[ServiceCertificate, Signer]] = {}

    async def seal(self, visit: Visit, reply: Reply) -> Answer:
        """Return a reply as a simple answer where that says it all, else signed.

        Nobody may read anything from the order of certificates (RFC 10002, 4.1), so that it is the
        one of DER, which strict readers insist on.
        """
        if reply.is_simple:
            octets = cms.degenerate(sorted(reply.certificates), sorted(reply.crls))
            return Answer(octets, is_full=False, is_refusal=False)
        signer = await self._signer(visit)
        reply.add(signer.chain)
        if visit.options.envelopes:
            reply.add([await self._envelope_certificate(visit)])
        octets = await self._services.keyring.use(
            signer.key_id,
            partial(
                cms.sign,
                certificate_der=signer.certificate_der,
                content=reply.encode(),
                digest=signer.digest,
                attributes=[(cms.SIGNING_TIME, _signing_time(self._services.now()))],
                certificates=sorted(reply.certificates),
                crls=sorted(reply.crls),
                content_type=codec.PKI_RESPONSE,
            ),
        )
        return Answer(octets, is_full=True, is_refusal=reply.is_refusal)

    async def _signer(self, visit: Visit) -> Signer:
        found = await self._services.service_certificates.current("cmc", visit.door)
        kept = self._signers.get(found.id)
        # Not its id alone: above it an authority may have got another certificate.
        if kept is None or kept[0] is not found:
            if len(self._signers) >= _KEPT:
                self._signers.clear()
            kept = self._signers[found.id] = found, Signer.of(found)
        return kept[1]

    async def _envelope_certificate(self, visit: Visit) -> bytes:
        found = await self._services.service_certificates.current("scep-ra", visit.door)
        return found.certificate.public_bytes(Encoding.DER)


# What is left to say where no answer can be signed: nothing, and nobody has signed it (RFC
# 10002, 3.2.1.3.4).
UNSIGNED: Final = der.sequence(
    cms.SIGNED_DATA,
    der.explicit(
        0,
        der.sequence(
            der.integer(3), der.tlv(der.SET), der.sequence(codec.PKI_RESPONSE), der.tlv(der.SET)
        ),
    ),
)


def _signing_time(now: datetime) -> bytes:
    """Return a Time: UTCTime for as long as that can say it (RFC 5652, 11.3)."""
    if now.year >= 2050:
        return codec.generalized_time(now)
    return der.tlv(der.UTC_TIME, now.astimezone(UTC).strftime("%y%m%d%H%M%SZ").encode())


def refusal(fault: Fault, *parts: Path) -> StatusInfo:
    """Return the status that tells a Fault about body parts, with the id that explains it."""
    words = f"{fault.detail} [{fault.explain_id}]" if fault.explain_id else fault.detail
    status = Status.NO_SUPPORT if fault.rule in NOT_SUPPORTED else Status.FAILED
    return StatusInfo(
        status=status,
        parts=parts or ((codec.THIS,),),
        text=words,
        fail_info=codec.fail_info(fault) if status is Status.FAILED else None,
    )


# Known by name and not served: RFC 10002, 3.2.1 and 6.1.3.
NOT_SUPPORTED: Final = frozenset({"cmc.request.kind", "cmc.control.unsupported"})
