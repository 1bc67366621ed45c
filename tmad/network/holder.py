"""Whose certificate it is: from its owner and its names to a person and a device (E-42)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode
from tmad.identity.naming import device_key, person_key, spellings
from tmad.managed.catalogue import PrincipalRules
from tmad.network import templates
from tmad.network.facts import Facts
from tmad.network.visit import Visit
from tmad.storage import devices, people
from tmad.storage import network as rows
from tmad.storage.changes import Changes
from tmad.storage.database import Database
from tmad.storage.kept import KeptByKey
from tmad.storage.network import NAMES, DeviceStanding, PersonStanding, Principals

_MAC: Final = re.compile(r"[0-9a-f]{12}")
_KEPT: Final = 4096
_PERSON: Final = "person:"
_DEVICE: Final = "device:"
_Key = tuple[str, bytes, str, str]  # tenant, certificate, owner, station


class Sought(NamedTuple):
    """Under which names people and devices are looked for, the most telling first."""

    people: tuple[str, ...]
    mails: tuple[str, ...]
    devices: tuple[str, ...]
    mac: str


class _Known(NamedTuple):
    rules: PrincipalRules
    sought: Sought
    found: Principals
    name: str


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Holder:
    """Who logs in, as far as certificate and records tell.

    ``responsible`` is the person whose account the login hangs on: the person, else the owner
    of the device. ``name`` is what the certificate itself says, or the person's without one.
    ``doubts`` are reasons to refuse that a rule which only monitors passes over.
    """

    name: str
    person: PersonStanding | None
    device: DeviceStanding | None
    responsible: str | None
    doubts: tuple[Fault, ...]
    ends: datetime | None  # when the account does


class Holders:
    """Finds the holders of certificates, as of the last ``changes.catch_up()``.

    Whom the names of a certificate mean is remembered until something about a person or a
    device of the tenant changes.
    """

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._kept: KeptByKey[_Key, _Known] = KeptByKey(largest=_KEPT)
        self._parts: KeptByKey[tuple[str, tuple[str, ...], str], Principals]
        self._parts = KeptByKey(largest=_KEPT)
        changes.listen(people.TOPIC, self._forget)
        changes.listen(devices.TOPIC, self._forget)

    async def of(
        self, facts: Facts, owner: str, rules: PrincipalRules, visit: Visit, at: datetime
    ) -> Holder:
        """Return who holds a certificate with this owner."""
        mac = station_of(visit)
        key = visit.tenant, facts.sha256, owner, mac
        known = self._kept.get(key)
        if known is None or known.rules is not rules:
            wanted = sought(facts, owner, rules, mac)
            name = canonical_name(facts, rules)
            known = await self._kept.fill(key, self._look(visit.tenant, rules, wanted, name))
        return find(known.sought, owner, known.found, known.name, at)

    async def named(self, tenant: str, name: str, mac: str) -> Principals:
        """Return a person, and the devices at this MAC address."""
        # Kept by themselves: many people may come from one address.
        people = await self._kept_part(tenant, (name,), "")
        devices = await self._kept_part(tenant, (), mac)
        return Principals(people.people, devices.devices)

    async def _kept_part(self, tenant: str, names: tuple[str, ...], mac: str) -> Principals:
        key = tenant, names, mac
        found = self._parts.get(key)
        if found is None:
            reading = self._database.lookup(rows.principals, tenant, names, (), (), mac)
            found = await self._parts.fill(key, reading)
        return found

    async def _look(self, tenant: str, rules: PrincipalRules, wanted: Sought, name: str) -> _Known:
        found = await self._database.lookup(rows.principals, tenant, *wanted)
        return _Known(rules, wanted, found, name)

    def _forget(self, key: str) -> None:
        tenant = key.partition("/")[0]
        self._kept.forget_where(lambda each: key == "*" or each[0] == tenant)
        self._parts.forget_where(lambda each: key == "*" or each[0] == tenant)


def sought(facts: Facts, owner: str, rules: PrincipalRules, mac: str) -> Sought:
    """Return what a certificate with this owner is looked for by."""
    persons = [person_key(owner.removeprefix(_PERSON))] if owner.startswith(_PERSON) else []
    things = [device_key(owner.removeprefix(_DEVICE))] if owner.startswith(_DEVICE) else []
    for kind in rules.order:
        for value in facts.of_kind(kind):
            persons += spellings(value, rules.realms)
    mails = [value.lower() for kind in ("email", "upn") for value in facts.of_kind(kind)]
    things += [device_key(value) for kind in ("dns", "cn") for value in facts.of_kind(kind)]
    return Sought(_first(persons), _first(mails), _first(things), mac)


def station_of(visit: Visit) -> str:
    """Return the visit's MAC address, or an empty text."""
    return visit.calling_station if _MAC.fullmatch(visit.calling_station) else ""


