"""What is known about whoever logs in: the certificate, who issued it, whose it is (E-41, E-42).

All of it is as new as ``changes.catch_up()``, which each question begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography import x509

from tmad.ca.trust import is_signed_by
from tmad.errors import Fault, FaultCode
from tmad.network import cases, holder, reasons, stations
from tmad.network.cases import Case, Origin
from tmad.network.facts import Facts, Reader
from tmad.network.holder import Holder, Holders
from tmad.network.issuers import Standings
from tmad.network.matching import Question
from tmad.network.rules import Rules, TenantRules
from tmad.network.visit import Visit
from tmad.storage import network as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerState

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Hierarchy
    from tmad.network.anchors import TrustAnchors


class Findings:
    """Finds out what is known about a login, before any rule is asked."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        hierarchy: Hierarchy,
        anchors: TrustAnchors,
        reader: Reader,
    ) -> None:
        self._database = database
        self._changes = changes
        self._hierarchy = hierarchy
        self._anchors = anchors
        self._reader = reader
        self._rules = Rules(database, changes)
        self._standings = Standings(database, changes, hierarchy)
        self._holders = Holders(database, changes)

    async def by_certificate(
        self,
        visit: Visit,
        chain: Sequence[x509.Certificate],
        method: str,
        at: datetime,
        standing: rows.Standing | None = None,
    ) -> tuple[Case, TenantRules]:
        """Return what is known about a certificate; Fault(UNAUTHENTICATED) if it is not ours.

        With ``standing``, what would be known about it if that is still true.
        """
        await self._changes.catch_up()
        rules = await self._rules.of(visit.tenant)
        facts = self._reader.read(chain[0])
        is_remembered = standing is not None
        if standing is None:
            standing = await self._database.lookup(rows.by_sha256, visit.tenant, facts.sha256)
        origin = await self._origin(visit, facts, standing, chain, at)
        if facts.is_blocklisted or (standing is not None and standing.is_key_compromised):
            raise cases.compromised_key(facts)
        held = await self._holders.of(facts, origin.owner, rules.principals, visit, at)
        person = held.person if origin.names_people else None
        device = held.device if origin.names_people else None
        return Case(
            question=Question(
                visit=visit,
                method=method,
                at=at,
                authority=origin.authority,
                anchor=origin.anchor,
                profile=origin.profile,
                person=person.name if person else "",
                groups=person.groups if person else (),
                device=device.name if device else "",
                subject=facts.attributes,
                names=facts.names,
            ),
            holder=held,
            user_name=person.name if person else held.name,
            facts=facts,
            standing=standing,
            is_remembered=is_remembered,
            certificate=origin.certificate,
            foreign=origin.foreign,
            doubts=(
                *origin.doubts,
                *cases.of_time(facts, at),
                *cases.of_purpose(facts),
                *held.doubts,
            ),
            ends=(facts.not_after,) if held.ends is None else (facts.not_after, held.ends),
            notes=origin.notes,
        ), rules

    async def _origin(
        self,
        visit: Visit,
        facts: Facts,
        standing: rows.Standing | None,
        chain: Sequence[x509.Certificate],
        at: datetime,
    ) -> Origin:
        """Return who issued a certificate; Fault(UNAUTHENTICATED) if nobody that counts here."""
        doubts = () if standing is None else tuple(cases.of_status(standing, facts))
        if standing is not None and standing.issuer_state != IssuerState.ANCHOR:
            await self._standings.check(standing.issuer_id, at)
            authority = standing.authority
            if standing.issuer_tenant != visit.tenant:
                authority = f"{standing.issuer_tenant}/{authority}"
            return Origin(
                authority=authority,
                profile=standing.profile,
                owner=standing.owner,
                certificate=(standing.issuer_id, standing.serial),
                doubts=doubts,
            )
        # Somebody else's, which may stand in our inventory, too.
        vouched = await self._anchors.vouch(visit.tenant, facts, chain, at)
        if vouched is None:
            raise await self._stranger(visit, facts)
        if await self._database.lookup(rows.is_key_compromised, facts.spki_sha256):
            raise cases.compromised_key(facts)
        owner = "" if standing is None else standing.owner
        return Origin(
            anchor=vouched.anchor,
            owner=owner,
            certificate=(standing.issuer_id, standing.serial) if standing else None,
            foreign=(vouched.issuer, facts.certificate.serial_number),
            doubts=doubts + vouched.doubts,
            notes=vouched.notes,
            # Whom we said it belongs to we know, whatever its names are worth.
            names_people=vouched.names_people or owner.startswith(("person:", "device:")),
        )

    async def by_name(
        self, visit: Visit, name: str, method: str, at: datetime
    ) -> tuple[Case, TenantRules]:
        """Return what is known about a person who shows no certificate."""
        await self._changes.catch_up()
        rules = await self._rules.of(visit.tenant)
        mac = holder.station_of(visit)
        found = await self._holders.named(visit.tenant, name, mac)
        if not found.people:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "the person does not exist any more",
                rule="network.owner-absent",
                values={"owner": f"person:{name}"},
            )
        person = found.people[0]
        doubts = (
            *holder.of_person(person, at),
            *holder.of_devices(found.devices, None, mac, at),
        )
        return Case(
            question=Question(
                visit=visit, method=method, at=at, person=person.name, groups=person.groups
            ),
            holder=Holder(
                name=person.name,
                person=person,
                device=None,
                responsible=person.name,
                doubts=doubts,
                ends=person.valid_until,
            ),
            user_name=person.name,
            doubts=doubts,
            ends=() if person.valid_until is None else (person.valid_until,),
        ), rules

    async def by_station(self, visit: Visit, at: datetime) -> tuple[Case, TenantRules]:
        """Return what is known about a device of which there is only the MAC address."""
        await self._changes.catch_up()
        rules = await self._rules.of(visit.tenant)
        mac = holder.station_of(visit)
        found = await self._database.lookup(rows.principals, visit.tenant, (), (), (), mac)
        return stations.case(visit, mac, found.devices, at), rules

    async def _stranger(self, visit: Visit, facts: Facts) -> Fault:
        """Return the refusal of a certificate that is neither ours nor an anchor's."""
        shown = {"subject": facts.subject, "serial": facts.serial.hex()}
        for issuer in await self._hierarchy.by_subject(facts.issuer_der):
            if issuer.certificate is None or not is_signed_by(
                facts.certificate, issuer.certificate
            ):
                continue
            found = None
            if issuer.signs:
                found = await self._database.lookup(rows.by_serial, issuer.id, facts.serial)
            if found is None:
                break
            tenant, state, sha256 = found
            if sha256 is None and state == "void":
                return reasons.refusal(
                    "network.void", "the certificate was given up when it was issued", **shown
                )
            if sha256 == facts.sha256 and tenant != visit.tenant:
                return reasons.refusal(
                    "network.wrong-tenant", "the certificate is another tenant's", **shown
                )
            return reasons.refusal(
                "network.unknown-certificate",
                "its serial number belongs to another certificate",
                **shown,
            )
        else:
            return reasons.refusal(
                "network.wrong-authority",
                "nobody that is trusted here issued the certificate",
                issuer=facts.certificate.issuer.rfc4514_string(),
                **shown,
            )
        if not issuer.signs:
            return reasons.refusal(
                "network.wrong-authority",
                "the CA that issued it is known here, and no trust anchor for logins",
                issuer=facts.certificate.issuer.rfc4514_string(),
                **shown,
            )
        return reasons.refusal(
            "network.unknown-certificate",
            "it is signed by one of our authorities, and was never issued here",
            authority=issuer.authority,
            **shown,
        )
