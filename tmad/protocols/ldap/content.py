"""The tree of entries: questions answered from what the directories publish (tree.Tree).

A search goes branch by branch: the entries that hold the tree together and the authorities, of
which there are few, are all looked at; people and devices are found by what of the filter the
database has an index for (conditions.py). Who may see what is decided here (L-19).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from tmad.ca.crl import CRLs
from tmad.ca.directory import DEVICE, PERSON, Device, Directories, Held, Person, Published
from tmad.ca.hierarchy import Issuer
from tmad.errors import Fault, FaultCode
from tmad.identity.naming import device_key, person_key
from tmad.protocols.ldap import conditions, entries, evaluation, filters, names, schema
from tmad.protocols.ldap.conditions import CERTIFICATE, DEVICES, PEOPLE, Kind
from tmad.protocols.ldap.entries import Place, Wish
from tmad.protocols.ldap.filters import Filter
from tmad.protocols.ldap.names import Key
from tmad.protocols.ldap.tree import ANONYMOUS, Entry, Login, Page, Who
from tmad.storage.directory import NOTHING, Condition, Names, Same

Branch: TypeAlias = Literal["people", "devices", "authorities"]

_S_MIME: Final = "userSMIMECertificate"
_LISTS: Final = frozenset({"certificateRevocationList", "authorityRevocationList"})
_KINDS: Final[Mapping[str, Kind]] = {"people": PEOPLE, "devices": DEVICES}
# How many rows are read, and how many entries made, at a time.
_CHUNK: Final = 100
# By which whole values, or beginnings of so many characters, strangers find anybody (L-19).
_KNOWN: Final = frozenset({"name", "mail", "cn_key", "sn_key"})
_BEGINNING: Final = 3
_BY_MAIL: Final = frozenset({"mail"})
# Certificates of more serial numbers than any authority gives are not looked for.
_LONGEST_SERIAL: Final = 512
_BRANCHES: Final[tuple[Branch, ...]] = ("authorities", "people", "devices")


# A part of the tree: the entry of a branch (of none: the suffix'), or what hangs below it.
_Step: TypeAlias = tuple[Literal["entry", "below"], Branch | None]


class _Rights(NamedTuple):
    """What somebody may look at in one directory; None: every attribute."""

    branches: tuple[Branch, ...]
    attributes: frozenset[str] | None
    bound: frozenset[str] | None  # what a search has to name people by; None: nothing
    prefix: int | None


class _Base(NamedTuple):
    """What a name means: a directory's suffix, a branch's unit, or what hangs on it."""

    directory: Published
    place: Place
    branch: Branch | None
    leaf: str | None


class _Question(NamedTuple):
    """One search of one directory."""

    base: _Base
    scope: int
    wanted: Filter
    test: evaluation.Test
    wish: Wish
    rights: _Rights
    holders: conditions.Holders


class Directory:
    """What the directories publish, as entries."""

    def __init__(self, directories: Directories, crls: CRLs) -> None:
        self._directories = directories
        self._crls = crls
        self._suffixes: dict[Key, Published] = {}
        self._known: tuple[Published, ...] = ()
        self._bases: dict[str, _Base] = {}
        self._issuer_names: dict[bytes, Key] = {}

    # -- tree.Tree ----------------------------------------------------------------------------

    async def naming_contexts(self, who: Who) -> tuple[str, ...]:
        """Return the suffixes of the directories that ``who`` may look into."""
        published = await self._directories.published()
        return tuple([d.document.suffix for d in published if _rights(d, who).branches])

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
        place = self._resolve(base)
        rights = _rights(place.directory, who)
        if place.branch is not None and place.branch not in rights.branches:
            raise _forbidden(who)
        if not rights.branches:
            raise _forbidden(who)
        items = filters.items(wanted)
        tested = frozenset([getattr(item, "attribute", "") for item in items])
        wish = entries.ALL
        # An item without an attribute asks about every one.
        if "" not in tested:
            wish = entries.wish(attributes, tested)
        question = _Question(
            base=place,
            scope=scope,
            wanted=wanted,
            test=evaluation.tester(wanted, schema),
            wish=wish,
            rights=rights,
            holders=await self._holders(place.directory.tenant, items),
        )
        if place.leaf is not None:
            return await self._of_leaf(question, who)
        return await self._of_branches(question, limit, after)

    async def login_of(self, dn: str) -> Login | None:
        """Return whom a bind with this name means (tree.Tree)."""
        await self._catch_up()
        try:
            place = self._resolve(dn)
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
        branch: Branch
        if kind == "person":
            branch, is_there = "people", self._directories.person
        elif kind == "device":
            branch, is_there = "devices", self._directories.device
        else:
            return None
        for directory in await self._directories.published():
            if directory.tenant == tenant and branch in directory.document.publish:
                if not await is_there(tenant, name):
                    return None
                place = Place(tenant, directory.document.suffix)
                dn = place.person(name) if kind == "person" else place.device(name)
                return Who(kind, tenant, name, dn, is_secure)
        return None

    # -- names --------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        published = await self._directories.published()
        if published is not self._known:
            self._known = published
            self._bases.clear()
            self._suffixes = {names.key_of_text(d.document.suffix): d for d in published}

    def _resolve(self, text: str) -> _Base:
        found = self._bases.get(text)
        if found is None:
            found = self._find_base(text)
            if len(self._bases) >= _KEPT:
                self._bases.clear()
            self._bases[text] = found
        return found

    def _find_base(self, text: str) -> _Base:
        key = names.key_of_text(text)
        for length in range(len(key), 0, -1):
            directory = self._suffixes.get(key[-length:])
            if directory is not None:
                return _below(directory, key[:-length])
        raise _no_such("")

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
            is_own = (who.kind, who.tenant, who.name) == (
                "person" if base.branch == "people" else "device",
                base.directory.tenant,
                base.leaf,
            )
            if is_own:
                question = question._replace(rights=question.rights._replace(attributes=None))
            made = await self._made(question, base.branch, page.rows)
            found = made[0] if made else None
        if found is None:
            raise _no_such(base.place.unit(base.branch))
        # Nothing is below it.
        is_it = question.scope != _ONE and question.test(found)
        return Page((found,) if is_it else (), None)

    async def _of_branches(self, question: _Question, limit: int, after: bytes | None) -> Page:
        number, name = _cursor(after)
        found: list[Entry] = []
        steps = _steps(question)
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

    @staticmethod
    def _of_tree(
        question: _Question, branch: Branch | None, room: int
    ) -> tuple[list[Entry], str | None]:
        """Return an entry that holds the tree together, if it matches."""
        place = question.base.place
        if branch is None:
            made = entries.root(place, bool(question.rights.branches))
        else:
            made = entries.unit(place, branch)
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
        directory, kind = question.base.directory, _KINDS[branch]
        condition = conditions.compiled(
            question.wanted, kind, question.rights.attributes, question.holders
        )
        if condition == NOTHING:
            return [], None
        _check_bound(condition, question.rights)
        found: list[Entry] = []
        looked, limit = 0, directory.document.look_through
        while len(found) < room:
            wanted = min(room - len(found), _CHUNK)
            page = await self._directories.find(branch, directory, condition, after, wanted)
            made = await self._made(question, branch, page.rows)
            found += [entry for entry in made if question.test(entry)]
            if page.reached is None:
                return found, None
            after = page.reached
            looked += max(1, len(page.rows))
            if looked - len(found) > limit or not page.rows:
                if found or not is_first:
                    return found, after
                raise _unindexed(directory)
        return found, after

    # -- people and devices -------------------------------------------------------------------

    async def _made(
        self, question: _Question, branch: str, found: Sequence[Person | Device]
    ) -> list[Entry]:
        """Return the entries of rows, with what may be seen of them."""
        if not found:
            return []
        wish, place = question.wish, question.base.place
        visible = question.rights.attributes
        held: dict[str, list[Held]] = {}
        s_mime = wish.has(_S_MIME) and branch == "people" and _is_shown(_S_MIME, visible)
        if s_mime or (wish.has(CERTIFICATE) and _is_shown(CERTIFICATE, visible)):
            held = await self._held(question, found)
        made = []
        for row in found:
            own = sorted(held.get(row.name, ()), key=lambda each: -each.id)
            ders = [each.certificate_der for each in own]
            if isinstance(row, Person):
                entry = entries.person(place, row, ders, wish)
                if s_mime:
                    await self._add_s_mime(entry, own)
            else:
                entry = entries.device(place, row, ders, wish)
            made.append(entry if visible is None else _cut(entry, visible))
        return made

    async def _held(
        self, question: _Question, found: Sequence[Person | Device]
    ) -> dict[str, list[Held]]:
        """Return the certificates of people or devices, by the name of who has them."""
        mails: dict[str, list[str]] = {}
        owners = {}
        for row in found:
            if isinstance(row, Person):
                owners[PERSON + row.name] = row.name
                if row.mail:
                    mails.setdefault(row.mail, []).append(row.name)
            else:
                owners[DEVICE + row.name] = row.name
        held: dict[str, list[Held]] = {}
        directory = question.base.directory
        for each in await self._directories.held_by(directory, list(owners), list(mails)):
            # What has an owner is his; else it is everybody's whose address is in it.
            having = mails[each.mail] if each.mail else [owners[each.owner]]
            for name in having:
                held.setdefault(name, []).append(each)
        return held

    async def _add_s_mime(self, entry: Entry, held: Sequence[Held]) -> None:
        values = []
        for each in held:
            if entries.is_for_mail(each.certificate_der):
                issuer = await self._directories.issuer(each.issuer_id)
                values.append(entries.s_mime(each.certificate_der, issuer.chain))
        if values:
            entry.attributes[_S_MIME] = tuple(values)  # type: ignore[index]  # made just now

    async def _holders(self, tenant: str, items: Sequence[filters.Item]) -> conditions.Holders:
        """Return whom the certificates belong to that a filter names (L-21)."""
        found: dict[tuple[str, filters.Item], Condition] = {}
        for item, (serial, issuer) in conditions.certificates(items).items():
            ways: dict[str, list[Condition]] = {"people": [], "devices": []}
            for named in await self._named_by(tenant, serial, issuer):
                if named.owner.startswith(PERSON):
                    ways["people"].append(Same("name", named.owner.removeprefix(PERSON)))
                elif named.owner.startswith(DEVICE):
                    ways["devices"].append(Same("name", named.owner.removeprefix(DEVICE)))
                else:
                    ways["people"] += [Same("mail", mail) for mail in named.mails]
            found |= {(kind, item): conditions.either(each) for kind, each in ways.items()}
        return found

    async def _named_by(self, tenant: str, serial: int, issuer: object) -> tuple[Names, ...]:
        if not 0 < serial < 1 << _LONGEST_SERIAL:
            return ()
        issuers = [i.id for i in await self._directories.all_issuers() if self._is(i, issuer)]
        return await self._directories.named_by(tenant, issuers, serial)

    def _is(self, issuer: Issuer, name: object) -> bool:
        key = self._issuer_names.get(issuer.subject_der)
        if key is None and issuer.certificate is not None:
            key = names.key_of(issuer.certificate.subject)
            self._issuer_names[issuer.subject_der] = key
        return key == name

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
        wish = question.wish
        crl = None
        if any(wish.has(name) for name in _LISTS):
            crl = await self._crl(issuer)
        is_trusted = await self._directories.stands(issuer.id)
        return entries.authority(question.base.place, issuer, crl, is_trusted, wish)

    async def _crl(self, issuer: Issuer) -> bytes | None:
        """Return an issuer's CRL as it is now; None where it signs none here."""
        if not issuer.signs:
            return None
        try:
            return (await self._crls.current(issuer.id)).der
        except Fault as fault:
            if fault.code is FaultCode.NOT_FOUND:
                return None
            raise


