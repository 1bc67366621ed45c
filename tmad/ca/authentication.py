"""Step 1 of the pipeline: who is asking, and how that was shown.

RFC 8894, 2.3, 2.4 and 3.3.1 for SCEP's three kinds of signer; the same rules serve every
protocol. A credential is believed here or nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_bytes
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.accounts import Accounts, owner_of
from tmad.ca.acme import control
from tmad.ca.applicant import PERSON, Applicant, refuse
from tmad.ca.holders import Holders
from tmad.ca.manufacturers import Manufacturers
from tmad.ca.names import kind_of, text_of
from tmad.ca.record import spki_der
from tmad.ca.requests import (
    Challenge,
    Credential,
    DomainControl,
    EnrollmentRequest,
    Intent,
    Kerberos,
    NoCredential,
    Password,
    SharedKey,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.active_directory import Account, Principal
from tmad.identity.credentials import EnrollSecrets, refusal
from tmad.identity.login import Accepted, Logins
from tmad.identity.naming import person_key
from tmad.identity.webhook import Question, Webhooks
from tmad.storage import people
from tmad.storage.database import Database
from tmad.storage.enroll_secrets import EnrollSecret
from tmad.storage.people import PersonRow
from tmad.storage.requests import RequestRow
from tmad.wire import csr

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy

_BY_PASSWORD = frozenset({"password", "challenge", "directory", "webhook"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a name with a password, or a MAC, has shown so far.

    ``identity`` is empty for any other credential. ``secret`` is in whatever state: somebody
    who has used it up may still hear what came of it.
    """

    identity: str = ""
    secret: EnrollSecret | None = None
    person: PersonRow | None = None
    listed: Account | None = None
    method: str = "password"


_NOTHING = Proven()


