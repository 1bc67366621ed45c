"""People and devices as entries, with the certificates that they hold in this instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from tmad.ca.directory import DEVICE, PERSON, Device, Directories, Held, Person, Published
from tmad.ca.hierarchy import Issuer
from tmad.protocols.ldap import conditions, entries, filters, names
from tmad.protocols.ldap.conditions import CERTIFICATE
from tmad.protocols.ldap.entries import Place, Wish
from tmad.protocols.ldap.names import Key
from tmad.protocols.ldap.rights import Rights
from tmad.protocols.ldap.tree import Entry
from tmad.storage.conditions import Condition, Same
from tmad.storage.holdings import Names

_S_MIME: Final = "userSMIMECertificate"
# Certificates of more bits of serial number than any authority gives are not looked for.
_LONGEST_SERIAL: Final = 512
_KEPT: Final = 50_000
_newest_first = attrgetter("id")


class Members:
    """Makes entries of rows; ``forget`` what is kept of authorities when they change."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._issuer_names: dict[bytes, Key] = {}
        self._chains: dict[int, tuple[bytes, ...]] = {}
        # By their ids: what a certificate is for never changes.
        self._for_mail: dict[int, bool] = {}

    def forget(self) -> None:
        """Drop what is kept of authorities."""
        self._issuer_names.clear()
        self._chains.clear()

    async def made(
        self,
        directory: Published,
        wish: Wish,
        rights: Rights,
        found: Sequence[Person | Device],
    ) -> list[Entry]:
        """Return the entries of rows, with what is needed and may be seen of them."""
        place = Place(directory.tenant, directory.document.suffix)
        held: Mapping[str, list[Held]] = {}
        s_mime = wish.has(_S_MIME) and rights.show(_S_MIME)
        if found and (s_mime or (wish.has(CERTIFICATE) and rights.show(CERTIFICATE))):
            held = await self._held(directory, found)
        made = []
        for row in found:
            own = held.get(row.name, [])
            if len(own) > 1:
                own.sort(key=_newest_first, reverse=True)
            ders = [each.certificate_der for each in own]
            if isinstance(row, Person):
                entry = entries.person(place, row, ders, wish)
                if s_mime and own:
                    entry = await self._with_s_mime(entry, own)
            else:
                entry = entries.device(place, row, ders, wish)
            made.append(rights.cut(entry))
        return made

    async def holders(
        self, tenant: str, named: Mapping[filters.Item, tuple[int, object]]
    ) -> conditions.Holders:
        """Return whom the certificates belong to that a filter names (L-21)."""
        found: dict[tuple[str, filters.Item], Condition] = {}
        for item, (serial, issuer) in named.items():
            ways: dict[str, list[Condition]] = {"people": [], "devices": []}
            for whose in await self._named_by(tenant, serial, issuer):
                if whose.owner.startswith(PERSON):
                    ways["people"].append(Same("name", whose.owner.removeprefix(PERSON)))
                elif whose.owner.startswith(DEVICE):
                    ways["devices"].append(Same("name", whose.owner.removeprefix(DEVICE)))
                else:
                    ways["people"] += [Same("mail", mail) for mail in whose.mails]
            found |= {(kind, item): conditions.either(each) for kind, each in ways.items()}
        return found

    async def _held(
        self, directory: Published, found: Sequence[Person | Device]
    ) -> dict[str, list[Held]]:
        """Return the certificates of people or devices, by the name of who has them."""
        owners: dict[str, str] = {}
        mails: dict[str, list[str]] = {}
        for row in found:
            if isinstance(row, Person):
                owners[PERSON + row.name] = row.name
                if row.mail:
                    mails.setdefault(row.mail, []).append(row.name)
            else:
                owners[DEVICE + row.name] = row.name
        shown = await self._directories.held_by(directory, list(owners), list(mails))
        if len(found) == 1:
            return {found[0].name: shown}
        held: dict[str, list[Held]] = {}
        for each in shown:
            # What has an owner is his; else it is everybody's whose address is in it.
            having = mails[each.mail] if each.mail else [owners[each.owner]]
            for name in having:
                held.setdefault(name, []).append(each)
        return held

    async def _with_s_mime(self, entry: Entry, held: Sequence[Held]) -> Entry:
        values = []
        for each in held:
            if self._is_for_mail(each):
                chain = await self._chain(each.issuer_id)
                values.append(entries.s_mime(each.certificate_der, chain))
        if not values:
            return entry
        return Entry(entry.dn, {**entry.attributes, _S_MIME: tuple(values)})

    def _is_for_mail(self, held: Held) -> bool:
        found = self._for_mail.get(held.id)
        if found is None:
            if len(self._for_mail) >= _KEPT:
                self._for_mail.clear()
            found = self._for_mail[held.id] = entries.is_for_mail(held.certificate_der)
        return found

    async def _chain(self, issuer_id: int) -> tuple[bytes, ...]:
        """Return an issuer's certificate and those above it, encoded."""
        chain = self._chains.get(issuer_id)
        if chain is None:
            # What is forgotten while the issuer is looked up must not be kept because of it.
            generation = self._directories.generation
            issuer = await self._directories.issuer(issuer_id)
            chain = tuple([each.public_bytes(Encoding.DER) for each in issuer.chain])
            if generation == self._directories.generation:
                self._chains[issuer_id] = chain
        return chain

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