def _steps(question: _Question) -> list[_Step]:
    """Return which parts of the tree a search looks at, in their order."""
    base, scope = question.base, question.scope
    own: list[_Step] = [("entry", base.branch)]
    if scope == _BASE:
        return own
    if base.branch is not None:
        below: list[_Step] = [("below", base.branch)]
        return below if scope == _ONE else own + below
    mine = [branch for branch in _BRANCHES if branch in question.rights.branches]
    if scope == _ONE:
        return [("entry", branch) for branch in mine]
    parts: tuple[Literal["entry", "below"], ...] = ("entry", "below")
    return own + [(part, branch) for branch in mine for part in parts]


_BASE: Final = 0
_ONE: Final = 1
_KEPT: Final = 4096  # names of bases


def _below(directory: Published, key: Key) -> _Base:
    """Return what the part of a name below a suffix means."""
    place = Place(directory.tenant, directory.document.suffix)
    if not key:
        return _Base(directory, place, None, None)
    for branch in directory.document.publish:
        if names.key_of_text(f"ou={entries.unit_key(branch)}")[0] != key[-1]:
            continue
        if len(key) == 1:
            return _Base(directory, place, branch, None)
        leaf = _leaf(branch, key[-2])
        if leaf is None or len(key) > 2:
            raise _no_such(place.unit(branch))
        return _Base(directory, place, branch, leaf)
    raise _no_such(place.suffix)


