"""Step 3 of the pipeline: from what somebody may have to an order for exactly one certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tmad.ca import keycheck, names, record
from tmad.ca.accounts import names_of
from tmad.ca.applicant import Applicant, Renewed, check_window
from tmad.ca.belonging import check_names
from tmad.ca.constraints import check as check_constraints
from tmad.ca.keycheck import Blocklist
from tmad.ca.order import Order
from tmad.ca.requests import EnrollmentRequest, Proof
from tmad.ca.shape import Profile
from tmad.ca.signers import Signer, Signers
from tmad.ca.writing import Constraints
from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.actors import Actor
from tmad.identity.credentials import EnrollSecrets
from tmad.managed.objects import Objects

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy
    from tmad.managed.catalogue import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What step 2 found: this applicant may ask for this, from this issuer."""

    endpoint: Endpoint
    applicant: Applicant
    profile: Profile
    signer: Signer


class Ordering:
    """Applies profiles."""

    def __init__(
        self,
        *,
        objects: Objects,
        hierarchy: Hierarchy,
        signers: Signers,
        secrets: EnrollSecrets,
        now: Clock,
        blocklist: Blocklist | None,
    ) -> None:
        self._objects = objects
        self._hierarchy = hierarchy
        self._signers = signers
        self._secrets = secrets
        self._now = now
        self._blocklist = blocklist
        self._profiles: dict[tuple[str, str], tuple[Stored, Profile]] = {}

    async def profile(self, tenant: str, name: str) -> Profile:
        """Return a profile as of the last committed change, compiled."""
        stored = await self._objects.load(tenant, "profile", name)
        known = self._profiles.get((tenant, name))
        if known is not None and known[0] is stored:
            return known[1]
        profile = Profile(name, stored.revision, stored.document)
        self._profiles[tenant, name] = stored, profile
        return profile

    def for_request(self, request: EnrollmentRequest, permission: Permission, same: bytes) -> Order:
        """Return the order for what an applicant asked at an endpoint.

        ``same`` is the request's idempotency digest.
        """
        profile, applicant = permission.profile, permission.applicant
        endpoint, now = permission.endpoint, self._now()
        renews = applicant.renews
        if renews is not None:
            check_window(
                renews,
                endpoint.document.renewal.window_days,
                profile.document.renewal.window,
                now,
            )
        subject, asked = request.subject, request.names
        if applicant.listed is not None:
            # T-AD-01: what was asked for is not even looked at.
            subject, asked = names_of(applicant.listed, profile.document)
        held = () if renews is None else _names_of(renews.certificate)
        if renews is not None and not asked:
            # Many clients leave the names out of a renewal: they are those of before.
            asked = held
        key = keycheck.check(
            request.key,
            profile.document.keys,
            evidence=request.evidence,
            blocklist=self._blocklist,
            and_factors=False,
        )
        template = profile.template(
            subject=subject,
            alternative_names=asked,
            wanted=request.wanted,
            key=key,
            issuer=permission.signer.facts,
            now=now,
            validity=None if applicant.control is None else applicant.control.ends,
            sid=applicant.sid,
        )
        check_constraints(permission.signer.chain, template.subject, template.names)
        if renews is not None:
            _check_same_holder(
                (renews.certificate.subject, held), (template.subject, template.names)
            )
        check_names(applicant, endpoint.document, template.subject, template.names)
        if applicant.secret is not None:
            self._secrets.check_binding(
                applicant.secret, template.subject, template.names, profile.name
            )
        if applicant.control is not None:
            applicant.control.check_certificate(template.names, profile.name)
        return Order(
            tenant=endpoint.tenant,
            via=request.via,
            endpoint=str(endpoint.id),
            actor=str(endpoint.id),
            applicant=applicant,
            profile=profile,
            signer=permission.signer,
            template=template,
            key=key,
            is_internal=False,
            request=record.row(
                request,
                applicant.standing,
                tenant=endpoint.tenant,
                state="issuing",
                same=same,
                key=key,
                now=now,
            ),
            idempotency_window=timedelta(minutes=endpoint.document.idempotency_minutes),
            proof=request.proof.value,
            pending_limit=endpoint.document.limits.pending,
        )

    async def by_hand(
        self,
        actor: Actor,
        tenant: str,
        *,
        authority: str,
        profile_name: str,
        issuer_id: int | None,
        is_internal: bool,
        proof: Proof,
        subject: x509.Name,
        asked: Sequence[x509.GeneralName],
        wanted: Sequence[x509.Extension[x509.ExtensionType]],
        public_key: CertificatePublicKeyTypes,
        evidence: bytes,
        validity: timedelta | None,
        constraints: Constraints | None,
        replaces: Renewed | None,
    ) -> Order:
        """Return the order for what an operator, or the appliance itself, wants."""
        if (issuer_id is not None or constraints is not None) and not is_internal:
            raise forbid(
                "issue.internal", "only the appliance itself may choose these", actor=actor.name
            )
        if proof is Proof.NONE:
            raise Fault(
                FaultCode.BAD_PROOF, "possession of the key was not shown", rule="request.proof"
            )
        profile = await self.profile(tenant, profile_name)
        via = "system" if is_internal else "operator"
        check_road(profile, via)
        if profile.document.approval == "manual" and not is_internal:
            raise forbid("profile.approval", "somebody else must approve", profile=profile.name)
        if issuer_id is None:
            issuer = await self._hierarchy.active(tenant, authority)
        else:
            issuer = await self._hierarchy.by_id(issuer_id)
        if not issuer.document.allows_profile(profile.name):
            raise forbid("authority.profile", "the authority does not issue this profile")
        key = keycheck.check(
            public_key, profile.document.keys, evidence=evidence, blocklist=self._blocklist
        )
        if issuer_id is None:
            signer = self._signers.active(issuer, profile)
        else:
            signer = self._signers.internal(issuer, profile, key)
        template = profile.template(
            subject=subject,
            alternative_names=asked,
            wanted=wanted,
            key=key,
            issuer=signer.facts,
            now=self._now(),
            validity=validity,
            constraints=constraints,
        )
        check_constraints(signer.chain, template.subject, template.names)
        return Order(
            tenant=tenant,
            via=via,
            endpoint="",
            actor=actor.name,
            applicant=Applicant(
                name=actor.name, method="operator", is_proven=True, renews=replaces
            ),
            profile=profile,
            signer=signer,
            template=template,
            key=key,
            is_internal=is_internal,
            request=None,
            proof=proof.value,
        )


