"""Who sent a request, as far as signatures, MACs and proofs show it (RFC 10002, 3.2 and 6.2).

Three things can be known of a sender, and they are kept apart: the certificate whose key signed,
the shared secret that was proved, and that a request's own key signed. Which of them helps is the
pipeline's question.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from datetime import timedelta
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509

from tmad.ca.requests import Challenge, Credential, NoCredential, SharedKey, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.credentials import refusal
from tmad.protocols.cmc import codec, controls, layers, requests, witnesses
from tmad.protocols.cmc.codec import CRMFRequest, PKCS10Request, PKIData
from tmad.protocols.cmc.layers import Shown
from tmad.signer.workers import Workers
from tmad.wire import authenticated, cms, der, parsing
from tmad.wire.authenticated import AuthenticatedData
from tmad.wire.cms import SignedData, SignerInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tmad.plugin import Services
    from tmad.protocols.cmc.controls import Witness
    from tmad.protocols.cmc.visit import Visit
    from tmad.storage.enroll_secrets import EnrollSecret

Found: TypeAlias = "tuple[EnrollSecret, Secret] | None"

_CMC_RA: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
_LONGEST_REFERENCE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSecret:
    """A shared secret that somebody has shown to know, and the name it goes by."""

    reference: str
    secret: Secret
    row: EnrollSecret = field(repr=False)

    def is_secret(self, secret: Secret) -> bool:
        """Tell whether this is the secret."""
        return hmac.compare_digest(secret.reveal(), self.secret.reveal())

    @property
    def password(self) -> Secret:
        """Return what AuthenticatedData is made with."""
        return _password(self.reference, self.secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sent one PKIData. ``key`` is the digest of a request's own key that signed it.

    ``is_whole``: whoever it is stands behind the controls, too, not only behind the requests.
    """

    shown: SignedBy | None = None
    certificate_der: bytes = field(default=b"", repr=False)
    is_authority: bool = False
    is_whole: bool = False
    known: KnownSecret | None = None
    key: bytes = b""

    @property
    def identity(self) -> bytes:
        """Return what is the same for each message of somebody."""
        if self.known is not None:
            return b"secret\0" + self.known.reference.encode()
        if self.shown is not None:
            return b"signature\0" + hashlib.sha256(self.certificate_der).digest()
        return b"key\0" + self.key

    def credential(self, challenge: Secret | None) -> Credential:
        """Return it as the core's credential; ``challenge`` stands in the request itself."""
        if self.known is not None:
            known = self.known
            return SharedKey(known.reference.encode(), known.is_secret, known.row)
        if self.shown is not None:
            return SignedBy(self.shown.certificate, challenge, self.shown.chain)
        return NoCredential() if challenge is None else Challenge(challenge)

    @property
    def is_anybody(self) -> bool:
        """Tell whether nothing at all was shown."""
        return self.shown is None and self.known is None and not self.key


