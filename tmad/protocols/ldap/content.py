"""The tree of entries: questions answered from what the directories publish (tree.Tree).

A search goes branch by branch: the entries that hold the tree together and the authorities, of
which there are few, are all looked at; people and devices are found by what of the filter the
database has an index for (conditions.py). Who may see what stands in rights.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from tmad.ca.crl import CRLs
from tmad.ca.crlmaking import CRL
from tmad.ca.directory import Directories, Published
from tmad.ca.hierarchy import Issuer
from tmad.errors import Fault, FaultCode
from tmad.identity.naming import device_key, person_key
from tmad.protocols.ldap import conditions, entries, evaluation, filters, schema
from tmad.protocols.ldap.conditions import CERTIFICATE, DEVICES, PEOPLE
from tmad.protocols.ldap.entries import Place, Wish
from tmad.protocols.ldap.filters import Filter
from tmad.protocols.ldap.members import Members
from tmad.protocols.ldap.places import Base, Places, no_such_object
from tmad.protocols.ldap.rights import Branch, Rights
from tmad.protocols.ldap.tree import Entry, Login, Page, Who
from tmad.storage.conditions import NOTHING, Same

_LISTS: Final = (
    "certificateRevocationList",
    "authorityRevocationList",
    "deltaRevocationList",
)
# How many rows are read, and how many entries made, at a time.
_CHUNK: Final = 100
_LEAST: Final = 10
_BRANCHES: Final[tuple[Branch, ...]] = ("authorities", "people", "devices")
_OF_OWNERS: Final[Mapping[str, Branch]] = {"person": "people", "device": "devices"}
_BASE: Final = 0
_ONE: Final = 1
_PLANS: Final = 1024  # kept
_USUAL: Final = 4  # items of a filter

# A part of the tree: the entry of a branch (of none: the suffix'), or what hangs below it.
_Step: TypeAlias = tuple[Literal["entry", "below"], Branch | None]


class _Plan(NamedTuple):
    """How searches are answered that differ only in the values that they ask for."""

    base: Base
    rights: Rights
    wish: Wish
    steps: tuple[_Step, ...]
    asks_for_certificates: bool  # it describes one that somebody is to have
    weight: int  # how many times longer than a usual one it takes to judge an entry
    simply: str | None  # the column of people in which an equality is looked for


class _Question(NamedTuple):
    """One search of one directory."""

    base: Base
    scope: int
    wanted: Filter
    test: evaluation.Test
    wish: Wish
    rights: Rights
    holders: conditions.Holders
    weight: int


class Directory:
    """What the directories publish, as entries."""

    def __init__(self, directories: Directories, crls: CRLs) -> None:
        self._directories = directories
        self._crls = crls
        self._known: tuple[Published, ...] = ()
        self._places = Places()
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._members = Members(directories)
        # Entries that no row of people or devices makes; of as many authorities as there are.
        self._units: dict[tuple[Place, Branch | None, bool], Entry] = {}
        self._authority_entries: dict[tuple[Place, int, bool], tuple[Issuer, Entry]] = {}
        self._generation = -1

    # -- tree.Tree ----------------------------------------------------------------------------

    async def naming_contexts(self, who: Who) -> tuple[str, ...]:
        """Return the suffixes of the directories that ``who`` may look into."""
        found = []
        for directory in await self._catch_up():
            suffix = directory.document.suffix
            base = self._places.find(suffix)
            is_mine = who.tenant == directory.tenant
            if base.strangers.branches or (is_mine and base.members.branches):
                found.append(suffix)
        return tuple(found)

    async def search(
        self,
        who: Who,
        base: str,
        scope: int,
        wanted: Filter,
        *,
        limit: int,
        after: bytes | None = None,
        attributes: frozenset[str] | None = None,
    ) -> Page:
        """Return at most ``limit`` of the entries that match (tree.Tree)."""
        await self._catch_up()
        key = (base, scope, who.kind, who.tenant, attributes, filters.shape(wanted))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(who, base, scope, wanted, attributes)
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[key] = plan
        place, rights, wish, steps, asks_for_certificates, weight, column = plan
        if column is not None and after is None:
            same = conditions.same(column, wanted.value)  # type: ignore[union-attr]  # an Equal
            if same is not None:
                return await self._simply(plan, same, limit)
        holders: conditions.Holders = {}
        if asks_for_certificates:
            named = conditions.certificates(filters.items(wanted))
            holders = await self._members.holders(place.directory.tenant, named)
        test = evaluation.tester(wanted, schema)
        question = _Question(place, scope, wanted, test, wish, rights, holders, weight)
        if place.leaf is not None:
            return await self._of_leaf(question, who)
        return await self._of_branches(question, steps, limit, after)

    def _plan(
        self,
        who: Who,
        base: str,
        scope: int,
        wanted: Filter,
        attributes: frozenset[str] | None,
    ) -> _Plan:
        place = self._places.find(base)
        rights = place.rights(who)
        items = filters.items(wanted)
        tested = frozenset([getattr(item, "attribute", "") for item in items])
        # An item without an attribute asks about every one.
        wish = entries.ALL if "" in tested else entries.wish(attributes, tested)
        kinds = [schema.find(description) for description in tested]
        is_there = any(kind is not None and kind.name == CERTIFICATE for kind in kinds)
        steps = tuple(_steps(place, rights, scope, wanted))
        column = None
        if place.leaf is None and steps == (("below", "people"),):
            column = conditions.simply(wanted, PEOPLE, rights.attributes)
        weight = max(1, len(items) // _USUAL)
        return _Plan(place, rights, wish, steps, is_there, weight, column)

    async def _simply(self, plan: _Plan, same: Same, limit: int) -> Page:
        """Answer what most clients ask: who has this name or address.

        The database's answer needs no second look.
        """
        plan.rights.check(same)
        directory = plan.base.directory
        page = await self._directories.find("people", directory, same, "", min(limit, _CHUNK))
        made = await self._members.made(directory, plan.wish, plan.rights, page.rows)
        cursor = None if page.reached is None else f"0:{page.reached}".encode()
        return Page(tuple(made), cursor)

    async def login_of(self, dn: str) -> Login | None:
        """Return whom a bind with this name means (tree.Tree)."""
        await self._catch_up()
        try:
            place = self._places.find(dn)
        except Fault as fault:
            if fault.code is FaultCode.NOT_FOUND:
                return None
            raise
        if place.branch != "people" or place.leaf is None:
            return None
        return Login(place.directory.tenant, place.leaf)

    async def who_is(self, tenant: str, owner: str, *, is_secure: bool) -> Who | None:
        """Return who an owner of certificates is (tree.Tree)."""
        kind, _, name = owner.partition(":")
        branch = _OF_OWNERS.get(kind)
        for directory in await self._catch_up():
            if directory.tenant == tenant and branch in directory.document.publish:
                place = Place(tenant, directory.document.suffix)
                if branch == "people":
                    return await self._person_at(place, person_key(name), is_secure)
                return await self._device_at(place, device_key(name), is_secure)
        return None

    async def _person_at(self, place: Place, name: str, is_secure: bool) -> Who | None:
        found = await self._directories.person(place.tenant, name)
        if found is None:
            return None
        dn = place.person(name)
        return Who("person", place.tenant, name, dn, is_secure, found.password_at)

    async def _device_at(self, place: Place, name: str, is_secure: bool) -> Who | None:
        if not await self._directories.device(place.tenant, name):
            return None
        return Who("device", place.tenant, name, place.device(name), is_secure)

    async def _catch_up(self) -> tuple[Published, ...]:
        published = await self._directories.published()
        if published is not self._known:
            self._known = published
            self._places = Places(published)
            self._plans.clear()
            self._units.clear()
        if self._generation != self._directories.generation:
            self._generation = self._directories.generation
            self._authority_entries.clear()
            self._members.forget()
        return published

    # -- searches -----------------------------------------------------------------------------

    async def _of_leaf(self, question: _Question, who: Who) -> Page:
        """Answer about one entry, which may not be there."""
        base = question.base
        assert base.branch is not None
        assert base.leaf is not None
        if base.branch == "authorities":
            found = await self._authority_named(question, base.leaf)
        else:
            page = await self._directories.find(
                base.branch, base.directory, Same("name", base.leaf), "", 1
            )
            kind = "person" if base.branch == "people" else "device"
            rights = question.rights
            if (who.kind, who.tenant, who.name) == (kind, base.directory.tenant, base.leaf):
                rights = rights._replace(attributes=None)
            made = await self._members.made(base.directory, question.wish, rights, page.rows)
            found = made[0] if made else None
        if found is None:
            raise no_such_object(base.place.unit(base.branch))
        # Nothing is below it.
        is_it = question.scope != _ONE and question.test(found)
        return Page((found,) if is_it else (), None)

    async def _of_branches(
        self, question: _Question, steps: Sequence[_Step], limit: int, after: bytes | None
    ) -> Page:
        number, name = _cursor(after)
        found: list[Entry] = []
        while number < len(steps):
            room = limit - len(found)
            part, branch = steps[number]
            if part == "entry":
                more, reached = self._of_tree(question, branch, room)
            elif branch == "authorities":
                more, reached = await self._authorities(question, room, name)
            else:
                assert branch is not None  # only an entry stands in no branch
                more, reached = await self._of_kind(question, branch, room, name, not found)
            found += more
            if reached is not None:
                return Page(tuple(found), f"{number}:{reached}".encode())
            number, name = number + 1, ""
        return Page(tuple(found), None)

    def _of_tree(
        self, question: _Question, branch: Branch | None, room: int
    ) -> tuple[list[Entry], str | None]:
        """Return an entry that holds the tree together, if it matches."""
        place, has_below = question.base.place, bool(question.rights.branches)
        made = self._units.get((place, branch, has_below))
        if made is None:
            made = entries.unit(place, branch) if branch else entries.root(place, has_below)
            self._units[place, branch, has_below] = made
        if not question.test(made):
            return [], None
        return ([made], None) if room else ([], "")

    async def _of_kind(
        self,
        question: _Question,
        branch: Literal["people", "devices"],
        room: int,
        after: str,
        is_first: bool,
    ) -> tuple[list[Entry], str | None]:
        """Return matching people or devices, and where to go on."""
        directory, kind = question.base.directory, PEOPLE if branch == "people" else DEVICES
        condition = conditions.compiled(
            question.wanted, kind, question.rights.attributes, question.holders
        )
        if condition == NOTHING:
            return [], None
        question.rights.check(condition)
        found: list[Entry] = []
        weight = question.weight
        looked, limit = 0, directory.document.look_through // weight
        while len(found) < room:
            wanted = min(room - len(found), max(_LEAST, _CHUNK // weight))
            page = await self._directories.find(branch, directory, condition, after, wanted, weight)
            if page.rows:
                made = await self._members.made(
                    directory, question.wish, question.rights, page.rows
                )
                found += [entry for entry in made if question.test(entry)]
            if page.reached is None:
                return found, None
            after = page.reached
            looked += len(page.rows)
            if looked - len(found) > limit or not page.rows:
                if found or not is_first:
                    return found, after
                raise _unindexed(directory)
        return found, after

    # -- authorities --------------------------------------------------------------------------

    async def _authorities(
        self, question: _Question, room: int, after: str
    ) -> tuple[list[Entry], str | None]:
        found: list[Entry] = []
        last = after or "0"
        for issuer in await self._directories.authorities(question.base.directory.tenant):
            if issuer.id <= int(last):
                continue
            entry = await self._authority(question, issuer)
            if question.test(entry):
                if len(found) == room:
                    return found, last
                found.append(entry)
            last = str(issuer.id)
        return found, None

    async def _authority_named(self, question: _Question, name: str) -> Entry | None:
        for issuer in await self._directories.authorities(question.base.directory.tenant):
            if entries.authority_name(issuer) == name:
                return await self._authority(question, issuer)
        return None

    async def _authority(self, question: _Question, issuer: Issuer) -> Entry:
        is_trusted = await self._directories.stands(issuer.id)
        key = (question.base.place, issuer.id, is_trusted)
        kept = self._authority_entries.get(key)
        if kept is not None and kept[0] is issuer:
            entry = kept[1]
        else:
            entry = entries.authority(question.base.place, issuer, is_trusted=is_trusted)
            self._authority_entries[key] = issuer, entry
        if any(map(question.wish.has, _LISTS)):
            crl = await self._crl(issuer)
            if crl is not None:
                delta = self._crls.fresh_delta(crl)
                return entries.with_crl(entry, crl.der, None if delta is None else delta.der)
        return entry

    async def _crl(self, issuer: Issuer) -> CRL | None:
        """Return an issuer's CRL as it is now; None where it signs none here."""
        if not issuer.signs:
            return None
        try:
            return await self._crls.current(issuer.id)
        except Fault as fault:
            if fault.code is FaultCode.NOT_FOUND:
                return None
            raise


