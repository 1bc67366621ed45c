"""The directory: who and what a tenant publishes, and where. RFC 4523; spec L-01, L-19.

A ``directory`` is a managed object with a suffix and rules. What it publishes is read from the
database at each question: issued is found, revoked is gone, at the very next one. How the
entries look and how questions are asked is the business of tmad/protocols/ldap.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tmad.errors import Fault, FaultCode
from tmad.events import Clock
from tmad.managed.catalogue import Kind
from tmad.storage import devices, holdings, objects, people
from tmad.storage import directory as rows
from tmad.storage.changes import Changes
from tmad.storage.conditions import Condition, Same
from tmad.storage.database import Database
from tmad.storage.directory import DEVICE, PERSON, Device, Found, Person
from tmad.storage.holdings import Held, Names
from tmad.storage.issuers import TOPIC as ISSUERS
from tmad.storage.issuers import IssuerState
from tmad.storage.kept import Kept
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.hierarchy import Hierarchy, Issuer

KIND: Final = "directory"

_RDN: Final = re.compile(r"(o|ou|dc|c|l|st)=([^\W_]([\w .&'-]{0,62}[^\W_.])?)")
_PAGE: Final = 500
_LEAST_SCAN: Final = 100

# What strangers may be shown unless a directory says otherwise: what it takes to write to
# somebody in secret.
_OPEN: Final = (
    "cn", "displayName", "givenName", "sn", "mail", "userCertificate", "userSMIMECertificate",
)  # fmt: skip

# Asked about an issuer's id and an instant, it raises a Fault unless it and all above it stand.
Stands = Callable[[int, datetime], Awaitable[None]]


def _suffix(text: str) -> str:
    parts = [part.strip() for part in text.split(",")]
    found = [_RDN.fullmatch(part) for part in parts]
    if not 1 <= len(parts) <= 8 or None in found:
        raise ValueError(
            "a suffix is o=NAME, ou=NAME, dc=LABEL, c=CC, l=NAME or st=NAME, with commas between:"
            ' "o=acme" or "dc=acme,dc=test"'
        )
    return ",".join(" ".join(part.split()) for part in parts)


def _attribute(text: str) -> str:
    if not re.fullmatch(r"\*|[A-Za-z][A-Za-z0-9-]{0,60}", text):
        raise ValueError('an attribute\'s name, or "*" for all')
    return text


Attribute = Annotated[str, AfterValidator(_attribute)]


class DirectoryDocument(BaseModel):
    """What one suffix shows, and to whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suffix: Annotated[str, AfterValidator(_suffix)] = Field(
        max_length=300, description='Where it hangs: "o=acme" or "dc=acme,dc=test".'
    )
    description: str = Field(default="", max_length=500)
    publish: tuple[Literal["people", "devices", "authorities"], ...] = Field(
        default=("people", "devices", "authorities"), description="Branches that it has."
    )
    profiles: tuple[Annotated[str, Field(pattern=r"^[a-z0-9*?-]{1,63}$")], ...] = Field(
        default=(),
        description="Profiles whose certificates it shows, * and ? stand for any; empty: all.",
    )
    anonymous: Literal["nothing", "authorities", "by-mail", "all"] = Field(
        default="authorities",
        description="What strangers find: nothing; certificates and CRLs of authorities; with"
        " these, people by their whole mail address; all that is published.",
    )
    anonymous_attributes: tuple[Attribute, ...] = Field(
        default=_OPEN, description="What they are shown of people and devices."
    )
    attributes: tuple[Attribute, ...] = Field(
        default=("*",),
        description="What people and devices of the tenant are shown of each other.",
    )
    look_through: int = Field(
        default=2_000,
        ge=10,
        le=100_000,
        description="Entries that one search may look at beyond those it returns.",
    )
    scan: int = Field(
        default=100_000,
        ge=100,
        le=1_000_000,
        description="People that the database may look at for what no index answers.",
    )

    def shows(self, profile: str) -> bool:
        """Tell whether certificates of a profile are published."""
        return not self.profiles or any(fnmatchcase(profile, each) for each in self.profiles)


def _handle(tenant: str, name: str, document: DirectoryDocument) -> str:
    return f"{KIND}/{document.suffix.casefold()}"


def _check(connection: Connection, tenant: str, name: str, document: DirectoryDocument) -> None:
    """Refuse a suffix within another one's, whoever has that."""
    mine = document.suffix.casefold()
    for other in _all(connection):
        theirs = other.document.suffix.casefold()
        if (other.tenant, other.name) == (tenant, name):
            continue
        if mine.endswith(f",{theirs}") or theirs.endswith(f",{mine}"):
            whose = f"directory {other.name}" if other.tenant == tenant else "another tenant's"
            raise Fault(
                FaultCode.CONFLICT,
                f"suffix: {document.suffix} and {whose} lie one within the other",
                rule="directory.nested",
                values={"suffix": document.suffix},
            )


def kind() -> Kind:
    """Return the managed kind "directory"."""
    return Kind(name=KIND, model=DirectoryDocument, handle=_handle, check=_check)


