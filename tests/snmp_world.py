"""A small SNMP engine with users and communities, and a manager that asks it, without sockets."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from tmad.events import Secret
from tmad.identity.snmp_managers import Community, EngineState, Table, User, parse_view
from tmad.protocols.snmp import codec
from tmad.protocols.snmp.codec import (
    AUTHENTICATED,
    ENCRYPTED,
    REPORTABLE,
    CommunityMessage,
    Kind,
    SecureMessage,
)
from tmad.protocols.snmp.engine import COUNTERS, Engine, Policy, Reply
from tmad.protocols.snmp.mib import Snapshot
from tmad.protocols.snmp.usm import Keys, LocalEngine, Salts
from tmad.protocols.snmp.values import (
    NULL,
    OID,
    Counter64,
    Gauge32,
    Integer,
    Octets,
    Value,
    encode_oid,
)
from tmad.wire import usm

ENGINE_ID = bytes.fromhex("80001f88050102030405060708")
COMMUNITY = b"a-community"
MANAGER = "192.0.2.1"
SECRETS = (b"first passphrase", b"second passphrase")
AUTH_PRIV = AUTHENTICATED | ENCRYPTED

SYSTEM = (1, 3, 6, 1, 2, 1, 1)
TABLE = (1, 3, 6, 1, 2, 1, 2, 2, 1)


def small() -> Snapshot:
    """Return two scalars and a table of two columns and three rows."""
    items: list[tuple[OID, OID, Value]] = [
        ((*SYSTEM, 1), (0,), Octets(b"a description")),
        ((*SYSTEM, 7), (0,), Integer(72)),
        *(((*TABLE, 1), (row,), Gauge32(row)) for row in (1, 2, 300)),
        *(((*TABLE, 2), (row,), Counter64(row << 40)) for row in (1, 2, 300)),
        ((1, 3, 6, 1, 4, 1, 9, 1), (0,), Octets(b"elsewhere")),
    ]
    return Snapshot.of(items)


def make_user(name: str = "noc", *, view: str = "all", **algorithms: str) -> User:
    """Return a user with SECRETS as passphrases."""
    authentication = algorithms.get("authentication", "sha256")
    return User(
        name=name,
        authentication=authentication,
        privacy=algorithms.get("privacy", "aes128"),
        view=parse_view(view),
        authentication_key=Secret(usm.key_of(authentication, SECRETS[0])),
        privacy_key=Secret(usm.key_of(authentication, SECRETS[1])),
    )


def make_community(view: str = "all", prefix: str = "192.0.2.0/24") -> Community:
    """Return the community COMMUNITY."""
    return Community(
        name="site",
        community=Secret(COMMUNITY),
        prefixes=(ip_network(prefix),),
        view=parse_view(view),
    )


class Seconds:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 10_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """One engine and whoever asks it."""

    def __init__(
        self,
        *users: User,
        community: Community | None = None,
        snapshot: Snapshot | None = None,
        boots: int = 3,
        **policy: Any,
    ) -> None:
        self.seconds = Seconds()
        self.snapshot = snapshot or small()
        self.user = users[0] if users else make_user()
        community = community or make_community()
        self.table = Table(
            {user.name.encode(): user for user in users or (self.user,)},
            {community.community.reveal(): (community,)},
        )
        state = EngineState(engine_id=ENGINE_ID, boots=boots, age=500.0)
        self.local = LocalEngine(state, self.seconds)
        self.engine = Engine(
            self.local,
            lambda: self.snapshot,
            Salts(0),
            self.seconds,
            Policy(**policy),
            dict.fromkeys(COUNTERS, 0),
        )
        self.keys = Keys.of(self.user, ENGINE_ID)
        self.salts = Salts(1 << 32)

    def answer(self, datagram: bytes, address: str = MANAGER) -> Reply:
        """Return what the engine sends back."""
        return self.engine.answer(datagram, address, self.table)

    # -- communities ------------------------------------------------------------------------

    def ask(
        self, pdu: codec.PDU, *, version: int = codec.V2C, community: bytes = COMMUNITY
    ) -> codec.PDU:
        """Ask with a community; return the answer."""
        reply = self.answer(codec.encode_community(version, community, codec.pdu_octets(pdu)))
        assert reply.octets is not None, reply.outcome
        message = codec.decode(reply.octets)
        assert isinstance(message, CommunityMessage)
        assert (message.version, message.community) == (version, community)
        return codec.decode_pdu(message.pdu)

    # -- SNMPv3 -----------------------------------------------------------------------------

    def message(
        self, pdu: bytes, *, flags: int = AUTH_PRIV | REPORTABLE, **changes: Any
    ) -> SecureMessage:
        """Return a message in good time, not sealed yet."""
        made = SecureMessage(
            message_id=4711,
            max_size=65_507,
            flags=flags,
            engine_id=ENGINE_ID,
            boots=self.local.boots,
            time=self.local.time(),
            user=self.user.name.encode(),
            digest=b"",
            salt=b"",
            data=codec.encode_scoped(ENGINE_ID, b"", pdu),
        )
        return made._replace(**changes)

    def seal(self, message: SecureMessage) -> bytes:
        """Return a message as the manager sends it."""
        return self.keys.sealed(message, self.salts)

    def open(self, octets: bytes) -> tuple[SecureMessage, codec.PDU]:
        """Return an answer and its PDU; its digest must be good if it has one."""
        message = codec.decode(octets)
        assert isinstance(message, SecureMessage)
        data: bytes | None = message.data
        if message.flags & AUTHENTICATED:
            assert self.keys.is_authentic(message)
        if message.flags & ENCRYPTED:
            data = self.keys.decrypt(message)
        assert data is not None
        scoped = codec.decode_scoped(data)
        assert (scoped.engine_id, scoped.context) == (ENGINE_ID, b"")
        return message, codec.decode_pdu(scoped.pdu)

    def ask_v3(self, pdu: codec.PDU, **changes: Any) -> tuple[SecureMessage, codec.PDU]:
        """Ask as the user; return the answer."""
        reply = self.answer(self.seal(self.message(codec.pdu_octets(pdu), **changes)))
        assert reply.octets is not None, reply.outcome
        return self.open(reply.octets)


def question(kind: Kind, *names: OID, first: int = 0, second: int = 0) -> codec.PDU:
    """Return a question; ``first`` and ``second`` are for GETBULK."""
    bindings = [codec.VarBind(encode_oid(name), NULL) for name in names]
    return codec.PDU(kind, 12_345, first, second, bindings)
