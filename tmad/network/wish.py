"""A person's wish to join the network: decided before the login is, and written down with it."""

from __future__ import annotations

from tmad.errors import Fault, FaultCode
from tmad.identity.settlement import Sequel
from tmad.network.decision import Admission, PersonLike
from tmad.network.logins import Admitted
from tmad.network.register import Entry
from tmad.network.visit import Visit


class Wish:
    """What one login is for (identity/login.py: Purpose).

    Session and record of the login stand in the transaction that uses its code up: one commit
    instead of two.
    """

    def __init__(self, admission: Admission, visit: Visit, method: str) -> None:
        self._admission = admission
        self._visit = visit
        self._method = method
        self._entry: Entry | None = None
        self._fault: Fault | None = None

    async def weigh(self, person: PersonLike) -> Sequel | None:
        """Return what is written down if the login is accepted; a refusal waits until then."""
        self._entry = self._fault = None
        try:
            self._entry = await self._admission.weigh(self._visit, person.name, self._method)
        except Fault as fault:
            if fault.code is FaultCode.UNAVAILABLE:
                raise
            self._fault = fault
            return None
        return Sequel(self._admission.write_in, self._entry)

    async def granted(self, person: PersonLike) -> Admitted:
        """Return how somebody joins whose login was accepted; or raise why not, journaled."""
        if self._entry is not None:
            return self._entry.admitted
        if self._fault is None:
            return await self._admission.person(self._visit, person, self._method)
        data = {"person": person.name}
        await self._admission.refuse(self._visit, self._fault, method=self._method, data=data)
        raise self._fault
