"""Whatever a stranger types as a name or beside it: one refusal, or whoever it is."""

from __future__ import annotations

import secrets
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.login_world import ADMIN, PUBLIC, LoginWorld, hotp
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import naming
from tmad.identity.login import LoginRules, Prompt
from tmad.identity.login_rules import LockRules, Mode

PASSWORD = secrets.token_urlsafe(12)
NAMES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="bo\u0300\u200b\0@/\\\ud800\ufffd \u00a0", max_size=10),
    st.sampled_from(["bob", "BOB ", "bob@realm", "x" * 5_000]),
)
TYPED = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet="0123456789 -\u0661\uff11", max_size=20).map(str.encode),
    st.binary(max_size=8).map(lambda tail: PASSWORD.encode() + tail),
    st.just(b"x" * 5_000),
)


@pytest.fixture(scope="module")
def world() -> LoginWorld:
    made = LoginWorld()
    drive(made.person("bob", PASSWORD))
    drive(made.token())
    drive(made.tokens.set_pin(ADMIN, "default", "T1", Secret("4711")))
    # The code that would be right is never presented.
    drive(made.login(hotp(0)))
    return made


@settings(max_examples=150)
@given(NAMES, TYPED, st.sampled_from(get_args(Mode)), st.booleans())
def test_whatever_is_presented_is_refused_in_the_one_way(
    world: LoginWorld, name: str, typed: bytes, mode: Any, always_challenge: bool
) -> None:
    rules = LoginRules(
        mode=mode,
        realms=("realm",),
        emergency_codes=always_challenge,
        always_challenge=always_challenge,
        lock=LockRules(failures=1_000, source_failures=0),
    )
    is_right = typed == PASSWORD.encode()
    try:
        outcome = drive(world.login(typed, name, rules=rules))
        if isinstance(outcome, Prompt):
            outcome = drive(world.answer(outcome, "000000"))
    except Fault as fault:
        answer = (fault.code, fault.detail)
        assert answer == (FaultCode.UNAUTHENTICATED, PUBLIC)
    else:
        assert mode == "password"
        assert is_right
    finally:
        for coroutine in world.later:
            coroutine.close()
        world.later.clear()


@given(st.text(max_size=60))
def test_names_and_numbers_are_read_or_refused(text: str) -> None:
    for read in (
        naming.person_name,
        naming.mail_address,
        naming.phone_number,
        naming.group_name,
        naming.device_name,
        naming.mac_address,
    ):
        try:
            stored = read(text)
        except Fault as fault:
            assert fault.code is FaultCode.REJECTED  # noqa: PT017  both are answers
        else:
            assert read(stored) == stored
            assert stored.isprintable()
    for key in (naming.person_key(text), naming.device_key(text)):
        key.encode()
        assert "\0" not in key
