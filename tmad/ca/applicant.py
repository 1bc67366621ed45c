"""Step 1 of the pipeline: who is asking, and how that was shown.

RFC 8894, 2.3, 2.4 and 3.3.1 for SCEP's three kinds of signer; the same rules serve every
protocol. A credential is believed here or nowhere.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.names import kind_of, text_of
from tmad.ca.record import Standing, spki_der
from tmad.ca.requests import Challenge, EnrollmentRequest, Intent, NoCredential, SignedBy
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.credentials import EnrollSecrets
from tmad.identity.webhook import Question, Webhooks
from tmad.storage import certificates
from tmad.storage.certificates import CertificateRow
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import EnrollSecret

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.status import StatusSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The certificate that is to be followed by a new one."""

    row: CertificateRow
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Whoever asks, as far as it was shown; ``is_proven`` False leaves it to a person."""

    name: str
    method: str  # "challenge", "webhook", "certificate", "operator", "nobody"
    is_proven: bool
    secret: EnrollSecret | None = None
    renews: Renewed | None = None
    sid: str = ""

    @property
    def standing(self) -> Standing:
        """Return what a pending request keeps."""
        return Standing(
            applicant=self.name,
            method=self.method,
            secret_id=self.secret.id if self.secret else "",
            renews_id=self.renews.row.id if self.renews else 0,
        )


class Authenticator:
    """Believes credentials, or does not."""

    def __init__(
        self,
        *,
        database: Database,
        hierarchy: Hierarchy,
        status: StatusSource,
        secrets: EnrollSecrets,
        webhooks: Webhooks | None,
        now: Clock,
    ) -> None:
        self._database = database
        self._hierarchy = hierarchy
        self._status = status
        self._secrets = secrets
        self._webhooks = webhooks
        self._now = now

    async def authenticate(self, request: EnrollmentRequest, endpoint: Endpoint) -> Applicant:
        """Return who is asking; Fault(UNAUTHENTICATED) with the rule that said no."""
        credential = request.credential
        match credential:
            case NoCredential():
                return self._nobody(request, endpoint)
            case Challenge():
                return await self._challenge(credential.secret, request, endpoint)
            case SignedBy():
                return await self._signer(credential, request, endpoint)
        # An operator does not come through an endpoint (GEN-20: dispatch by allow-list).
        raise refuse("credential.kind", "this kind of credential is not accepted here")

    def _nobody(self, request: EnrollmentRequest, endpoint: Endpoint) -> Applicant:
        if request.intent is Intent.RENEW:
            raise refuse("renewal.signer", "a renewal needs the certificate that it renews")
        if "manual" not in endpoint.document.authenticate:
            raise refuse(
                "credential.none",
                "a credential is required",
                accepted=", ".join(endpoint.document.authenticate),
            )
        return Applicant(name="nobody", method="nobody", is_proven=False)

    async def _challenge(
        self, secret: Secret | None, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        if not secret:
            return self._nobody(request, endpoint)
        if request.intent is Intent.RENEW:
            # SCEP-42: a challenge enrols; it does not prove the holder of a certificate.
            raise refuse("renewal.signer", "a renewal needs the certificate that it renews")
        accepted = endpoint.document.authenticate
        if "challenge" not in accepted and "webhook" not in accepted:
            return self._nobody(request, endpoint)
        policy = endpoint.document.challenge
        door = str(endpoint.id)
        self._secrets.admit(door, request.peer, policy)
        try:
            return await self._believe(secret, request, endpoint)
        except Fault as fault:
            if fault.code is FaultCode.UNAUTHENTICATED:
                await self._secrets.note_failure(door, endpoint.tenant, request.peer, policy)
            raise

    async def _believe(
        self, secret: Secret, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        door = str(endpoint.id)
        document = endpoint.document
        if "challenge" in document.authenticate:
            try:
                found = await self._database.lookup(
                    self._secrets.find, door, self._secrets.digest(door, secret)
                )
            except Fault as fault:
                if fault.rule != "secret.wrong" or "webhook" not in document.authenticate:
                    raise
            else:
                return Applicant(
                    name=f"secret:{found.id}", method="challenge", is_proven=True, secret=found
                )
        if self._webhooks is None or document.webhook is None:
            raise refuse("webhook.absent", "the challenge was not accepted", endpoint=door)
        question = Question(
            endpoint=door,
            transaction=request.transaction,
            subject=request.subject.rfc4514_string(),
            names=tuple(f"{kind_of(name)}:{text_of(name)}" for name in request.names),
            csr_pem=_pem(request.evidence),
            challenge=secret,
        )
        await self._webhooks.check(document.webhook, question)
        return Applicant(name=f"webhook:{door}", method="webhook", is_proven=True)

    async def _signer(
        self, credential: SignedBy, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        certificate = credential.certificate
        if _is_self_signed(certificate):
            if request.intent is Intent.RENEW:
                # RFC 8894, 2.4: a self-signed certificate authenticates nobody.
                raise refuse("renewal.self-signed", "a self-signed certificate renews nothing")
            if _spki(certificate) != spki_der(request):
                # RFC 8894, 2.3 (SCEP-43)
                raise Fault(
                    FaultCode.BAD_PROOF,
                    "the message is signed with another key than the request",
                    rule="signer.key",
                )
            return await self._challenge(credential.challenge, request, endpoint)
        try:
            return await self._renewal(certificate, endpoint, request.intent)
        except Fault as fault:
            # SCEP-42: who holds a certificate of ours may still enrol anew by challenge; Apple
            # devices renew with a first-enrolment message that repeats their old challenge.
            if request.intent is Intent.RENEW or not credential.challenge:
                raise
            if fault.code is not FaultCode.UNAUTHENTICATED and fault.rule != "renewal.window":
                raise
        return await self._challenge(credential.challenge, request, endpoint)

    async def _renewal(
        self, certificate: x509.Certificate, endpoint: Endpoint, intent: Intent
    ) -> Applicant:
        renewal = endpoint.document.renewal
        if not renewal.enabled or (intent is Intent.ENROLL and not renewal.via_enroll):
            raise refuse("renewal.disabled", "this endpoint does not renew so")
        row = await self._database.lookup(
            certificates.by_sha256,
            endpoint.tenant,
            hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
        )
        if row is None:
            raise refuse(
                "renewal.foreign",
                "the signer's certificate was not issued here",
                issuer=certificate.issuer.rfc4514_string(),
            )
        await self._check_renewal(row, endpoint)
        renews = Renewed(row=row, certificate=certificate)
        check_window(renews, renewal.window_days, timedelta(0), self._now())
        return Applicant(
            name=f"certificate:{row.id}", method="certificate", is_proven=True, renews=renews
        )

    async def _check_renewal(self, row: CertificateRow, endpoint: Endpoint) -> None:
        document = endpoint.document
        renewal = document.renewal
        issuer = await self._hierarchy.by_id(row.issuer_id)
        authorities = renewal.authorities or (document.authority,)
        if issuer.tenant != endpoint.tenant or issuer.authority not in authorities:
            raise refuse(
                "renewal.authority",
                "certificates of this authority are not renewed here",
                authority=issuer.authority,
                accepted=", ".join(authorities),
            )
        profiles = renewal.profiles or (document.profile,)
        if row.profile not in profiles:
            # Else any certificate of the CA would turn into one of this endpoint's.
            raise refuse(
                "renewal.profile",
                "certificates of this profile are not renewed here",
                profile=row.profile,
                accepted=", ".join(profiles),
            )
        status = await self._status.of(row.issuer_id, row.serial)
        if status.state != "good":
            raise refuse("renewal.revoked", "the certificate is not good", status=status.state)
        self._check_period(row, timedelta(days=renewal.grace_days))

    def _check_period(self, row: CertificateRow, grace: timedelta) -> None:
        now = self._now()
        if not row.not_before <= now <= row.not_after + grace:
            raise refuse(
                "renewal.expired",
                "the certificate is not valid now",
                not_after=row.not_after.isoformat(),
                grace=str(grace),
                now=now.isoformat(),
            )


def check_window(
    renews: Renewed, endpoint_days: int | None, profile_window: timedelta, now: datetime
) -> None:
    """Raise Fault(REJECTED) when it is too early to renew; the narrower window counts."""
    windows = [w for w in (profile_window,) if w]
    if endpoint_days is not None:
        windows.append(timedelta(days=endpoint_days))
    if not windows:
        return
    opens = renews.row.not_after - min(windows)
    if now < opens:
        raise Fault(
            FaultCode.REJECTED,
            "it is too early to renew this certificate",
            rule="renewal.window",
            values={"opens": opens.isoformat(), "now": now.isoformat()},
        )


def refuse(rule: str, detail: str, **values: str) -> Fault:
    """Return the Fault for somebody who was not believed."""
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(evidence: bytes) -> str:
    try:
        return x509.load_der_x509_csr(evidence).public_bytes(Encoding.PEM).decode()
    except ValueError:
        # CRMF and the like have no PEM label of their own.
        return ""