def _steps(base: Base, rights: Rights, scope: int, wanted: Filter) -> list[_Step]:
    """Return which parts of the tree a search looks at, in their order.

    Parts where nothing can match are left out: all pages of one question have the same ones.
    """
    tree = conditions.is_possible(wanted, entries.TREE)
    steps: list[_Step] = [("entry", base.branch)] if tree and scope != _ONE else []
    if scope == _BASE:
        return steps
    if base.branch is not None:
        return [*steps, ("below", base.branch)]
    for branch in _BRANCHES:
        if branch in rights.branches:
            if tree:
                steps.append(("entry", branch))
            if scope != _ONE and conditions.is_possible(wanted, _ATTRIBUTES[branch]):
                steps.append(("below", branch))
    return steps


_ATTRIBUTES: Final = {
    "authorities": entries.AUTHORITY,
    "people": PEOPLE.attributes,
    "devices": DEVICES.attributes,
}


def _cursor(after: bytes | None) -> tuple[int, str]:
    if not after:
        return 0, ""
    number, _, name = after.decode().partition(":")
    return int(number), name


def _unindexed(directory: Published) -> Fault:
    return Fault(
        FaultCode.REJECTED,
        "no index answers this search, and it would look through too many entries: search for a"
        " mail, uid, cn or sn, or for how it begins",
        rule="ldap.unindexed",
        values={
            "directory": directory.name,
            "look_through": str(directory.document.look_through),
            "scan": str(directory.document.scan),
        },
    )