class Published(NamedTuple):
    """One directory as it is now."""

    tenant: str
    name: str
    document: DirectoryDocument


def _all(connection: Connection) -> tuple[Published, ...]:
    found: list[Published] = []
    tenant = ""
    while tenants := objects.find(connection, "*", "tenant", tenant, _PAGE):
        for each in tenants:
            found += [
                Published(each.name, row.name, DirectoryDocument.model_validate_json(row.document))
                for row in objects.find(connection, each.name, KIND, "", _PAGE)
            ]
        tenant = tenants[-1].name
    return tuple(found)


class Directories:
    """Reads what directories publish; nothing of people, devices and certificates is kept."""

    def __init__(
        self,
        database: Database,
        changes: Changes,
        hierarchy: Hierarchy,
        now: Clock,
        stands: Stands,
    ) -> None:
        self._database = database
        self._changes = changes
        self._hierarchy = hierarchy
        self._now = now
        self._stands = stands
        self._published: Kept[tuple[Published, ...]] = Kept()
        self.generation = 0  # rises when what is kept of directories or authorities is forgotten
        changes.listen("objects", self._on_object)
        changes.listen(ISSUERS, self._on_issuer)

    async def published(self) -> tuple[Published, ...]:
        """Return every tenant's directories as of the last committed change."""
        await self._changes.catch_up()
        found = self._published.value
        if found is None:
            found = await self._published.fill(self._database.read(_all))
        return found

    async def find(
        self,
        kind: Literal["people", "devices"],
        directory: Published,
        condition: Condition,
        after: str,
        limit: int,
        weight: int = 1,
    ) -> Found:
        """Return a page of people or devices that meet a condition, by name.

        More than wanted may be among them. Where no index answers, the directory's ``scan``
        bounds how many are looked at: so many times fewer as ``weight`` says that it takes longer
        to look at one.
        """
        scan = max(_LEAST_SCAN, directory.document.scan // weight)
        arguments = (kind, directory.tenant, condition, self._now(), after, limit, scan)
        # By one whole value it is a point read; everything else takes its time elsewhere.
        if isinstance(condition, Same) and not after:
            return await self._database.lookup(rows.find, *arguments)
        return await self._database.read(rows.find, *arguments)

    async def held_by(
        self, directory: Published, owners: Sequence[str], mails: Sequence[str]
    ) -> list[Held]:
        """Return the valid certificates of these owners, or naming one of these addresses.

        Only of the directory's profiles, and of authorities that still stand.
        """
        now = self._now()
        run = self._database.lookup if len(owners) == 1 else self._database.read
        found = await run(holdings.held_by, directory.tenant, owners, mails, now)
        return [held for held in found if await self._is_shown(directory, held, now)]

    async def named_by(self, tenant: str, issuers: Sequence[int], serial: int) -> tuple[Names, ...]:
        """Return whom the valid certificates with this serial number name."""
        found = [
            await self._database.lookup(holdings.named_by, tenant, issuer, serial, self._now())
            for issuer in issuers
        ]
        return tuple([names for names in found if names is not None])

    async def authorities(self, tenant: str) -> tuple[Issuer, ...]:
        """Return a tenant's issuers that have a certificate, by id."""
        return tuple([i for i in await self._hierarchy.of_tenant(tenant) if _is_public(i)])

    async def issuer(self, issuer_id: int) -> Issuer:
        """Return one issuer, whosever it is."""
        return await self._hierarchy.by_id(issuer_id)

    async def all_issuers(self) -> tuple[Issuer, ...]:
        """Return every issuer of every tenant, by id."""
        return await self._hierarchy.all_issuers()

    async def stands(self, issuer_id: int) -> bool:
        """Tell whether an authority and all above it are neither revoked nor compromised."""
        try:
            await self._stands(issuer_id, self._now())
        except Fault as fault:
            if fault.code is FaultCode.UNAVAILABLE:
                raise
            return False
        return True

    async def person(self, tenant: str, name: str) -> PersonRow | None:
        """Return the person of this name, if there is one whose account is good now."""
        row = await self._database.lookup(people.by_name, tenant, name)
        return row if row is not None and row.is_usable(self._now()) else None

    async def device(self, tenant: str, name: str) -> bool:
        """Tell whether there is a device of this name that is not blocked."""
        row = await self._database.lookup(devices.by_name, tenant, name)
        return row is not None and row.blocked_at is None

    async def _is_shown(self, directory: Published, held: Held, now: datetime) -> bool:
        if not directory.document.shows(held.profile):
            return False
        return await self.stands(held.issuer_id)

    def _on_object(self, key: str) -> None:
        parts = key.split("/")
        if key == "*" or parts[1] in (KIND, "tenant"):
            self._published.forget()
            self.generation += 1

    def _on_issuer(self, key: str) -> None:
        self.generation += 1


def _is_public(issuer: Issuer) -> bool:
    hidden = (IssuerState.CREATING, IssuerState.PENDING)
    return issuer.certificate is not None and issuer.state not in hidden


__all__ = [
    "DEVICE", "KIND", "PERSON", "Device", "Directories", "DirectoryDocument", "Held", "Person",
    "Published", "kind",
]  # fmt: skip
