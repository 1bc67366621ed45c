"""Where a validator may connect to: what somebody else's DNS says decides nothing (T-ACME-05).

The address that is checked here is the one that is connected to; a name is not looked up a
second time.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from tmad.ca.validation.contract import Network, Problem, ValidationRules, refusal
from tmad.ca.validation.resolver import Address, Resolver
from tmad.errors import Fault

_Ports: TypeAlias = Callable[[], Collection[int]]

# Twisted leaves it untyped.
_over_tls: Callable[..., Any] = TLSMemoryBIOFactory

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
# Where clouds tell a machine its secrets, apart from the link-local address of most of them.
_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
)
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_SITE_LOCAL: Final = ipaddress.ip_network("fec0::/10")  # of old, and Python calls it global
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_ADDRESSES: Final = 4  # of one host that are tried
_PATIENCE: Final = 4.0  # seconds for one connection to be made
FAILURES: Final = (
    ConnectError,
    ConnectionClosed,
    ConnectingCancelledError,
    TimeoutError,
    CancelledError,
    OSError,
)


def in_words(error: BaseException) -> str:
    """Return what one of FAILURES, or OpenSSL's error, means."""
    if isinstance(error, Fault):
        return error.detail
    if isinstance(error, TimeoutError | CancelledError | ConnectingCancelledError):
        return "no whole answer in time"
    if isinstance(error, SSL.Error):
        # OpenSSL's queue: (library, function, reason), and empty for some ends.
        reasons = [str(each[-1]) for each in error.args[0]] if error.args else []
        return f"TLS: {', '.join(reasons) or 'the connection ended'}"[:200]
    return f"{type(error).__name__}: {error}"[:200]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What one attempt reaches hosts with; it is over at ``deadline``.

    ``own_ports`` is asked only about addresses of this machine.
    """

    reactor: Any
    resolver: Resolver
    rules: ValidationRules
    own_ports: _Ports
    deadline: float

    def left(self) -> float:
        """Return the seconds that are left, never quite none."""
        return max(0.001, self.deadline - float(self.reactor.seconds()))

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return where a host may be connected to; refusal if it may be nowhere."""
        try:
            found: list[Address] = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self.resolver.addresses(host)
        good, refused = [], []
        for address in found:
            try:
                check(address, port, self.rules, self.own_ports)
            except Fault as fault:
                refused.append(fault)
            else:
                good.append(address)
        if not good:
            raise refused[0]
        return good[:_ADDRESSES]

    async def connect(
        self,
        address: Address,
        port: int,
        protocol: Protocol,
        tls: IOpenSSLClientConnectionCreator | None = None,
    ) -> None:
        """Connect a protocol to one address; raise one of FAILURES."""
        kind: Any = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
        endpoint: Any = kind(self.reactor, str(address), port, timeout=min(_PATIENCE, self.left()))
        factory: Any = Factory.forProtocol(lambda: protocol)
        if tls is not None:
            factory = _over_tls(tls, True, factory, self.reactor)
        # The log is not for how often strangers are asked.
        factory.noisy = False
        connecting: Deferred[Any] = endpoint.connect(factory)
        await connecting.addTimeout(self.left(), self.reactor)


def check(address: Address, port: int, rules: ValidationRules, own_ports: _Ports = tuple) -> None:
    """Refuse an address that a validator must not connect to."""
    for each in _meanings(address):
        why = _objection(each, port, rules, own_ports)
        if why:
            raise refusal(
                Problem.CONNECTION,
                f"{address} is not validated: {why}",
                address=str(address),
                port=str(port),
            )


def _objection(address: Address, port: int, rules: ValidationRules, own_ports: _Ports) -> str:
    if _is_in(address, rules.denied_networks):
        return "it lies in a network that denied_networks names"
    is_own = is_ours(address)
    if is_own and port in own_ports():
        return f"port {port} of this machine is the appliance's own"
    if _is_lifted(address, rules.allowed_networks):
        return ""
    if address in _METADATA or address.is_link_local:
        return "it is link-local, or a cloud's metadata service"
    if address.is_multicast or address.is_unspecified or address in _THIS_NETWORK:
        return "it is no address of one machine"
    if address.is_loopback or is_own:
        return "it is this machine"
    if address.is_reserved and address not in _NAT64:
        return "it is reserved"
    if not rules.allowed_networks:
        is_public = address in _NAT64 or (address.is_global and address not in _SITE_LOCAL)
        return "" if is_public else "it is not public, and allowed_networks does not name it"
    if not _is_in(address, rules.allowed_networks):
        return "allowed_networks does not name it"
    return ""


def _meanings(address: Address) -> Iterator[Address]:
    """Yield an address and the IPv4 address that may stand in it."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _is_in(address: Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks)


def _is_lifted(address: Address, networks: Collection[Network]) -> bool:
    """Tell whether a network is meant to be just loopback or just this address."""
    for network in networks:
        if address not in network:
            continue
        if network.num_addresses == 1 or any(
            network.version == loop.version and network.subnet_of(loop)  # type: ignore[arg-type]
            for loop in _LOOPBACK
        ):
            return True
    return False


def is_ours(address: Address) -> bool:
    """Tell whether an address is one of this machine's: only such can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    # All of 127.0.0.0/8 can be bound, and the unspecified address as well.
    return not address.is_unspecified