def find(sought: Sought, owner: str, found: Principals, name: str, at: datetime) -> Holder:
    """Return who of those that were found holds the certificate that itself says ``name``."""
    person = _person(sought, owner, found.people)
    device = _named(sought.devices[:1] if owner.startswith(_DEVICE) else sought.devices, found)
    doubts = list(_absent(owner, person, device))
    doubts += of_person(person, at)
    doubts += of_devices(found.devices, device, sought.mac, at)
    responsible = person.name if person else None
    if responsible is None and device is not None and device.owner_is_known:
        responsible = device.owner
    return Holder(
        name=name,
        person=person,
        device=device,
        responsible=responsible,
        doubts=tuple(doubts),
        ends=person.valid_until if person else device.owner_valid_until if device else None,
    )


def of_person(person: PersonStanding | None, at: datetime) -> Iterator[Fault]:
    """Yield what keeps a person from joining."""
    if person is None:
        return
    if person.disabled_at is not None:
        yield _refusal(
            "network.owner-disabled",
            "the person is disabled",
            person=person.name,
            since=person.disabled_at.isoformat(),
        )
    if person.valid_until is not None and person.valid_until <= at:
        yield _refusal(
            "network.owner-expired",
            "the person's account has ended",
            person=person.name,
            valid_until=person.valid_until.isoformat(),
        )


def of_devices(
    found: Iterable[DeviceStanding], device: DeviceStanding | None, mac: str, at: datetime
) -> Iterator[Fault]:
    """Yield what keeps a device from joining.

    A block holds by every name of the certificate and by the MAC address. An address proves
    nothing, and changes on phones: nobody is let in because of it.
    """
    for each in found:
        if each.blocked_at is not None:
            yield _refusal(
                "network.device-blocked",
                "the device is blocked",
                device=each.name,
                known_by="its MAC address" if mac and each.mac == mac else "its name",
                since=each.blocked_at.isoformat(),
            )
    if device is None or not device.owner_is_known:
        return
    if device.owner_disabled_at is not None:
        yield _refusal(
            "network.owner-disabled",
            "the device's owner is disabled",
            person=device.owner,
            device=device.name,
            since=device.owner_disabled_at.isoformat(),
        )
    if device.owner_valid_until is not None and device.owner_valid_until <= at:
        yield _refusal(
            "network.owner-expired",
            "the account of the device's owner has ended",
            person=device.owner,
            device=device.name,
            valid_until=device.owner_valid_until.isoformat(),
        )


def canonical_name(facts: Facts, rules: PrincipalRules) -> str:
    """Return what accounting shows where the certificate belongs to no person that we know.

    The first name of the configured order, else the subject; never the outer identity.
    """
    for kind in rules.order:
        for value in facts.of_kind(kind):
            if _is_user_name(name := templates.clean(value).strip()):
                return name
    name = templates.clean(facts.subject).strip()
    return name if _is_user_name(name) else f"serial:{facts.serial.hex()}"


def _is_user_name(name: str) -> bool:
    return 0 < len(name.encode()) <= templates.LONGEST


def _person(sought: Sought, owner: str, found: tuple[PersonStanding, ...]) -> PersonStanding | None:
    by_name = {person.name: person for person in found}
    if owner.startswith(_PERSON):
        # Who it was issued for counts, not what else its names may mean.
        return by_name.get(person_key(owner.removeprefix(_PERSON)))
    for name in sought.people:
        if name in by_name:
            return by_name[name]
    for mail in sought.mails:
        having = [person for person in found if person.mail == mail]
        if len(having) == 1:
            return having[0]
    return None


def _named(names: tuple[str, ...], found: Principals) -> DeviceStanding | None:
    by_name = {device.name: device for device in found.devices}
    return next((by_name[name] for name in names if name in by_name), None)


def _absent(
    owner: str, person: PersonStanding | None, device: DeviceStanding | None
) -> Iterator[Fault]:
    if (owner.startswith(_PERSON) and person is None) or (
        owner.startswith(_DEVICE) and device is None
    ):
        yield _refusal(
            "network.owner-absent", "the certificate's owner does not exist any more", owner=owner
        )


def _first(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))[:NAMES]


def _refusal(rule: str, detail: str, **values: str) -> Fault:
    return Fault(FaultCode.FORBIDDEN, detail, rule=rule, values=values)
