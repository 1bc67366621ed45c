"""Who may join the network: the one place that decides it, live, at each login (E-40..E-45).

What a certificate is worth is read from the database each time, resumed TLS session or not;
rules and the chain above are kept behind storage/changes.py. The order of the questions: is it
one of ours and good, who holds it, which rule lets it in.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.logger import Logger

from tmad.ca.trust import is_signed_by
from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock, Event
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.identity.credentials import new_id
from tmad.journal import Journal, make_explain_id
from tmad.network import cases, holder, policy, reasons, stations
from tmad.network.cases import Case, CertificateID, Origin
from tmad.network.facts import Facts, Reader
from tmad.network.flood import Flood
from tmad.network.holder import Holder, Holders
from tmad.network.issuers import Standings, may_have_signed
from tmad.network.policy import CompiledRule, Question
from tmad.network.rules import Rules, TenantRules
from tmad.network.visit import Visit
from tmad.storage import network as rows
from tmad.storage import radius_sessions
from tmad.storage.batches import Batches
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.issuers import IssuerState

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.keycheck import Blocklist
    from tmad.network.anchors import TrustAnchors

log = Logger()


_PERSISTENT: Final = frozenset({15, 18, 19})  # NAS-Port-Type of 802.1X: they can log in again
# Logins by certificate that wait for one another in a crowd: five packets take longer than this,
# and with twice as many in a transaction each takes a twentieth less CPU.
_LINGER_SECONDS: Final = 0.020
_ENOUGH: Final = 12
_TRIES: Final = 3  # when what was decided on changes before it is written down
# What a rule that only monitors lets pass; everything else is about whose certificate it is.
_PARDONABLE: Final = frozenset(
    {
        "network.revoked",
        "network.held",
        "network.expired",
        "network.not-yet-valid",
        "network.purpose",
        "network.crl-missing",
        "network.crl-stale",
        "network.owner-absent",
        "network.owner-disabled",
        "network.owner-expired",
        "network.device-blocked",
    }
)


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class TLSLogin:
    """How a certificate was presented: what the handshake says of itself."""

    method: str  # "eap-tls", "peap-tls", "eap-ttls" …
    version: str  # "TLSv1.3"
    cipher: str
    resumed: bool
    outer_identity: str


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Admitted:
    """A login that is let in: what an Access-Accept is made of.

    ``session`` (a ULID) goes into Class and is the key of the session's row. ``user_name`` is
    canonical: it comes from the certificate or the person, never from the outer identity.
    ``attributes`` are names of the dictionary with values, RADIUS encodes them; User-Name, Class
    and Session-Timeout are not among them. ``certificate`` is one of ours, ``anchor`` the trust
    anchor that somebody else's came from. ``person`` is who is responsible: the person, or the
    owner of the device. ``session_timeout`` is in seconds and never outlives certificate and
    account. ``monitored`` says what would have been refused if its rule did not only monitor.
    ``as_of`` is the newest change that had been heard of before it was decided.
    """

    session: str
    user_name: str
    policy: str
    rule: str
    attributes: tuple[tuple[str, str | int], ...]
    session_timeout: int | None
    certificate: CertificateID | None
    person: str | None
    device: str | None
    anchor: str | None = None  # the trust-anchor that a foreign certificate came from,
    foreign: tuple[bytes, int] | None = None  # which of its CAs, and the serial number there
    monitored: tuple[str, ...] = ()
    as_of: int = 0


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a client's certificate may come from, each an anchor of its own.

    ``version`` is another one whenever the certificates are. Revoked authorities are among
    them, so that the decision and not the handshake refuses, and says why.
    """

    certificates: tuple[x509.Certificate, ...]
    version: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What would become of a login: one of ``admitted`` and ``fault``, and how each rule fared."""

    admitted: Admitted | None
    fault: Fault | None
    question: Question | None
    rules: tuple[tuple[str, str], ...]  # rule, what became of it


@dataclass(slots=True)
class _Entry:
    """An admitted login on its way into the database."""

    admitted: Admitted
    case: Case
    event: Event


class PersonLike(Protocol):
    """A person whose login was accepted (tmad.storage.people.PersonRow)."""

    @property
    def name(self) -> str: ...


class Admission:
    """Decides about logins, and writes each decision down.

    ``open_sessions`` adds the sessions in the transaction that journals them. ``when_unwritable``
    says what happens while nothing can be written, as on a standby: "degrade" decides all the
    same and logs, "stop" answers nobody.
    """

    def __init__(
        self,
        *,
        database: Database,
        changes: Changes,
        journal: Journal,
        hierarchy: Hierarchy,
        anchors: TrustAnchors,
        now: Clock,
        open_sessions: Callable[[Connection, Sequence[tuple[Admitted, Visit, str]]], None],
        blocklist: Blocklist | None = None,
    ) -> None:
        self.journal = journal
        self.when_unwritable: Literal["degrade", "stop"] = "degrade"
        self._database = database
        self._changes = changes
        self._hierarchy = hierarchy
        self._anchors = anchors
        self._now = now
        self._open_sessions = open_sessions
        self._reader = Reader(() if blocklist is None else blocklist)
        self._rules = Rules(database, changes)
        self._standings = Standings(database, changes, hierarchy)
        self._holders = Holders(database, changes)
        self._flood = Flood(now)
        self._records = Batches(database, self._admit_in)
        self._certificate_records = Batches(
            database, self._admit_in, linger=_LINGER_SECONDS, enough=_ENOUGH
        )

    # -- for the protocols --------------------------------------------------------------------

    async def certificate(
        self, visit: Visit, chain: Sequence[x509.Certificate], login: TLSLogin
    ) -> Admitted:
        """Decide about a certificate whose key the client has just used, or used in the session
        that it resumes. ``chain`` is the client's certificate first.

        Raise the Fault that refuses, journaled with its explain id; Fault(UNAVAILABLE) when
        nobody can tell.
        """
        about: dict[str, JSON] = {
            "tls": login.version,
            "cipher": login.cipher,
            "resumed": login.resumed,
            # Whatever the client called itself: nobody has verified it (E-05).
            "outer_identity": login.outer_identity,
        }
        try:
            for _ in range(_TRIES):
                as_of = self._changes.latest
                case, rules = await self._case(visit, chain, login.method, self._now())
                admitted = await self._by_rules(case, rules)
                admitted.as_of = as_of
                if await self._record(admitted, case, about):
                    return admitted
            raise _undecided()
        except Fault as fault:
            about |= self._described(chain)
            await self.refuse(visit, fault, method=login.method, data=about)
            raise

    async def person(self, visit: Visit, person: PersonLike, method: str) -> Admitted:
        """Decide about a person who has just shown password, code or both; as ``certificate``."""
        as_of = self._changes.latest
        try:
            case, rules = await self._case_of(visit, person.name, method, self._now())
            admitted = await self._by_rules(case, rules)
            admitted.as_of = as_of
            await self._record(admitted, case, {})
        except Fault as fault:
            await self.refuse(visit, fault, method=method, data={"person": person.name})
            raise
        return admitted

    async def station(self, visit: Visit) -> Admitted:
        """Decide about a device that shows nothing but its MAC address; as ``certificate``."""
        as_of = self._changes.latest
        try:
            case, rules = await self._case_of_station(visit, self._now())
            admitted = await self._by_rules(case, rules)
            admitted.as_of = as_of
            await self._record(admitted, case, {})
        except Fault as fault:
            await self.refuse(visit, fault, method=policy.MAC)
            raise
        return admitted

    async def confirm(
        self,
        visit: Visit,
        admitted: Admitted,
        method: str,
        *,
        chain: Sequence[x509.Certificate] = (),
    ) -> None:
        """Raise the Fault, journaled, that refuses a login which was decided some messages ago.

        Whoever keeps the last message of a handshake back must not get in by a decision from
        before a revocation. ``chain`` is that of the decision, nothing for a person's.
        """
        await self._changes.catch_up()
        if self._changes.latest == admitted.as_of:
            return
        try:
            if chain:
                case, rules = await self._case(visit, chain, method, self._now())
            else:
                case, rules = await self._case_of(visit, admitted.user_name, method, self._now())
            now = await self._by_rules(case, rules, counts=False)
            if _answer(now) != _answer(admitted):
                raise reasons.refusal(
                    "network.changed", "other rules are in force since it was decided"
                )
        except Fault as fault:
            await self.refuse(visit, fault, method=method, data={"session": admitted.session})
            await self._take_back(admitted)
            raise

    async def _take_back(self, admitted: Admitted) -> None:
        if self._database.is_writing:
            with contextlib.suppress(Fault):  # it is closed when nothing is heard of it
                await self._database.write(radius_sessions.end, admitted.session, self._now())

    async def refuse(
        self,
        visit: Visit,
        fault: Fault,
        *,
        method: str,
        data: Mapping[str, JSON] = MappingProxyType({}),
    ) -> str:
        """Journal a refusal, once; set and return the id by which it can be explained.

        A station that is refused again and again shares the last id after a while, and how
        often is written down with the next one. The id is empty when nothing can be written.
        """
        if fault.explain_id or fault.code is FaultCode.UNAVAILABLE:
            return fault.explain_id
        key = (visit.tenant, visit.client, visit.calling_station)
        left_out = self._flood.admit(key)
        if left_out is None:
            fault.explain_id = self._flood.last(key)
            return fault.explain_id
        reason, advice = reasons.describe(fault)
        fault.explain_id = make_explain_id()
        self._flood.note(key, fault.explain_id)
        event = Event(
            kind="network.refused",
            tenant=visit.tenant,
            actor=f"radius/{visit.client}",
            object=visit.calling_station,
            trace=fault.explain_id,
            data={
                **cases.visit_data(visit, method),
                **data,
                "reason": reason,
                "detail": fault.detail,
                "rule": fault.rule,
                "values": dict(fault.values),
                "advice": advice,
                "repeated": left_out,
            },
        )
        await self._write_or_log(event, fault)
        return fault.explain_id

    async def trust(self, tenant: str) -> Trusted:
        """Return what a tenant's clients may show certificates of."""
        found = [
            issuer.certificate
            for issuer in await self._hierarchy.all_issuers()
            if (issuer.tenant == tenant or tenant in issuer.document.serves_tenants)
            and may_have_signed(issuer)
            and issuer.certificate is not None
        ]
        found += await self._anchors.certificates(tenant)
        digests = [hashlib.sha256(each.public_bytes(Encoding.DER)).digest() for each in found]
        unique = dict(zip(digests, found, strict=True))
        version = hashlib.sha256(b"".join(sorted(unique))).hexdigest()
        return Trusted(tuple(unique.values()), version)

    # -- for people ---------------------------------------------------------------------------

    @guarded("radius-policy.read")
    async def test(
        self,
        actor: Actor,
        tenant: str,
        visit: Visit,
        method: str,
        *,
        chain: Sequence[x509.Certificate] = (),
        person: str = "",
        at: datetime | None = None,
    ) -> Verdict:
        """Say what would become of a login with this certificate, of this person's, or by the
        method "mac" of the station itself.

        Nothing is written. ``at`` asks about another time; what is revoked or disabled by now
        is so then, too.
        """
        visit = replace(visit, tenant=tenant)
        at = at or self._now()
        case: Case | None = None
        rules: Sequence[CompiledRule] = ()
        try:
            if chain:
                case, found = await self._case(visit, chain, method, at)
            elif method == policy.MAC:
                case, found = await self._case_of_station(visit, at)
            else:
                case, found = await self._case_of(visit, person, method, at)
            rules = found.rules
            admitted = await self._by_rules(case, found)
        except Fault as fault:
            return Verdict(
                admitted=None,
                fault=fault,
                question=case.question if case else None,
                rules=cases.trail(rules, case),
            )
        return Verdict(
            admitted=admitted, fault=None, question=case.question, rules=cases.trail(rules, case)
        )

    # -- who it is ----------------------------------------------------------------------------

    async def _case(
        self, visit: Visit, chain: Sequence[x509.Certificate], method: str, at: datetime
    ) -> tuple[Case, TenantRules]:
        """Return what is known about a certificate; Fault(UNAUTHENTICATED) if it is not ours."""
        await self._changes.catch_up()
        rules = await self._rules.of(visit.tenant)
        facts = self._reader.read(chain[0])
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
            user_name=person.name if person else holder.canonical_name(facts, rules.principals),
            facts=facts,
            standing=standing,
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

    async def _case_of(
        self, visit: Visit, name: str, method: str, at: datetime
    ) -> tuple[Case, TenantRules]:
        """Return what is known about a person who shows no certificate."""
        await self._changes.catch_up()
        rules = await self._rules.of(visit.tenant)
        mac = holder.station_of(visit)
        found = await self._database.lookup(rows.principals, visit.tenant, (name,), (), (), mac)
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

    async def _case_of_station(self, visit: Visit, at: datetime) -> tuple[Case, TenantRules]:
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

    # -- what the rules say -------------------------------------------------------------------

    async def _by_rules(self, case: Case, rules: TenantRules, *, counts: bool = True) -> Admitted:
        """Return the answer of the first rule that matches, or raise why not.

        ``counts`` is False for one who is counted among the present already.
        """
        question = case.question
        notes = list(case.notes)
        chosen: CompiledRule | None = None
        for rule in rules.rules:
            if rule.matches(question):
                if rule.rule.then == "reject" and rule.rule.monitor:
                    notes.append(f"network.rejected: the rule {rule.title} would refuse it")
                    continue
                chosen = rule
                break
        doubts = cases.unanswered(case.doubts, chosen)
        pardons = chosen is not None and chosen.rule.then == "accept" and chosen.rule.monitor
        for doubt in doubts:
            if not (pardons and doubt.rule in _PARDONABLE):
                raise doubt
            notes.append(f"{doubt.rule}: {doubt.detail}")
        if chosen is None:
            raise cases.no_rule(rules.rules, question)
        if chosen.rule.then == "reject":
            raise Fault(
                FaultCode.FORBIDDEN,
                f"the rule {chosen.title} refuses it",
                rule="network.rejected",
                values={"policy": chosen.policy, "rule": chosen.rule.name},
            )
        most = chosen.rule.simultaneous
        if counts and most is not None and case.holder.responsible is not None:
            await self._check_simultaneous(case, chosen, most)
        return self._admitted(case, chosen, rules, tuple(notes))

    async def _check_simultaneous(self, case: Case, rule: CompiledRule, most: int) -> None:
        visit, person = case.question.visit, case.holder.responsible
        assert person is not None  # the caller has looked
        others = await self._database.lookup(
            radius_sessions.count_live,
            visit.tenant,
            person,
            visit.calling_station,
            case.question.at,
        )
        if others >= most:
            raise Fault(
                FaultCode.FORBIDDEN,
                "the person has as many devices on the network as the rule allows",
                rule="network.simultaneous",
                values={
                    "person": person,
                    "others": str(others),
                    "simultaneous": str(most),
                    "policy": rule.policy,
                    "rule": rule.rule.name,
                },
            )

    def _admitted(
        self, case: Case, rule: CompiledRule, rules: TenantRules, notes: tuple[str, ...]
    ) -> Admitted:
        question, reply = case.question, rule.rule.reply
        visit = question.visit
        timeout = cases.session_timeout(case, reply.session_timeout)
        values = cases.template_values(case) if rule.has_templates else {}
        attributes = policy.fill(rule, values, rules.vendors.get(visit.client, "generic"))
        if timeout is not None and reply.reauthenticate and visit.nas_port_type in _PERSISTENT:
            attributes += (("Termination-Action", 1),)
        return Admitted(
            session=new_id(self._now()),
            user_name=case.user_name,
            policy=rule.policy,
            rule=rule.rule.name,
            attributes=attributes,
            session_timeout=timeout,
            certificate=case.certificate,
            person=case.holder.responsible,
            device=case.holder.device.name if case.holder.device else None,
            anchor=question.anchor or None,
            foreign=case.foreign,
            monitored=notes,
        )

    # -- what is written down -----------------------------------------------------------------

    async def _record(self, admitted: Admitted, case: Case, about: Mapping[str, JSON]) -> bool:
        """Write an admitted login down; False when what it was decided on has changed."""
        question = case.question
        facts = case.facts
        event = Event(
            kind="network.admitted",
            tenant=question.visit.tenant,
            actor=f"radius/{question.visit.client}",
            object=admitted.session,
            data={
                **cases.visit_data(question.visit, question.method),
                **about,
                **(cases.facts_data(facts) if facts else {}),
                "authority": question.authority,
                "anchor": question.anchor,
                "profile": question.profile,
                "user_name": admitted.user_name,
                "person": admitted.person,
                "device": admitted.device,
                "policy": admitted.policy,
                "rule": admitted.rule,
                "attributes": [[name, value] for name, value in admitted.attributes],
                "session_timeout": admitted.session_timeout,
                "monitored": list(admitted.monitored),
            },
        )
        degrades = self.when_unwritable == "degrade"
        if degrades and not self._database.is_writing:
            # A standby answers at once; the timers notice when it can write again.
            _log_event(event, self._database.why_not_writing)
            return True
        try:
            records = self._records if facts is None else self._certificate_records
            return await records.add(_Entry(admitted, case, event))
        except Fault as fault:
            if fault.code is not FaultCode.UNAVAILABLE or not degrades:
                raise
            _log_event(event, str(fault))
            return True

    def _admit_in(self, connection: Connection, entries: Sequence[_Entry]) -> list[bool]:
        digests = [entry.case.facts.sha256 for entry in entries if entry.case.facts]
        standings = rows.standings(connection, digests)
        # Revoked between the question and now: a session that began after the revocation is
        # one that nobody would end.
        outcomes = [entry.case.holds(standings) for entry in entries]
        admitted = [entry for entry, holds in zip(entries, outcomes, strict=True) if holds]
        self._open_sessions(
            connection,
            [
                (entry.admitted, entry.case.question.visit, entry.case.question.method)
                for entry in admitted
            ],
        )
        self.journal.append(connection, *[entry.event for entry in admitted])
        return outcomes

    async def _write_or_log(self, event: Event, fault: Fault) -> None:
        """Journal a refusal; a refusal that cannot be journaled is one all the same."""
        if not self._database.is_writing:
            fault.explain_id = ""
            _log_event(event, self._database.why_not_writing)
            return
        try:
            await self.journal.write(event)
        except Fault as trouble:
            fault.explain_id = ""
            _log_event(event, str(trouble))

    def _described(self, chain: Sequence[x509.Certificate]) -> dict[str, JSON]:
        try:
            return cases.facts_data(self._reader.read(chain[0])) if chain else {}
        except Fault:
            return {}


def _answer(admitted: Admitted) -> tuple[object, ...]:
    return admitted.policy, admitted.rule, admitted.attributes


def _undecided() -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "the certificate's status changes faster than it can be judged",
        rule="network.undecided",
    )


def _log_event(event: Event, trouble: str) -> None:
    log.error(
        "{kind} could not be journaled: {trouble}; {data}",
        kind=event.kind,
        trouble=trouble,
        data=dict(event.data),
    )