class Senders:
    """Finds out who sent a request; every check of a signature is here."""

    def __init__(self, services: Services, workers: Workers | None) -> None:
        """``workers`` derive keys of passwords; None: they are derived on the spot."""
        self._services = services
        self._workers = workers

    async def of_signed(self, visit: Visit, layer: SignedData) -> tuple[PKIData, Sender]:
        """Return what was signed and who signed it.

        Fault(BAD_INTEGRITY) for a wrong signature, UNAUTHENTICATED for a certificate that is not
        good here, FORBIDDEN for a registration authority without the purpose.
        """
        signer = layers.the_signer(layer)
        if signer is None:
            return codec.decode(layers.content_of(layer)), Sender()
        self._check_time(visit, signer)
        if layers.is_unsigned(signer):
            layers.check_digest(layer, signer, visit.options.policy)
            return codec.decode(layers.content_of(layer)), Sender()
        shown = layers.certificate_of(layer, signer)
        if shown is None:
            return self._by_request(visit, layer, signer)
        cms.verify(layer, signer, shown.certificate.public_key(), visit.options.policy)
        layers.check_usage(shown.certificate)
        sender = await self._by_certificate(visit, shown)
        most = codec.BATCH_ELEMENTS if sender.is_authority else codec.ELEMENTS
        return codec.decode(layers.content_of(layer), elements=most), sender

    def _by_request(
        self, visit: Visit, layer: SignedData, signer: SignerInfo
    ) -> tuple[PKIData, Sender]:
        """Check a signature by the key of one of the requests (RFC 10002, 3.2)."""
        data = codec.decode(layers.content_of(layer))
        identifier = signer.identifier
        if isinstance(identifier, bytes):
            for request in data.requests:
                if not isinstance(request, PKCS10Request | CRMFRequest):
                    continue
                wish = requests.read(request, visit.options.policy)
                if wish.is_named(identifier):
                    cms.verify(layer, signer, wish.public_key, visit.options.policy)
                    return data, Sender(key=hashlib.sha256(wish.spki).digest())
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "neither a certificate of the message nor a key of its requests is the signer's",
            rule="cmc.signer",
        )

    async def _by_certificate(self, visit: Visit, shown: Shown) -> Sender:
        signed = SignedBy(shown.certificate, chain=shown.chain)
        if cms.is_self_issued(shown.der):
            # A key of its own making: the pipeline asks for more.
            return Sender(shown=signed, certificate_der=shown.der)
        authority = self._services.authority
        await authority.recognise(visit.endpoint, signed)
        is_authority = await authority.is_registration_authority(visit.endpoint, signed)
        if is_authority and not _is_for_authorities(shown.certificate):
            # RFC 10002, 8.1: the certificate says so, and the endpoint, too.
            raise Fault(
                FaultCode.FORBIDDEN,
                "a registration authority's certificate has the purpose id-kp-cmcRA",
                rule="cmc.ra.purpose",
                values={"signer": shown.certificate.subject.rfc4514_string()[:255]},
            )
        return Sender(
            shown=signed, certificate_der=shown.der, is_authority=is_authority, is_whole=True
        )

    def _check_time(self, visit: Visit, signer: SignerInfo) -> None:
        window = visit.options.clock_window
        if not window:
            return
        value = signer.attribute(cms.SIGNING_TIME)
        at = None if value is None else der.instant(value)
        now = self._services.now()
        if at is None or abs(at - now) > timedelta(seconds=window):
            raise Fault(
                FaultCode.BAD_TIME,
                "the message was signed at another time, or does not say when; check the clock",
                rule="cmc.time",
                values={"signingTime": str(at), "now": now.isoformat()},
            )

    # -- shared secrets -----------------------------------------------------------------------

    async def of_authenticated(
        self, visit: Visit, layer: AuthenticatedData
    ) -> tuple[PKIData, Sender]:
        """Return what was authenticated by a shared secret, and who knows it."""
        data = codec.decode(layers.content_of(layer))
        reference = _reference(data)

        found = await self._find(visit, reference)
        password = _password(reference, _or_random(found))
        is_right = await self._work(
            lambda: authenticated.is_made_with(layer, password, visit.options.policy)
        )
        known = await self._judged(visit, reference, found, is_right=is_right)
        return data, Sender(known=known, is_whole=True)

    async def by_proof(self, visit: Visit, data: PKIData, sender: Sender) -> Sender:
        """Return the sender with the shared secret that an identity proof shows, if there is one.

        It covers the requests and nothing else: no control is believed for it.
        """
        witness = _identity_proof(visit, data)
        if witness is None or sender.known is not None:
            return sender
        reference = _reference(data)
        policy = visit.options.policy
        found = await self._find(visit, reference)
        is_right = witnesses.is_identity(
            witness, _or_random(found), reference, data.requests_der, policy
        )
        known = await self._judged(visit, reference, found, is_right=is_right)
        return replace(sender, known=known)

    async def _find(self, visit: Visit, reference: str) -> Found:
        document = visit.endpoint.document
        if "challenge" not in document.authenticate or not document.challenge.recoverable:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "this endpoint takes no shared secrets",
                rule="cmc.identity.secret",
                values={"authenticate": ", ".join(document.authenticate)},
            )
        secrets = self._services.secrets
        secrets.admit(visit.door, visit.peer, document.challenge)
        found = await self._services.database.lookup(
            secrets.shared, visit.endpoint.tenant, visit.door, reference
        )
        if found is None or found[0].revoked_at is not None:
            return None
        return found

    async def _judged(
        self, visit: Visit, reference: str, found: Found, *, is_right: bool
    ) -> KnownSecret:
        if found is None or not is_right:
            await self._services.secrets.note_failure(
                visit.door, visit.endpoint.tenant, visit.peer, visit.endpoint.document.challenge
            )
            raise refusal("secret.wrong", endpoint=visit.door)
        row, secret = found
        return KnownSecret(reference=reference, secret=secret, row=row)

    async def _work(self, function: Callable[[], bool]) -> bool:
        if self._workers is None:
            return function()
        return await self._workers.run(function)

    async def seal(self, content: bytes, known: KnownSecret) -> bytes:
        """Return AuthenticatedData with a PKIData for whoever knows a secret."""

        def seal() -> bytes:
            return authenticated.seal(content, codec.PKI_DATA, known.password, random=token_bytes)

        if self._workers is None:
            return seal()
        return await self._workers.run(seal)


def _password(reference: str, secret: Secret) -> Secret:
    """Return what AuthenticatedData is made with (RFC 10002, 3.2)."""
    return Secret(reference.encode() + secret.reveal())


def _or_random(found: Found) -> Secret:
    """Return the secret: an unknown reference takes as long as a wrong secret."""
    return Secret(token_bytes(20)) if found is None else found[1]


def _reference(data: PKIData) -> str:
    """Return the name of the secret, which stands in the Identification control."""
    control = data.only(codec.IDENTIFICATION)
    reference = "" if control is None else controls.text(control)
    if not 1 <= len(reference) <= _LONGEST_REFERENCE:
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the Identification control must name the shared secret",
            rule="cmc.identity.name",
        )
    return reference


def _identity_proof(visit: Visit, data: PKIData) -> Witness | None:
    control = data.only(codec.IDENTITY_PROOF_V2)
    if control is not None:
        return controls.witness(control.value)
    control = data.only(codec.IDENTITY_PROOF)
    if control is None:
        return None
    if not visit.options.legacy:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the identity proof of version 1 is SHA-1; send version 2, or set options.legacy",
            rule="cmc.identity.algorithm",
        )
    return witnesses.old(controls.octets(control))


def _is_for_authorities(certificate: x509.Certificate) -> bool:
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except parsing.NO_EXTENSION:
        return False
    return _CMC_RA in purposes
