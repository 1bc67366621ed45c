"""What a ClientHello offers to resume, as OpenSSL's own client writes it."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from tests.eap_peer import TLS, Peer
from tests.eap_world import EAPWorld
from tmad.protocols.radius.eap.hello import offered
from tmad.protocols.radius.eap.tls import TLSRules

SHARED = TLSRules(is_shared=True)


@pytest.fixture(scope="module")
def world() -> EAPWorld:
    return EAPWorld(rules=SHARED)


def greeting(peer: Peer) -> bytes:
    """Return the first message of a client."""
    assert peer.context is not None
    connection = SSL.Connection(peer.context, None)
    connection.set_connect_state()
    if peer.session is not None:
        connection.set_session(peer.session)
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65_536)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_the_session_that_was_made_is_the_one_that_is_offered(
    world: EAPWorld, version: str
) -> None:
    first = world.peer(world.client(), version=version)
    world.login(first)
    again = Peer(TLS, first.context, session=first.remembered())
    found = offered(greeting(again), speaks_13=True)
    assert len(found) == 1
    assert world.engine.holds(found)
    assert world.engine.missing(greeting(again)) == ()
    # What somebody else holds is missing here.
    assert EAPWorld(rules=SHARED).engine.holds(found) is False


def test_a_client_of_tls_13_offers_nothing_by_the_field_that_is_for_boxes_in_the_middle(
    world: EAPWorld,
) -> None:
    peer = world.peer(world.client(), version="1.3")
    message = greeting(peer)
    assert offered(message, speaks_13=True) == ()
    # A server without it cannot tell that from a session of TLS 1.2.
    [session] = offered(message, speaks_13=False)
    assert len(session) == 32
    assert world.engine.missing(message) == ()


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_greeting_that_ends_early_offers_nothing(world: EAPWorld, version: str) -> None:
    first = world.peer(world.client(), version=version)
    world.login(first)
    message = greeting(Peer(TLS, first.context, session=first.remembered()))
    assert offered(message, speaks_13=True)
    for end in range(len(message)):
        assert offered(message[:end], speaks_13=True) == ()
    assert offered(b"\x17" + message[1:], speaks_13=True) == ()


def test_who_is_alone_remembers_no_sessions() -> None:
    alone = EAPWorld()
    first = alone.peer(alone.client(), version="1.3")
    alone.login(first)
    message = greeting(Peer(TLS, first.context, session=first.remembered()))
    assert alone.engine.missing(message) == ()
    assert not alone.engine.holds(offered(message, speaks_13=True))
