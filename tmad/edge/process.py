"""What a process is to its machine: who it runs as, what it tells systemd."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
import socket

from tmad.errors import Fault, FaultCode

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

# The environment variable in which a supervisor gives its workers its process id.
SUPERVISOR = "TMAD_SUPERVISOR"


def _prctl(option: int, value: int) -> None:
    # Not every kernel that Python runs on is Linux; there is nothing to do about the others.
    function = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if function is not None:
        function(option, value, 0, 0, 0)


def harden() -> None:
    """Leave nothing behind: private files, no core dumps, no reading of our memory."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def become(user: str) -> None:
    """Give up root for good; a process that is not root stays what it is.

    Raise Fault(REJECTED) when there is no such user.
    """
    if user and os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise Fault(FaultCode.REJECTED, f"node.user: there is no user {user!r}") from None
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        # The kernel makes a process dumpable again that changes its user.
        _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_supervisor() -> None:
    """Be told to stop when the supervisor dies; call it after ``become``, which resets it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Only a later death is signalled; one that died before this line has left us to another.
    if os.environ.get(SUPERVISOR, "") != str(os.getppid()):
        os.kill(os.getpid(), signal.SIGTERM)


def notify(state: str) -> None:
    """Tell systemd (or the supervisor) our state; nothing when nobody asked (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), address)
        except OSError:
            # Whoever asked is gone or busy; our service does not depend on it.
            return


def watchdog_seconds() -> float | None:
    """Return how often WATCHDOG=1 is expected, None if it is not."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdigit() and int(text) else None
