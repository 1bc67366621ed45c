"""Managers of SNMP as values: users, communities, and the views of the tree that they have."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from tmad import documents
from tmad.events import Secret

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
OID: TypeAlias = tuple[int, ...]

# Subtrees and what they mean; a view may name them instead of writing numbers.
VIEWS: Final[Mapping[str, str]] = {
    "all": "1.3.6.1",
    # system, interfaces and snmp; ifXTable; HOST-RESOURCES-MIB; UCD-SNMP-MIB
    "host": "1.3.6.1.2.1.1 1.3.6.1.2.1.2 1.3.6.1.2.1.11 1.3.6.1.2.1.31 1.3.6.1.2.1.25"
    " 1.3.6.1.4.1.2021",
    # system, and what is below net-snmp's number for experiments
    "tmad": "1.3.6.1.2.1.1 1.3.6.1.4.1.8072.9999.9999",
}

_SUBTREE: Final = re.compile(r"-?\d{1,10}(\.\d{1,10}){0,127}")


@dataclass(frozen=True, slots=True)
class Subtree:
    """A part of the tree that a view has, or has not."""

    oid: OID
    is_included: bool = True


View: TypeAlias = tuple[Subtree, ...]


def parse_view(text: str) -> View:
    """Return a view: names of VIEWS and subtrees, "-" before what it has not.

    ``"all -1.3.6.1.2.1.25.4"``; Fault(REJECTED) for anything else.
    """
    found = []
    for word in text.split():
        sign, name = ("-", word[1:]) if word.startswith("-") else ("", word)
        for subtree in VIEWS.get(name, name).split():
            if not _SUBTREE.fullmatch(subtree):
                known = ", ".join(VIEWS)
                raise documents.rejection(
                    {"view": f"{word!r} is neither one of {known} nor numbers like 1.3.6.1.2.1"}
                )
            found.append(Subtree(tuple(int(arc) for arc in subtree.split(".")), not sign))
    if not any(subtree.is_included for subtree in found):
        raise documents.rejection({"view": "it shows nothing: name at least one subtree"})
    return tuple(found)


@functools.lru_cache(maxsize=1_024)
def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address as the network knows it; a walk asks from one address all the time."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of SNMPv3; the keys are not localised yet (``wire.usm``)."""

    name: str
    authentication: str
    privacy: str
    view: View
    authentication_key: Secret
    privacy_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Community:
    """A community, good from some addresses only."""

    name: str
    community: Secret
    prefixes: tuple[Network, ...]
    view: View

    def covers(self, address: str) -> bool:
        """Whether it may be used from an address."""
        host = _host(address)
        return host is not None and any(host in prefix for prefix in self.prefixes)


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """Everybody who may ask, by what they present: no repr, as a community is its own secret."""

    users: Mapping[bytes, User]
    communities: Mapping[bytes, tuple[Community, ...]]

    def community(self, presented: bytes, address: str) -> Community | None:
        """Return the community that was presented, if it is good from this address."""
        for found in self.communities.get(presented, ()):
            if found.covers(address):
                return found
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """This node's engine; ``age`` is how many seconds it counts since its last boot."""

    engine_id: bytes
    boots: int
    age: float


@dataclass(frozen=True, slots=True)
class Passphrases:
    """What a new user types at the manager."""

    authentication: Secret
    privacy: Secret


def networks(prefixes: Iterable[str]) -> list[Network]:
    """Return prefixes from what somebody wrote; Fault(REJECTED) for none or a wrong one."""
    found = []
    for text in prefixes:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise documents.rejection({"prefixes": f"{text}: {error}"}) from None
    if not found:
        # A community is readable on the wire: from anywhere it would be no secret at all.
        raise documents.rejection({"prefixes": "name at least one, such as 192.0.2.0/24"})
    return found
