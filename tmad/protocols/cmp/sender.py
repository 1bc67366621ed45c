"""Who sent a message, as far as its protection shows it (RFC 9810, 5.1.3; RFC 9483, 3.2)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509

from tmad.ca.requests import SignedBy
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.credentials import refusal
from tmad.protocols.cmp import protection
from tmad.protocols.cmp.codec import Header, Message
from tmad.protocols.cmp.protection import MAC
from tmad.protocols.cmp.salts import Protected, Salts
from tmad.signer.workers import Workers
from tmad.wire import cms, crmf, der, parsing, signatures
from tmad.wire.cms import Random

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmp.visit import Visit
    from tmad.storage.enroll_secrets import EnrollSecret

_MOST_CERTIFICATES: Final = 20
_CERTIFICATES_KEPT: Final = 200
_NULL_DN: Final = crmf.general_name(x509.Name([]))
_STRICT_SALT: Final = 16  # CVE-2024-36066


@dataclass(frozen=True, slots=True, kw_only=True)
class MACSender:
    """Whoever knows a shared secret; ``key`` is what came of it for this message."""

    reference: bytes
    row: EnrollSecret
    secret: Secret
    mac: MAC
    key: Secret

    @property
    def identity(self) -> bytes:
        """Return what must stay the same throughout a transaction."""
        return self.mac.kind.encode() + b"\0" + hashlib.sha256(self.reference).digest()

    def is_secret(self, secret: Secret) -> bool:
        """Tell whether the message was protected with this secret."""
        return hmac.compare_digest(secret.reveal(), self.secret.reveal())


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureSender:
    """Whoever holds the key of a certificate, which nobody has judged yet."""

    certificate: x509.Certificate
    certificate_der: bytes
    chain: tuple[x509.Certificate, ...]

    @property
    def identity(self) -> bytes:
        """Return what must stay the same throughout a transaction."""
        return b"signature\0" + self.sha256

    @property
    def sha256(self) -> bytes:
        """Return the digest of the certificate."""
        return hashlib.sha256(self.certificate_der).digest()

    @property
    def is_self_signed(self) -> bool:
        """Tell whether the certificate is of the sender's own making."""
        return cms.is_self_issued(self.certificate_der)

    @property
    def shown(self) -> SignedBy:
        """Return it as the core's credential."""
        return SignedBy(self.certificate, chain=self.chain)


Sender: TypeAlias = MACSender | SignatureSender


def check_same(identity: bytes, sender: Sender) -> None:
    """Refuse a message that is not protected like the rest of its transaction (RFC 9483, 3.2)."""
    if hmac.compare_digest(identity, sender.identity):
        return
    kinds = {identity.partition(b"\0")[0], sender.identity.partition(b"\0")[0]}
    if len(kinds) == 2 and b"signature" in kinds:
        raise _changed("kind", "the transaction was begun with the other kind of protection")
    if len(kinds) == 2:
        raise _changed("changed", "the transaction was begun with another kind of MAC")
    raise _changed("other", "the transaction belongs to somebody else")


def _changed(rule: str, detail: str) -> Fault:
    return Fault(FaultCode.BAD_INTEGRITY, detail, rule=f"cmp.protection.{rule}")


