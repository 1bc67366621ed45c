"""Which rule a login falls under, and what that rule answers (E-43)."""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.identity.credentials import new_id
from tmad.network import cases, matching
from tmad.network.cases import Case
from tmad.network.logins import Admitted
from tmad.network.matching import CompiledRule
from tmad.network.rules import TenantRules
from tmad.storage import radius_sessions
from tmad.storage.database import Database

_PERSISTENT: Final = frozenset({15, 18, 19})  # NAS-Port-Type of 802.1X: they can log in again
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


class Rulings:
    """Asks the rules about what is known of a login."""

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    async def answer(self, case: Case, rules: TenantRules, *, counts: bool = True) -> Admitted:
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
        attributes = matching.fill(rule, values, rules.vendors.get(visit.client, "generic"))
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