def _leaf(branch: Branch, rdn: names.RDNKey) -> str | None:
    """Return the name that an entry's own RDN means; None: there is none such here."""
    kind = schema.find("uid" if branch == "people" else "cn")
    if len(rdn) != 1 or kind is None or rdn[0][0] != kind.oid or isinstance(rdn[0][1], bytes):
        return None
    if branch == "people":
        return person_key(rdn[0][1])
    return device_key(rdn[0][1])


def _rights(directory: Published, who: Who) -> _Rights:
    document = directory.document
    if who.kind != ANONYMOUS.kind and who.tenant == directory.tenant:
        return _Rights(document.publish, _shown(document.attributes), None, None)
    open_ = _shown(document.anonymous_attributes)
    match document.anonymous:
        case "nothing":
            return _Rights((), frozenset(), None, None)
        case "authorities":
            branches: tuple[Branch, ...] = ("authorities",)
        case "by-mail":
            branches = ("authorities", "people")
        case "all":
            branches = document.publish
    branches = tuple([branch for branch in branches if branch in document.publish])
    if document.anonymous == "by-mail":
        return _Rights(branches, open_, _BY_MAIL, None)
    return _Rights(branches, open_, _KNOWN, _BEGINNING)


def _shown(attributes: tuple[str, ...]) -> frozenset[str] | None:
    if "*" in attributes:
        return None
    kinds = [schema.find(name) for name in attributes]
    return frozenset([kind.name for kind in kinds if kind is not None])


