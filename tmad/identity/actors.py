"""Who is doing something: a person, a service or a door, with what was granted to it."""

from __future__ import annotations

from dataclasses import dataclass

EVERY_TENANT = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """A role in one tenant, or in every tenant ("*")."""

    role: str
    tenant: str

    def covers(self, tenant: str) -> bool:
        """Tell whether this grant reaches into ``tenant``."""
        return self.tenant in (EVERY_TENANT, tenant)


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever calls a service function, already authenticated.

    ``name`` goes into the journal: "local:root", "system", "scep/routers".
    """

    name: str
    grants: tuple[Grant, ...] = ()

    @classmethod
    def system(cls) -> Actor:
        """Return the appliance itself, for what happens without a person."""
        return cls("system", (Grant("system", EVERY_TENANT),))

    @classmethod
    def administrator(cls, name: str) -> Actor:
        """Return someone who may do everything in every tenant."""
        return cls(name, (Grant("administrator", EVERY_TENANT),))