def check_road(profile: Profile, via: str) -> None:
    """Raise Fault(FORBIDDEN) unless the profile names this road."""
    # T-SCEP-03: a profile is reached by the roads that it names, and by no other.
    if via not in profile.document.via:
        raise forbid(
            "profile.via",
            "the profile is not for this road",
            via=via,
            allowed=", ".join(profile.document.via),
        )


def _check_same_holder(
    old: tuple[x509.Name, Sequence[x509.GeneralName]],
    new: tuple[x509.Name, Sequence[x509.GeneralName]],
) -> None:
    if new[0] != old[0] or not names.same(new[1], old[1]):
        raise Fault(
            FaultCode.REJECTED,
            "a renewal must keep subject and names",
            rule="renewal.names",
            values={"old": _described(*old), "new": _described(*new)},
        )


def _names_of(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        )
    except x509.ExtensionNotFound:
        return ()


def _described(subject: x509.Name, alternative: Sequence[x509.GeneralName]) -> str:
    texts = [f"{names.kind_of(name)}:{names.text_of(name)}" for name in alternative]
    return "; ".join([subject.rfc4514_string(), *texts])[:500]


def forbid(rule: str, detail: str, **values: str) -> Fault:
    """Return the Fault for what nobody may do on this road."""
    return Fault(FaultCode.FORBIDDEN, detail, rule=rule, values=values)
