"""MS-CHAP-V2 against the examples of RFC 2759, 9.2 and RFC 3079, 3.5.3."""

from __future__ import annotations

import pytest

from tmad.protocols.radius.eap import mschapv2
from tmad.wire.md4 import md4

NAME = "User"
NT_HASH = bytes.fromhex("44EBBA8D5312B8D611474411F56989AE")
CHALLENGE = bytes.fromhex("5B5D7C7D7B3F2F3E3C2C602132262628")
PEER_CHALLENGE = bytes.fromhex("21402324255E262A28295F2B3A337C7E")
RESPONSE = bytes.fromhex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF")


def test_the_hash_of_the_password_is_that_of_the_rfc() -> None:
    assert md4("clientPass".encode("utf-16-le")) == NT_HASH


def test_the_challenge_is_that_of_the_rfc() -> None:
    found = mschapv2.challenge_hash(PEER_CHALLENGE, CHALLENGE, NAME)
    assert found == bytes.fromhex("D02E4386BCE91226")


def test_the_response_is_that_of_the_rfc() -> None:
    assert mschapv2.nt_response(NT_HASH, CHALLENGE, PEER_CHALLENGE, NAME) == RESPONSE


def test_the_servers_proof_is_that_of_the_rfc() -> None:
    assert (
        mschapv2.authenticator_response(NT_HASH, CHALLENGE, PEER_CHALLENGE, RESPONSE, NAME)
        == "S=407A5589115FD0D6209F510FE9C04566932CDA56"
    )


def test_the_keys_are_those_of_the_rfc() -> None:
    receive, send = mschapv2.keys(NT_HASH, RESPONSE)
    # RFC 3079, 3.5.3 prints the server's send key.
    assert send == bytes.fromhex("8B7CDC149B993A1BA118CB153F56DCCB")
    assert receive != send
    assert len(receive) == 16


def test_the_domain_does_not_go_into_the_response() -> None:
    with_domain = mschapv2.nt_response(NT_HASH, CHALLENGE, PEER_CHALLENGE, f"CORP\\{NAME}")
    assert with_domain == RESPONSE


def test_a_right_response_is_right() -> None:
    assert mschapv2.verify(NT_HASH, CHALLENGE, PEER_CHALLENGE, RESPONSE, NAME)


@pytest.mark.parametrize(
    ("nt_hash", "challenge", "peer_challenge", "response", "name"),
    [
        (None, CHALLENGE, PEER_CHALLENGE, RESPONSE, NAME),
        (bytes(16), CHALLENGE, PEER_CHALLENGE, RESPONSE, NAME),
        (NT_HASH, PEER_CHALLENGE, CHALLENGE, RESPONSE, NAME),
        (NT_HASH, CHALLENGE, PEER_CHALLENGE, RESPONSE[:-1] + b"\x00", NAME),
        (NT_HASH, CHALLENGE, PEER_CHALLENGE, b"", NAME),
        (NT_HASH, CHALLENGE, PEER_CHALLENGE, RESPONSE, "user"),
    ],
)
def test_anything_else_is_wrong(
    nt_hash: bytes | None, challenge: bytes, peer_challenge: bytes, response: bytes, name: str
) -> None:
    assert not mschapv2.verify(nt_hash, challenge, peer_challenge, response, name)
