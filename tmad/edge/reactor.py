"""Twisted's epoll reactor without the legacy log context that it makes for each event.

Each event of the stock reactor goes through ``log.callWithLogger``: a context and two
dictionaries, 4 of the 27 µs of an OCSP answer, for a log prefix that tmad does not use.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

log = Logger()


class Reactor(EPollReactor):
    """The epoll reactor; an event costs one call."""

    def doPoll(self, timeout: float | None) -> None:  # noqa: N802  Twisted's name
        """Wait for events and do what they ask for."""
        selectables: dict[int, Any] = self._selectables
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        work: Any = self._doReadOrWrite
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if selectable is None:
                # An event before this one has closed it.
                continue
            try:
                work(selectable, descriptor, event)
            except Exception:
                log.failure("a connection's last call failed")

    doIteration = doPoll  # noqa: N815  Twisted's name


def install() -> None:
    """Make it the process's reactor; call it before anything imports another one."""
    installReactor(Reactor())  # type: ignore[no-untyped-call]  # Twisted's is untyped
