"""Answering dns-01: a program of the administrator's writes the records (RFC 8555, 8.4).

It is called as lego calls those of its "exec" provider: ``present NAME. VALUE`` and, when all is
over, ``cleanup NAME. VALUE``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tmad.agent import commands
from tmad.agent.settings import ACMESource
from tmad.errors import Fault

_PREFIX: Final = "_acme-challenge."
_CLEANUP_SECONDS: Final = 60.0


def record(domain: str, key_authorization: str) -> tuple[str, str]:
    """Return name and value of the TXT record that shows control of a domain."""
    digest = hashlib.sha256(key_authorization.encode()).digest()
    value = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return f"{_PREFIX}{domain}.", value


@contextlib.contextmanager
def published(
    settings: ACMESource,
    records: Sequence[tuple[str, str]],
    name: str,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Have records in the DNS inside of the block; Fault(UNAVAILABLE) where the program fails.

    ``name`` is the certificate's. What was begun is cleaned up, also when the rest fails.
    """
    begun: list[tuple[str, str]] = []

    def call(verb: str, each: tuple[str, str], seconds: float) -> None:
        commands.run(
            (*settings.dns_hook, verb, *each), seconds,
            what=f"the DNS hook has failed to {verb} {each[0]}", rule="agent.dns-hook", name=name,
        )  # fmt: skip

    try:
        for each in records:
            begun.append(each)
            call("present", each, settings.dns_hook_seconds)
        if records:
            pause(settings.dns_wait_seconds)
        yield
    finally:
        for each in begun:
            # A record too many does no harm, and the outcome is the validation's.
            with contextlib.suppress(Fault):
                call("cleanup", each, _CLEANUP_SECONDS)
