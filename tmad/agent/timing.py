"""When: the next certificate, the next attempt, the next question."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from tmad.agent.identity import Identity
from tmad.agent.settings import Renewal
from tmad.agent.store import State
from tmad.errors import Fault, FaultCode

ASK: Final = timedelta(hours=6)  # how often a server is asked that does not say how often
_FIRST: Final = timedelta(minutes=1)
_LONGEST: Final = timedelta(hours=6)
_REFUSED: Final = timedelta(minutes=15)
_LONGEST_REFUSED: Final = timedelta(days=1)
_REST: Final = timedelta(hours=1)
# Some time must be left for attempts: a window after this part of a life is moved forward.
_LATEST: Final = 0.9


def renewal_at(identity: Identity, state: State, renewal: Renewal) -> datetime:
    """Return when the successor of a certificate is fetched.

    The server's own wish counts (RFC 9773, 4.2: an instant chosen at random within the window,
    always the same one); without it a part of the certificate's life, a little earlier by chance.
    """
    life = identity.not_after - identity.not_before
    # Whatever anybody wishes: a certificate that has just come is not renewed at once.
    earliest = identity.not_before + min(life / 10, _REST)
    chance = _chance(f"{state.id}:{identity.certificate.serial_number:x}")
    if state.window_start is not None and state.window_end is not None:
        found = state.window_start + (state.window_end - state.window_start) * chance
        return max(min(found, identity.not_before + life * _LATEST), earliest)
    before = life / 3 if renewal.before_days is None else timedelta(days=renewal.before_days)
    before = min(before, life / 2)
    spread = before / 10 if renewal.spread_hours is None else timedelta(hours=renewal.spread_hours)
    return max(identity.not_after - before - spread * chance, earliest)


def retry_at(now: datetime, state: State, fault: Fault, end: datetime | None) -> datetime:
    """Return when to try again after the ``state.failures``-th failure in a row.

    Soon after a server did not answer, later after it said no; the nearer the end of the
    certificate, the sooner; never sooner than the server asks for.
    """
    is_refusal = fault.code not in (FaultCode.UNAVAILABLE, FaultCode.RATE_LIMITED)
    first, longest = (_REFUSED, _LONGEST_REFUSED) if is_refusal else (_FIRST, _LONGEST)
    delay: timedelta = min(first * 2 ** min(state.failures - 1, 20), longest)
    if end is not None:
        delay = min(delay, max((end - now) / 10, _FIRST * 10))
    # A fleet that failed together must not come back together.
    delay *= 0.75 + _chance(f"{state.id}:{state.failures}:{now.isoformat()}") / 2
    if fault.retry_after is not None:
        delay = max(delay, timedelta(seconds=fault.retry_after))
    return now + delay


def _chance(seed: str) -> float:
    """Return a number from 0 to 1 that is always the same for a seed."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:6], "big") / float(2**48)
