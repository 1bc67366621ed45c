"""XCEP: which templates there are for whoever asks (MS-XCEP 3.1.4)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

from tmad.ca.endpoint import object_name
from tmad.ca.requests import Credential, EndpointID, NoCredential
from tmad.errors import Fault, FaultCode
from tmad.protocols.wstep import policies, templates
from tmad.protocols.wstep.policies import Address, Authentication, Policies, Template
from tmad.protocols.wstep.serving import serve
from tmad.protocols.wstep.visit import (
    EndpointOptions,
    Presenting,
    URLs,
    Visit,
    ask_for_ticket,
    respond,
)
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.plugin import Services

# Of all policies of tmad: makes of an endpoint's name a GUID that stays.
_SPACE: Final = uuid.UUID("7d1f3f6e-52f1-4a6e-9a51-0d1f0c9e2b77")
_NOT_ALLOWED: Final = frozenset(
    {FaultCode.UNAUTHENTICATED, FaultCode.FORBIDDEN, FaultCode.RATE_LIMITED}
)


class PolicyResponder:
    """Answers /xcep/LABEL and the addresses that AD CS has for it."""

    def __init__(
        self, services: Services, presenting: Presenting, urls: URLs, *, default_label: str
    ) -> None:
        self._services = services
        self._presenting = presenting
        self._urls = urls
        self._default_label = default_label

    async def respond(self, request: Request) -> Response:
        """Answer at /xcep/LABEL."""
        return await self._respond(request, request.tail.decode("ascii", "replace").strip("/"))

    async def respond_default(self, request: Request) -> Response:
        """Answer where AD CS would."""
        if request.tail.strip(b"/"):
            return Response(status=404, body=b"there is no such service\n")
        return await self._respond(request, self._default_label)

    async def _respond(self, request: Request, label: str) -> Response:
        return await serve(self._services, request, label, self._answer, via="xcep")

    async def _answer(self, visit: Visit) -> Response:
        question = policies.decode(visit.message)
        credential = await self._presenting.credential(visit)
        if self._presenting.asks_for_ticket(visit, credential):
            return ask_for_ticket()
        await self._check_known(visit, credential)
        offered = await self._endpoints(visit)
        found = [
            (endpoint, await self._may_enrol(visit, credential, endpoint)) for endpoint in offered
        ]
        known = await self._policies(visit, found)
        changed = max([await self._changed_at(endpoint) for endpoint in offered])
        if question.last_update is not None and question.last_update >= changed:
            return respond(visit, policies.ANSWER, policies.unchanged(known))
        if question.oids is not None:
            known = replace(
                known,
                templates=[each for each in known.templates if each.oid in question.oids],
            )
        return respond(visit, policies.ANSWER, policies.encode(known))

    async def _check_known(self, visit: Visit, credential: Credential) -> None:
        """Raise Fault(UNAUTHENTICATED) for a stranger, unless strangers may ask for a person."""
        authority = self._services.authority
        await authority.identify(visit.endpoint, credential, visit.request.peer)
        if isinstance(credential, NoCredential) and not visit.accepts("manual"):
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "a credential is required",
                rule="credential.none",
                values={"accepted": ", ".join(visit.endpoint.document.authenticate)},
            )

    async def _endpoints(self, visit: Visit) -> list[Endpoint]:
        """Return the endpoints that are offered here; what is switched off is not there."""
        found = [visit.endpoint]
        for label in visit.options.together_with:
            try:
                other = await self._services.endpoints.by_id(EndpointID("wstep", label))
            except Fault as fault:
                if fault.code is not FaultCode.NOT_FOUND:
                    raise
                continue
            if other.tenant == visit.endpoint.tenant:
                found.append(other)
        return found

    async def _may_enrol(self, visit: Visit, credential: Credential, endpoint: Endpoint) -> bool:
        if _same_door(endpoint, visit.endpoint):
            return True
        try:
            await self._services.authority.identify(endpoint, credential, visit.request.peer)
        except Fault as fault:
            if fault.code not in _NOT_ALLOWED:
                raise
            return False
        return True

    async def _policies(self, visit: Visit, found: list[tuple[Endpoint, bool]]) -> Policies:
        label = visit.endpoint.id.label
        guid = uuid.uuid5(_SPACE, f"{visit.endpoint.tenant}/{label}")
        return Policies(
            id=f"{{{guid}}}",
            name=visit.options.policy_name or label,
            hours=visit.options.next_update_hours,
            templates=[
                await self._template(visit, endpoint, may_enrol) for endpoint, may_enrol in found
            ],
        )

    async def _template(self, visit: Visit, endpoint: Endpoint, may_enrol: bool) -> Template:
        document = endpoint.document
        profile = await self._services.objects.load(endpoint.tenant, "profile", document.profile)
        issuer = await self._services.hierarchy.active(endpoint.tenant, document.authority)
        return templates.template(
            endpoint,
            cast("EndpointOptions", endpoint.options),
            profile.document,
            issuer,
            tuple(self._addresses(visit, endpoint)),
            may_enrol=may_enrol,
        )

    def _addresses(self, visit: Visit, endpoint: Endpoint) -> Iterator[Address]:
        label = endpoint.id.label
        other = Visit(request=visit.request, endpoint=endpoint, message=visit.message)
        url = self._urls.enrolment(visit.request, label)
        if other.accepts("kerberos"):
            yield Address(Authentication.KERBEROS, url, 1, False)
        if other.accepts_passwords:
            yield Address(Authentication.PASSWORD, url, 2, False)
        if other.accepts("manual"):
            yield Address(Authentication.ANONYMOUS, url, 3, False)
        document = endpoint.document
        if document.renewal.enabled or document.registration_authorities:
            with_certificate = self._urls.with_certificate(label)
            is_for_renewal = not document.registration_authorities
            yield Address(Authentication.CERTIFICATE, with_certificate, 4, is_for_renewal)
        if document.renewal.enabled:
            yield Address(Authentication.ANONYMOUS, f"{url}/renewal", 5, True)

    async def _changed_at(self, endpoint: Endpoint) -> datetime:
        """Return when anything that an answer about an endpoint holds has changed last."""
        load, document = self._services.objects.load, endpoint.document
        issuer = await self._services.hierarchy.active(endpoint.tenant, document.authority)
        assert issuer.certificate is not None
        return max(
            (await load(endpoint.tenant, "endpoint", object_name(endpoint.id))).updated_at,
            (await load(endpoint.tenant, "profile", document.profile)).updated_at,
            issuer.certificate.not_valid_before_utc,
        )


def _same_door(one: Endpoint, other: Endpoint) -> bool:
    """Tell whether whoever may enrol at the one may enrol at the other."""
    a, b = one.document, other.document
    return (a.authenticate, a.directory, a.people, a.login) == (
        b.authenticate,
        b.directory,
        b.people,
        b.login,
    )
