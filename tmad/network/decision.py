"""Who may join the network: the one place that decides it, live, at each login (E-40..E-45).

What a certificate is worth is read from the database each time, resumed TLS session or not: by
the transaction that writes the login down, and before it of one that was not let in here of late.
Rules and the chain above are kept behind storage/changes.py. The order of the questions: is it
one of ours and good, who holds it (findings.py), which rule lets it in (rulings.py).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.errors import Fault, FaultCode
from tmad.events import JSON, Clock
from tmad.identity.access import guarded
from tmad.identity.actors import Actor
from tmad.journal import Journal
from tmad.network import cases, policy, reasons
from tmad.network.cases import Case
from tmad.network.facts import Reader
from tmad.network.findings import Findings
from tmad.network.issuers import may_have_signed
from tmad.network.logins import Admitted, TLSLogin, Trusted, Verdict
from tmad.network.matching import CompiledRule
from tmad.network.register import Entry, Register, event_of
from tmad.network.rulings import Rulings
from tmad.network.visit import Visit
from tmad.storage import network as rows
from tmad.storage import radius_sessions
from tmad.storage.changes import Changes
from tmad.storage.database import Database

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.hierarchy import Hierarchy
    from tmad.ca.keycheck import Blocklist
    from tmad.network.anchors import TrustAnchors

_REMEMBERED: Final = 4096  # certificates that were let in
_TRIES: Final = 3  # when what was decided on changes before it is written down


class PersonLike(Protocol):
    """A person whose login was accepted (tmad.storage.people.PersonRow)."""

    @property
    def name(self) -> str: ...


class Admission:
    """Decides about logins, and has each decision written down.

    ``open_sessions`` adds the sessions in the transaction that journals them.
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
        self.register = Register(database, journal, now, open_sessions)
        # For whoever refuses before there is anything to decide, and for whoever has a
        # transaction that a login belongs into.
        self.refuse, self.write_in = self.register.refuse, self.register.write_in
        self._database = database
        self._changes = changes
        self._hierarchy = hierarchy
        self._anchors = anchors
        self._now = now
        self._reader = Reader(() if blocklist is None else blocklist)
        self._findings = Findings(database, changes, hierarchy, anchors, self._reader)
        self._rulings = Rulings(database, now)
        self._remembered: dict[tuple[str, bytes], rows.Standing] = {}  # by tenant, SHA-256

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
            return await self._as_before(visit, chain, login, about) or await self._anew(
                visit, chain, login, about
            )
        except Fault as fault:
            about |= self._described(chain)
            await self.refuse(visit, fault, method=login.method, data=about)
            raise

    async def _as_before(
        self,
        visit: Visit,
        chain: Sequence[x509.Certificate],
        login: TLSLogin,
        about: Mapping[str, JSON],
    ) -> Admitted | None:
        """Let in whose certificate stands as it did at its last login; None: look at it.

        Whether it does so is asked by the transaction that writes the login down, which is
        later than any question before it. Nobody is refused by what is remembered.
        """
        facts = self._reader.read(chain[0])
        standing = self._remembered.get((visit.tenant, facts.sha256))
        if standing is None:
            return None
        as_of = self._changes.latest
        try:
            case, rules = await self._findings.by_certificate(
                visit, chain, login.method, self._now(), standing
            )
            admitted = await self._rulings.answer(case, rules)
        except Fault:
            pass
        else:
            admitted.as_of = as_of
            if await self.register.record(admitted, case, about):
                return admitted
        self._remembered.pop((visit.tenant, facts.sha256), None)
        return None

    async def _anew(
        self,
        visit: Visit,
        chain: Sequence[x509.Certificate],
        login: TLSLogin,
        about: Mapping[str, JSON],
    ) -> Admitted:
        for _ in range(_TRIES):
            as_of = self._changes.latest
            case, rules = await self._findings.by_certificate(
                visit, chain, login.method, self._now()
            )
            admitted = await self._rulings.answer(case, rules)
            admitted.as_of = as_of
            if await self.register.record(admitted, case, about):
                self._remember(case)
                return admitted
        raise _undecided()

    def _remember(self, case: Case) -> None:
        if case.standing is None or case.foreign is not None or case.facts is None:
            return
        if len(self._remembered) >= _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[case.question.visit.tenant, case.facts.sha256] = case.standing

    async def person(self, visit: Visit, person: PersonLike, method: str) -> Admitted:
        """Decide about a person who has just shown password, code or both; as ``certificate``."""
        as_of = self._changes.latest
        try:
            case, rules = await self._findings.by_name(visit, person.name, method, self._now())
            admitted = await self._rulings.answer(case, rules)
            admitted.as_of = as_of
            await self.register.record(admitted, case, {})
        except Fault as fault:
            await self.refuse(visit, fault, method=method, data={"person": person.name})
            raise
        return admitted

    async def weigh(self, visit: Visit, name: str, method: str) -> Entry:
        """Decide about a person who is about to log in; ``write_in`` writes it down.

        Raise the Fault that refuses, which nobody has journaled.
        """
        as_of = self._changes.latest
        case, rules = await self._findings.by_name(visit, name, method, self._now())
        admitted = await self._rulings.answer(case, rules)
        admitted.as_of = as_of
        return Entry(admitted, case, event_of(admitted, case, {}))

    async def station(self, visit: Visit) -> Admitted:
        """Decide about a device that shows nothing but its MAC address; as ``certificate``."""
        as_of = self._changes.latest
        try:
            case, rules = await self._findings.by_station(visit, self._now())
            admitted = await self._rulings.answer(case, rules)
            admitted.as_of = as_of
            await self.register.record(admitted, case, {})
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
                case, rules = await self._findings.by_certificate(visit, chain, method, self._now())
            else:
                case, rules = await self._findings.by_name(
                    visit, admitted.user_name, method, self._now()
                )
            now = await self._rulings.answer(case, rules, counts=False)
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
                case, found = await self._findings.by_certificate(visit, chain, method, at)
            elif method == policy.MAC:
                case, found = await self._findings.by_station(visit, at)
            else:
                case, found = await self._findings.by_name(visit, person, method, at)
            rules = found.rules
            admitted = await self._rulings.answer(case, found)
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

    def _described(self, chain: Sequence[x509.Certificate]) -> dict[str, JSON]:
        try:
            return dict(self._reader.read(chain[0]).data) if chain else {}
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
