"""WSTEP: from a message to its answer (MS-WSTEP 3.1.4.2)."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca.requests import (
    Credential,
    EnrollmentRequest,
    Intent,
    Issued,
    NoCredential,
    Outcome,
    Proof,
    SignedBy,
)
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep import codec, templates
from tmad.protocols.wstep.codec import Submission
from tmad.protocols.wstep.serving import serve
from tmad.protocols.wstep.visit import (
    Presenting,
    URLs,
    Visit,
    ask_for_ticket,
    certificates,
    respond,
)
from tmad.wire import cms, signatures
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_RENEWAL: Final = "renewal"  # the path for who shows nothing but the old certificate's signature


class WSTEPResponder:
    """Answers /wstep/LABEL, and /wstep/LABEL/renewal."""

    def __init__(self, services: Services, presenting: Presenting, urls: URLs) -> None:
        self._services = services
        self._presenting = presenting
        self._urls = urls

    async def respond(self, request: Request) -> Response:
        """Answer one message; whatever is wrong with it becomes a SOAP fault."""
        label, *rest = request.tail.decode("ascii", "replace").strip("/").split("/")
        if rest not in ([], [_RENEWAL]):
            return Response(status=404, body=b"there is no such service\n")
        answer = partial(self._answer, is_renewal=bool(rest))
        return await serve(self._services, request, label, answer, via="wstep")

    async def _answer(self, visit: Visit, *, is_renewal: bool) -> Response:
        credential = await self._presenting.credential(visit)
        if not is_renewal and self._presenting.asks_for_ticket(visit, credential):
            return ask_for_ticket()
        asked = codec.decode(visit.message, visit.options.policy)
        if isinstance(asked, codec.Query):
            outcome = await self._what_became_of(visit, asked, credential)
            return await self._tell(visit, outcome, number=asked.number)
        if is_renewal and asked.signer_der is None:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "a request here is signed with the certificate that it renews",
                rule="renewal.signer",
            )
        outcome = await self._enroll(visit, asked, credential)
        return await self._tell(visit, outcome)

    async def _enroll(self, visit: Visit, asked: Submission, credential: Credential) -> Outcome:
        await self._check_template(visit, asked)
        credential, intent = _by_signature(asked, credential)
        request = asked.csr
        digest = hashlib.sha256(request.der).hexdigest()
        return await self._services.authority.enroll(
            EnrollmentRequest(
                via="wstep",
                endpoint=visit.endpoint.id,
                public_key=request.public_key,
                subject=request.subject,
                names=request.names,
                wanted=request.wanted,
                proof=Proof.CSR_SIGNATURE,
                credential=credential,
                intent=intent,
                transaction=f"{intent.value}:{digest}",
                peer=visit.request.peer,
                selector=asked.template,
                evidence=request.der,
            )
        )

    async def _check_template(self, visit: Visit, asked: Submission) -> None:
        """Refuse a request that has another template in mind than the one of this endpoint."""
        document = visit.endpoint.document
        stored = await self._services.objects.load(
            visit.endpoint.tenant, "profile", document.profile
        )
        own = stored.document.extensions.ms_template_v2
        name = templates.name_of(visit.options, visit.endpoint)
        is_other_oid = own is not None and asked.template_oid not in ("", own.oid)
        if is_other_oid or asked.template.casefold() not in ("", name.casefold()):
            raise Fault(
                FaultCode.REJECTED,
                f"this address is for the template {name} alone; see the policy for the others",
                rule="wstep.template",
                values={
                    "asked": f"{asked.template} {asked.template_oid}".strip()[:255],
                    "template": f"{name} {own.oid if own else ''}".strip(),
                },
            )

    async def _what_became_of(
        self, visit: Visit, asked: codec.Query, credential: Credential
    ) -> Outcome:
        services, endpoint = self._services, visit.endpoint
        holder = await services.authority.identify(endpoint, credential, visit.request.peer)
        request_id = await services.request_numbers.find(str(endpoint.id), asked.number)
        return await services.authority.outcome(endpoint, request_id, holder)

    async def _tell(self, visit: Visit, outcome: Outcome, *, number: int = 0) -> Response:
        endpoint = visit.endpoint
        if isinstance(outcome, Issued):
            certificate_der = outcome.certificate.public_bytes(Encoding.DER)
            issuer = await self._services.hierarchy.by_id(outcome.issuer_id)
            chain = [each.public_bytes(Encoding.DER) for each in issuer.chain]
            # A SET OF in DER is sorted; the leaf alone stands in the answer as well.
            bundle = cms.degenerate(tuple(sorted((certificate_der, *chain))))
            shown = number or outcome.certificate_id % codec.LARGEST_NUMBER
            return respond(visit, codec.ANSWER, codec.issued(shown, certificate_der, bundle))
        number = number or await self._services.request_numbers.of(
            str(endpoint.id), outcome.request_id
        )
        url = self._urls.enrolment(visit.request, endpoint.id.label)
        status = await self._pending_status(visit, number)
        return respond(visit, codec.ANSWER, codec.pending(number, status, url))

    async def _pending_status(self, visit: Visit, number: int) -> bytes:
        """Return the signed CMC answer in which Windows finds that it has to wait."""
        own = await self._services.service_certificates.current("cmc", str(visit.endpoint.id))
        own_der = own.certificate.public_bytes(Encoding.DER)
        again_at = self._services.now() + timedelta(seconds=visit.options.retry_after)
        return await self._services.keyring.use(
            own.key_id,
            partial(
                cms.sign,
                certificate_der=own_der,
                content=codec.pending_status(number, again_at),
                digest=signatures.SHA256,
                certificates=(own_der,),
                content_type=codec.PKI_RESPONSE,
            ),
        )


def _by_signature(asked: Submission, credential: Credential) -> tuple[Credential, Intent]:
    """Return the credential that counts, and what it is for.

    The signature of the old certificate renews it, unless somebody shows who he is: what a
    ticket or a password proves is newer than a certificate.
    """
    if asked.signer_der is None or not isinstance(credential, NoCredential | SignedBy):
        return credential, Intent.ENROLL
    own, *above = certificates((asked.signer_der, *asked.chain_der))
    if isinstance(credential, SignedBy) and credential.certificate != own:
        raise Fault(
            FaultCode.BAD_PROOF,
            "the request is signed with another certificate than the one shown to TLS",
            rule="wstep.signer-mismatch",
        )
    return SignedBy(own, chain=tuple(above)), Intent.RENEW