class Authenticator:
    """Believes credentials, or does not."""

    def __init__(
        self,
        *,
        database: Database,
        hierarchy: Hierarchy,
        secrets: EnrollSecrets,
        webhooks: Webhooks | None,
        now: Clock,
        logins: Logins | None = None,
        manufacturers: Manufacturers | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self._database = database
        self._now = now
        self._secrets = secrets
        self._webhooks = webhooks
        self._logins = logins
        self._accounts = accounts
        self._holders = Holders(
            database=database,
            hierarchy=hierarchy,
            now=now,
            manufacturers=manufacturers,
            accounts=accounts,
        )

    @property
    def holders(self) -> Holders:
        """Return who judges certificates that somebody has shown to hold."""
        return self._holders

    # -- before it is looked up whether the request was made before ----------------------------

    async def prove(self, request: EnrollmentRequest, endpoint: Endpoint) -> Proven:
        """Check what stands beside the request: a password or a MAC; Fault(UNAUTHENTICATED).

        A copy of an earlier request gets that one's answer, and nobody else may have it: so
        these are checked first, each time. A signer's key is part of what makes a copy.
        """
        credential = request.credential
        password = _password(request, endpoint)
        if password is None and not isinstance(credential, SharedKey | Kerberos):
            return _NOTHING
        self._secrets.admit(str(endpoint.id), request.peer, endpoint.document.challenge)
        try:
            if isinstance(credential, SharedKey):
                return await self._shared_key(credential, endpoint)
            if isinstance(credential, Kerberos):
                return await self._ticket(credential, endpoint)
            assert password is not None
            return await self._basic(password, request.peer, endpoint)
        except Fault as fault:
            await self._count(fault, request.peer, endpoint)
            raise

    async def _shared_key(self, credential: SharedKey, endpoint: Endpoint) -> Proven:
        if "challenge" not in endpoint.document.authenticate:
            raise refuse("credential.kind", "this kind of credential is not accepted here")
        if credential.proven is not None:
            return Proven(identity=f"secret:{credential.proven.id}", secret=credential.proven)
        found = await self._database.lookup(
            self._secrets.shared,
            endpoint.tenant,
            str(endpoint.id),
            credential.reference.decode("ascii", "replace"),
        )
        # An unknown reference takes as long as a wrong secret.
        secret = Secret(token_bytes(20)) if found is None else found[1]
        verdict = credential.verify(secret)
        is_right = verdict if isinstance(verdict, bool) else await verdict
        if found is None or not is_right:
            raise refusal("secret.wrong", endpoint=str(endpoint.id))
        return Proven(identity=f"secret:{found[0].id}", secret=found[0])

    async def _ticket(self, ticket: Kerberos, endpoint: Endpoint) -> Proven:
        document = endpoint.document
        if "kerberos" not in document.authenticate:
            raise refuse("credential.kind", "this kind of credential is not accepted here")
        principal = Principal(name=ticket.principal, sid=ticket.sid)
        if document.directory and self._accounts is not None:
            found = await self._accounts.by_principal(endpoint, principal)
            return Proven(identity=owner_of(endpoint, found), listed=found, method="kerberos")
        if principal.realm not in document.people.realms:
            raise refuse(
                "kerberos.realm",
                "the ticket is of another realm",
                principal=principal.name[:255],
                accepted=", ".join(document.people.realms),
            )
        person = await self._database.lookup(
            people.by_name, endpoint.tenant, person_key(principal.user)
        )
        if person is None or not person.is_usable(self._now()):
            raise refuse(
                "kerberos.person",
                "the credential was not accepted",
                principal=principal.name[:255],
            )
        _check_groups(person, endpoint)
        return Proven(identity=f"{PERSON}{person.name}", person=person, method="kerberos")

    async def _basic(self, password: Password, peer: str, endpoint: Endpoint) -> Proven:
        accepted = endpoint.document.authenticate
        door = str(endpoint.id)
        digest = self._secrets.digest(door, password.password)
        if "challenge" in accepted:
            found = await self._secrets.presented(door, digest)
            if found is not None:
                return Proven(identity=f"secret:{found.id}", secret=found)
        if "password" in accepted and self._logins is not None:
            outcome = await self._logins.begin(
                tenant=endpoint.tenant,
                name=password.user,
                password=password.password,
                rules=endpoint.document.login,
                source=peer,
                via=door,
            )
            # The endpoint's rules have no mode that asks a second question.
            assert isinstance(outcome, Accepted)
            _check_groups(outcome.person, endpoint)
            return Proven(identity=f"{PERSON}{outcome.person.name}", person=outcome.person)
        if "directory" in accepted and self._accounts is not None:
            listed = await self._accounts.by_password(endpoint, password.user, password.password)
            return Proven(identity=owner_of(endpoint, listed), listed=listed, method="directory")
        if "webhook" in accepted:
            # The outside service is asked once; until then nobody is believed.
            return Proven(identity=f"claimed:{digest.hex()}")
        raise refusal("secret.wrong", endpoint=door)

    # -- where no certificate is asked for ----------------------------------------------------

    async def identify(self, credential: Credential, peer: str, endpoint: Endpoint) -> str:
        """Return who shows a credential, "nobody" without one; Fault(UNAUTHENTICATED)."""
        match credential:
            case NoCredential():
                return "nobody"
            case SignedBy():
                return await self._holders.recognise(credential, endpoint)
            case Password() | Kerberos():
                self._secrets.admit(str(endpoint.id), peer, endpoint.document.challenge)
                try:
                    if isinstance(credential, Kerberos):
                        return (await self._ticket(credential, endpoint)).identity
                    return (await self._basic(credential, peer, endpoint)).identity
                except Fault as fault:
                    await self._count(fault, peer, endpoint)
                    raise
        raise refuse("credential.kind", "this kind of credential is not accepted here")

    # -- afterwards ---------------------------------------------------------------------------

    async def authenticate(
        self, request: EnrollmentRequest, endpoint: Endpoint, proven: Proven = _NOTHING
    ) -> Applicant:
        """Return who is asking; Fault(UNAUTHENTICATED) with the rule that said no."""
        if proven.identity:
            return await self._proven(proven, request, endpoint)
        credential = request.credential
        match credential:
            case NoCredential():
                return self._nobody(request, endpoint)
            case Challenge():
                return await self._challenge(credential.secret, request, endpoint)
            case Password():
                # No password is accepted here, so this one says nothing.
                return self._nobody(request, endpoint)
            case SignedBy():
                return await self._signer(credential, request, endpoint)
            case DomainControl():
                return await self._account(credential, request, endpoint)
        # An operator does not come through an endpoint (GEN-20: dispatch by allow-list).
        raise refuse("credential.kind", "this kind of credential is not accepted here")

    async def _proven(
        self, proven: Proven, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        renews = None
        if request.intent is Intent.RENEW:
            if proven.person is None:
                raise refuse("renewal.signer", "a renewal needs the certificate that it renews")
            renews = await self._holders.of_person(proven.person, request.subject, endpoint)
        if proven.person is not None:
            return Applicant(
                name=f"{PERSON}{proven.person.name}",
                method=proven.method,
                is_proven=True,
                person=proven.person.name,
                account=proven.person,
                renews=renews,
            )
        if proven.listed is not None:
            return Applicant(
                name=proven.identity,
                method=proven.method,
                is_proven=True,
                sid=proven.listed.sid,
                listed=proven.listed,
            )
        if proven.secret is not None:
            self._secrets.check_usable(proven.secret)
            return _by_secret(proven.secret)
        password = _password(request, endpoint)
        assert password is not None
        try:
            return await self._ask_outside(password.password, request, endpoint)
        except Fault as fault:
            await self._count(fault, request.peer, endpoint)
            raise

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
        self._secrets.admit(str(endpoint.id), request.peer, endpoint.document.challenge)
        try:
            return await self._believe(secret, request, endpoint)
        except Fault as fault:
            await self._count(fault, request.peer, endpoint)
            raise

    async def _count(self, fault: Fault, peer: str, endpoint: Endpoint) -> None:
        """Count what was not believed: whoever fails too often has to wait."""
        if fault.code is FaultCode.UNAUTHENTICATED:
            await self._secrets.note_failure(
                str(endpoint.id), endpoint.tenant, peer, endpoint.document.challenge
            )

    async def _believe(
        self, secret: Secret, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        door = str(endpoint.id)
        document = endpoint.document
        if "challenge" in document.authenticate:
            try:
                found = await self._secrets.find(door, self._secrets.digest(door, secret))
            except Fault as fault:
                if fault.rule != "secret.wrong" or "webhook" not in document.authenticate:
                    raise
            else:
                return _by_secret(found)
        return await self._ask_outside(secret, request, endpoint)

    async def _ask_outside(
        self, secret: Secret, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        door = str(endpoint.id)
        document = endpoint.document
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

    async def _account(
        self, credential: DomainControl, request: EnrollmentRequest, endpoint: Endpoint
    ) -> Applicant:
        """Believe an account as far as its order goes, by what the database says now."""
        if "acme" not in endpoint.document.authenticate:
            raise refuse("credential.kind", "this kind of credential is not accepted here")
        if request.transaction != credential.order:
            raise refuse("acme.order.transaction", "the request is not that of the order")
        found = await self._database.lookup(
            control.read, str(endpoint.id), credential.account, credential.order, self._now()
        )
        found.check_request(request.subject, request.names, spki_der(request))
        return Applicant(name=found.name, method="acme", is_proven=True, control=found)

    async def holder_of(self, row: RequestRow, endpoint: Endpoint) -> Applicant:
        """Return whose order waited for a person, as far as it is good now."""
        account = row.applicant.partition(":")[2]
        found = await self._database.read(
            _read_waiting, row.endpoint, account, row.transaction, self._now()
        )
        return Applicant(name=found.name, method="acme", is_proven=True, control=found)

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
            return await self._holders.of(credential, request.intent, endpoint)
        except Fault as fault:
            # SCEP-42: who holds a certificate of ours may still enrol anew by challenge; Apple
            # devices renew with a first-enrolment message that repeats their old challenge.
            if request.intent is Intent.RENEW or not credential.challenge:
                raise
            if fault.code is not FaultCode.UNAUTHENTICATED and fault.rule != "renewal.window":
                raise
        return await self._challenge(credential.challenge, request, endpoint)


def _read_waiting(
    connection: Connection, endpoint: str, account: str, order: str, now: datetime
) -> control.Control:
    return control.read(connection, endpoint, account, order, now, is_claimed=True)


def _password(request: EnrollmentRequest, endpoint: Endpoint) -> Password | None:
    """Return the password that is to be judged.

    Beside a certificate it counts for a first enrolment only: the certificate renews.
    """
    if _BY_PASSWORD.isdisjoint(endpoint.document.authenticate):
        return None
    match request.credential:
        case Password() as given:
            return given
        case SignedBy(password=Password() as given) if request.intent is Intent.ENROLL:
            return given
    return None


def _check_groups(person: PersonRow, endpoint: Endpoint) -> None:
    groups = {group.casefold() for group in endpoint.document.people.groups}
    if groups and groups.isdisjoint(group.casefold() for group in person.groups):
        raise Fault(
            FaultCode.FORBIDDEN,
            "this person may not enrol here",
            rule="person.groups",
            values={"person": person.name, "groups": ", ".join(sorted(groups))},
        )


def _by_secret(found: EnrollSecret) -> Applicant:
    return Applicant(name=f"secret:{found.id}", method="challenge", is_proven=True, secret=found)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(evidence: bytes) -> str:
    try:
        return csr.pem(evidence)
    except Fault:
        # CRMF and the like have no PEM label of their own.
        return ""
