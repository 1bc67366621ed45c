"""HOTP and TOTP: the vectors of their RFCs, windows, drift, resynchronisation, spellings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmad.identity.otp import (
    RESYNC,
    Match,
    Position,
    Shape,
    Windows,
    find,
    find_two,
    hotp,
    step_at,
    typed_code,
)

# RFC 4226, appendix D; RFC 6238, appendix B with its errata: longer keys for longer hashes.
SEED = b"12345678901234567890"
SEEDS = {"sha1": SEED, "sha256": (SEED * 2)[:32], "sha512": (SEED * 4)[:64]}
HOTP_CODES = [
    "755224",
    "287082",
    "359152",
    "969429",
    "338314",
    "254676",
    "287922",
    "162583",
    "399871",
    "520489",
]  # appendix D
# RFC 6238, appendix B: seconds -> codes of SHA-1, SHA-256, SHA-512
TOTP_CODES = {
    59: ("94287082", "46119246", "90693936"),
    1111111109: ("07081804", "68084774", "25091201"),
    1111111111: ("14050471", "67062674", "99943326"),
    1234567890: ("89005924", "91819424", "93441116"),
    2000000000: ("69279037", "90698825", "38618901"),
    20000000000: ("65353130", "77737706", "47863826"),
}
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOTP = Shape("sha1", 6, 0)
TOTP = Shape("sha1", 6, 30)


@pytest.mark.parametrize(("counter", "code"), [*enumerate(HOTP_CODES)])
def test_o_12_hotp_vectors(counter: int, code: str) -> None:
    assert hotp(SEED, counter) == code


@pytest.mark.parametrize("seconds", [*TOTP_CODES])
def test_o_21_totp_vectors(seconds: int) -> None:
    step = step_at(datetime.fromtimestamp(seconds, UTC), 30)
    made = tuple(hotp(seed, step, 8, algorithm) for algorithm, seed in SEEDS.items())
    assert made == TOTP_CODES[seconds]


@pytest.mark.parametrize("digits", [6, 7, 8])
def test_codes_of_every_length_end_alike(digits: int) -> None:
    # RFC 4226, appendix D: 1284755224 is the truncated value of counter 0.
    assert hotp(SEED, 0, digits) == "1284755224"[-digits:]


def test_a_code_keeps_its_leading_zeros() -> None:
    step = 1111111109 // 30
    assert hotp(SEED, step, 8) == "07081804"
    shape = Shape("sha1", 8, 30)
    at = datetime.fromtimestamp(1111111109, UTC)
    assert find(SEED, shape, Position(0, 0), "07081804", Windows(), at) is not None
    assert find(SEED, shape, Position(0, 0), "7081804", Windows(), at) is None


# -- windows -----------------------------------------------------------------------------------


def test_o_11_hotp_looks_ahead_and_never_back() -> None:
    def at(counter: int, code: int) -> Match | None:
        return find(SEED, HOTP, Position(counter, 0), hotp(SEED, code), Windows(ahead=3), NOW)

    assert [at(5, code) is not None for code in range(4, 11)] == [False, *[True] * 4, False, False]
    found = at(5, 8)
    assert found == Match(8, 0, False)


def test_o_20_totp_looks_both_ways_and_knows_a_replay() -> None:
    step = step_at(NOW, 30)

    def at(offset: int, *, counter: int = 0, steps: int = 1) -> Match | None:
        code = hotp(SEED, step + offset)
        return find(SEED, TOTP, Position(counter, 0), code, Windows(steps=steps), NOW)

    assert [at(offset) is not None for offset in range(-2, 3)] == [False, True, True, True, False]
    assert [at(offset, steps=0) is not None for offset in (-1, 0, 1)] == [False, True, False]
    assert at(-10, steps=10) is not None
    assert at(-11, steps=10) is None
    used = at(0, counter=step + 1)
    assert used is not None
    assert used.is_replay


def test_a_window_at_the_epoch_does_not_reach_below_it() -> None:
    start = datetime.fromtimestamp(0, UTC)
    found = find(SEED, TOTP, Position(0, 0), hotp(SEED, 0), Windows(steps=10), start)
    assert found == Match(0, 0, False)


def test_of_two_moments_with_one_code_the_usable_one_is_meant() -> None:
    # A code of six digits comes again; searched for here, as no RFC lists a collision.
    seen: dict[str, int] = {}
    for counter in range(10_000):
        code = hotp(SEED, counter)
        if code in seen:
            break
        seen[code] = counter
    first, second = seen[code], counter
    at = datetime.fromtimestamp((second - 5) * 30, UTC)
    position = Position(first + 1, 0)
    wide = Windows(steps=second - first + 10)
    assert find(SEED, TOTP, position, code, wide, at) == Match(second, 1, False)


# -- drift -------------------------------------------------------------------------------------


def test_o_20_drift_is_learned_one_step_at_a_time_and_capped() -> None:
    """A token whose clock gains a step between logins is followed up to ten steps."""
    drift, counter = 0, 0
    now = NOW
    for ahead in range(1, 11):
        now += timedelta(hours=1)
        code = hotp(SEED, step_at(now, 30) + ahead)
        found = find(SEED, TOTP, Position(counter, drift), code, Windows(), now)
        assert found is not None
        assert found.drift == ahead
        counter, drift = found.moment + 1, found.drift
    code = hotp(SEED, step_at(now, 30) + 11 + 30)
    now += timedelta(minutes=15)
    found = find(SEED, TOTP, Position(counter, drift), code, Windows(), now)
    assert found is not None
    assert found.drift == 10


def test_a_late_entry_moves_the_window_by_one_step_and_the_next_moves_it_back() -> None:
    code = hotp(SEED, step_at(NOW, 30) - 1)
    late = find(SEED, TOTP, Position(0, 0), code, Windows(), NOW)
    assert late is not None
    assert late.drift == -1
    then = NOW + timedelta(hours=1)
    punctual = find(SEED, TOTP, Position(0, -1), hotp(SEED, step_at(then, 30)), Windows(), then)
    assert punctual is not None
    assert punctual.drift == 0


# -- resynchronisation -------------------------------------------------------------------------


def test_o_11_two_consecutive_codes_find_a_token_within_a_hundred() -> None:
    def after(start: int) -> Match | None:
        codes = hotp(SEED, start), hotp(SEED, start + 1)
        return find_two(SEED, HOTP, Position(10, 0), *codes, NOW)

    assert after(10) == Match(11, 0, False)
    assert after(10 + RESYNC - 1) == Match(10 + RESYNC, 0, False)
    assert after(10 + RESYNC) is None
    assert after(9) is None
    assert find_two(SEED, HOTP, Position(0, 0), hotp(SEED, 3), hotp(SEED, 5), NOW) is None
    assert find_two(SEED, HOTP, Position(0, 0), hotp(SEED, 4), hotp(SEED, 3), NOW) is None


@pytest.mark.parametrize("offset", [-60, -3, 0, 40, 98])
def test_two_consecutive_codes_set_a_wrong_clock_right(offset: int) -> None:
    step = step_at(NOW, 30) + offset
    codes = hotp(SEED, step), hotp(SEED, step + 1)
    found = find_two(SEED, TOTP, Position(0, 0), *codes, NOW)
    assert found == Match(step + 1, offset + 1, False)
    # and the next code is found where the token's clock now is
    then = NOW + timedelta(seconds=60)
    code = hotp(SEED, step_at(then, 30) + found.drift)
    position = Position(found.moment + 1, found.drift)
    assert find(SEED, TOTP, position, code, Windows(), then) is not None


def test_used_codes_do_not_resynchronise() -> None:
    step = step_at(NOW, 30)
    codes = hotp(SEED, step), hotp(SEED, step + 1)
    assert find_two(SEED, TOTP, Position(step + 1, 0), *codes, NOW) is None


# -- spellings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        (b"123456", "123456"),
        (b"123 456", "123456"),
        (b" 123-456 ", "123456"),
        (b"012345", "012345"),
        (b"1234567", "1234567"),
        (b"12345678", "12345678"),
        (b"12345", None),
        (b"123456789", None),
        (b"", None),
        (b"   ", None),
        (b"123456\0", None),
        (b"123456\n", None),
        (b"+123456", None),
        (b"0x1234", None),
        (b"1e5000", None),
        (b"12_456", None),
        ("123\u00a0456".encode(), None),
        ("\uff11\uff12\uff13\uff14\uff15\uff16".encode(), None),
        ("\u0661\u0662\u0663\u0664\u0665\u0666".encode(), None),
        ("12345\u00b2".encode(), None),
        (b"123456\xff", None),
    ],
)
def test_t_otp_01_spellings(typed: bytes, code: str | None) -> None:
    assert typed_code(typed) == code


@given(st.binary(max_size=40))
def test_t_otp_01_whatever_is_typed_is_ascii_digits_or_no_code(typed: bytes) -> None:
    code = typed_code(typed)
    if code is not None:
        assert code.isascii()
        assert code.isdigit()
        assert 6 <= len(code) <= 8
        assert code.encode() == typed.replace(b" ", b"").replace(b"-", b"")


@given(st.text(max_size=20), st.sampled_from([HOTP, TOTP]))
def test_whatever_code_is_looked_for_a_value_comes_back(code: str, shape: Shape) -> None:
    find(SEED, shape, Position(3, 0), "".join(c for c in code if c.isascii()), Windows(), NOW)
