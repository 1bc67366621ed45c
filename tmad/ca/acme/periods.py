"""The period that a client wants, judged when it orders (RFC 8555, 7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmad.ca.shape import Profile
from tmad.ca.signers import Signers
from tmad.ca.validity import Ends
from tmad.events import Clock
from tmad.managed.objects import Objects

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.ca.hierarchy import Hierarchy


class Periods:
    """Answers for the profiles and issuers of today; the pipeline asks again when it issues."""

    def __init__(self, hierarchy: Hierarchy, objects: Objects, now: Clock) -> None:
        self._hierarchy = hierarchy
        self._objects = objects
        self._signers = Signers(hierarchy)
        self._now = now

    async def check(self, endpoint: Endpoint, profile: str, ends: Ends) -> None:
        """Raise Fault(REJECTED) for a period that a certificate of this profile cannot have."""
        stored = await self._objects.load(endpoint.tenant, "profile", profile)
        rules = Profile(profile, stored.revision, stored.document)
        issuer = await self._hierarchy.active(endpoint.tenant, endpoint.document.authority)
        rules.period(self._signers.active(issuer, rules).facts, self._now(), ends)