def _is_shown(name: str, visible: frozenset[str] | None) -> bool:
    return visible is None or name in visible


def _cut(entry: Entry, visible: frozenset[str]) -> Entry:
    """Leave out what may not be seen; what names an entry is seen in its name anyway."""
    naming = entry.dn.partition("=")[0]
    kept = {
        name: values
        for name, values in entry.attributes.items()
        if name in visible or name in (naming, "objectClass") or _is_operational(name)
    }
    return Entry(entry.dn, kept)


def _is_operational(name: str) -> bool:
    kind = schema.find(name)
    return kind is not None and kind.is_operational


def _check_bound(condition: Condition, rights: _Rights) -> None:
    if rights.bound is None or conditions.is_bound(condition, rights.bound, rights.prefix):
        return
    if rights.prefix is None:
        how = "by their whole mail address"
    else:
        how = "by a whole mail, uid, cn or sn, or how it begins (three characters)"
    raise Fault(
        FaultCode.REJECTED,
        f"without logging in, people and devices are found {how}; or search below another base",
        rule="ldap.unindexed",
    )


def _cursor(after: bytes | None) -> tuple[int, str]:
    if not after:
        return 0, ""
    branch, _, name = after.decode().partition(":")
    return int(branch), name


def _no_such(matched: str) -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        "there is no such entry",
        rule="ldap.no-such-object",
        values={"matched": matched},
    )


def _forbidden(who: Who) -> Fault:
    how = "without logging in" if who.kind == ANONYMOUS.kind else "with this login"
    return Fault(FaultCode.FORBIDDEN, f"this part is not shown {how}", rule="ldap.forbidden")


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