class Senders:
    """Finds out who sent a message."""

    def __init__(self, services: Services, workers: Workers | None, random: Random) -> None:
        """``workers`` derive keys that take long; None: they are derived on the spot."""
        self._services = services
        self._workers = workers
        self._salts = Salts(self._derive, random, services.now)
        self._deriving: set[str] = set()  # peers

    async def of(self, visit: Visit, message: Message) -> Sender:
        """Return who protected a message.

        Fault(BAD_ALGORITHM) or BAD_INTEGRITY for a protection that is none, UNAUTHENTICATED for
        a wrong secret.
        """
        algorithm, claimed = message.header.protection, message.protection
        if algorithm is None or claimed is None:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "messages must be protected, with a shared secret or a signature",
                rule="cmp.protection.missing",
            )
        if protection.is_mac(algorithm):
            return await self._mac(visit, message, protection.read_mac(algorithm), claimed)
        return self._signature(visit, message)

    # -- shared secrets

    async def _mac(self, visit: Visit, message: Message, mac: MAC, claimed: bytes) -> MACSender:
        document = visit.endpoint.document
        header = message.header
        if "challenge" not in document.authenticate or not document.challenge.recoverable:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "this endpoint takes no shared secrets",
                rule="cmp.protection.mac",
                values={"authenticate": ", ".join(document.authenticate)},
            )
        reference = header.sender_kid or b""
        if not 1 <= len(reference) <= 64:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "senderKID must name the shared secret",
                rule="cmp.protection.reference",
            )
        if visit.options.strict:
            _check_strict(header, mac)
        secrets = self._services.secrets
        secrets.admit(visit.door, visit.peer, document.challenge)
        found = await self._services.database.lookup(
            secrets.shared,
            visit.endpoint.tenant,
            visit.door,
            reference.decode("ascii", "replace"),
        )
        # An unknown reference takes as long as a wrong secret.
        secret = Secret(token_bytes(20)) if found is None else found[1]
        key = self._salts.key_of(header.transaction, mac, secret)
        if key is None:
            key = await self._derive_for(visit.peer, mac, secret)
        is_right = mac.check(key, message.protected, claimed)
        if found is None or not is_right or found[0].revoked_at is not None:
            await secrets.note_failure(
                visit.door, visit.endpoint.tenant, visit.peer, document.challenge
            )
            raise refusal("secret.wrong", endpoint=visit.door)
        return MACSender(reference=reference, row=found[0], secret=secret, mac=mac, key=Secret(key))

    async def answering(self, transaction: bytes | None, sender: MACSender) -> Protected:
        """Return how an answer to this sender is protected."""
        return await self._salts.answering(
            transaction, sender.mac, sender.secret, sender.key.reveal()
        )

    async def _derive_for(self, peer: str, mac: MAC, secret: Secret) -> bytes:
        if not mac.is_long:
            return mac.key(secret)
        if peer in self._deriving:
            # T-CMP-02: who wants many rounds gets them one message at a time.
            raise Fault(
                FaultCode.RATE_LIMITED,
                "another key of this peer is being derived",
                retry_after=1,
                rule="cmp.protection.busy",
            )
        self._deriving.add(peer)
        try:
            return await self._derive(mac, secret)
        finally:
            self._deriving.discard(peer)

    async def _derive(self, mac: MAC, secret: Secret) -> bytes:
        if not mac.is_long or self._workers is None:
            return mac.key(secret)
        return await self._workers.run(lambda: mac.key(secret))

    # -- signatures

    def _signature(self, visit: Visit, message: Message) -> SignatureSender:
        header = message.header
        assert header.protection is not None
        assert message.protection is not None
        if len(message.extra) > _MOST_CERTIFICATES:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                f"there are more than {_MOST_CERTIFICATES} certificates",
                rule="cmp.protection.certificates",
            )
        loaded = [(octets, _load(octets)) for octets in message.extra]
        for certificate_der, certificate in loaded:
            if certificate is not None and _is_meant(header, certificate_der):
                break
        else:
            raise Fault(
                FaultCode.BAD_INTEGRITY,
                "the certificate of sender and senderKID is not among extraCerts",
                rule="cmp.protection.certificate",
            )
        try:
            key = parsing.key_of(certificate)
        except ValueError as error:
            raise Fault(
                FaultCode.BAD_ALGORITHM,
                "the signer's kind of key is not supported",
                private=str(error),
                rule="cmp.protection.algorithm",
            ) from None
        signatures.verify_whole(
            key, header.protection, message.protection, message.protected, visit.options.policy
        )
        _check_usage(certificate)
        chain = tuple(found for _, found in loaded if found is not None and found != certificate)
        return SignatureSender(
            certificate=certificate, certificate_der=certificate_der, chain=chain
        )


def _check_strict(header: Header, mac: MAC) -> None:
    """Check what RFC 9483, 3.1 asks of a MAC's sender, and CVE-2024-36066 of its salt."""
    common_name = x509.NameAttribute(
        x509.NameOID.COMMON_NAME, (header.sender_kid or b"").decode("ascii", "replace")
    )
    if header.sender != crmf.general_name(x509.Name([common_name])):
        raise Fault(
            FaultCode.BAD_INTEGRITY,
            "the sender's common name must be the reference that senderKID names",
            rule="cmp.protection.sender",
        )
    if len(mac.salt) < _STRICT_SALT:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            f"the MAC's salt has fewer than {_STRICT_SALT} octets",
            rule="cmp.protection.algorithm",
        )


@lru_cache(_CERTIFICATES_KEPT)
def _load(certificate_der: bytes) -> x509.Certificate | None:
    """Parse what came along; None for what is no certificate, which helps nobody.

    Who enrols sends the same certificates twice, and a registration authority all day long.
    """
    try:
        return parsing.certificate(certificate_der)
    except ValueError:
        return None


def _is_meant(header: Header, certificate_der: bytes) -> bool:
    """Tell whether the header means this certificate (RFC 9483, 3.1).

    The sender may be the NULL-DN, and senderKID is left out where the certificate has no
    identifier; OpenSSL does both.
    """
    try:
        subject = der.explicit(4, cms.subject_of(certificate_der))
        identifier = cms.key_identifier(certificate_der)
    except Fault:
        return False
    if header.sender not in (_NULL_DN, subject):
        return False
    if header.sender_kid is None:
        return True
    return identifier is None or hmac.compare_digest(identifier, header.sender_kid)


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return
    except parsing.UNREADABLE:
        raise _not_for_signing() from None
    if not usage.value.digital_signature:
        raise _not_for_signing()


def _not_for_signing() -> Fault:
    return Fault(
        FaultCode.UNAUTHENTICATED,
        "the signer's certificate is not for signatures",
        rule="signer.key-usage",
    )
