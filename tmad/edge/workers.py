"""``tmad run --workers N``: a supervisor that starts identical processes and restarts them.

It imports no reactor and no core: what can break is in the workers. It opens the sockets, one
of each address for each worker (SO_REUSEPORT), and keeps them: connections that reach a worker
which is being restarted wait in its queue instead of being refused.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tmad.edge import process
from tmad.edge.sockets import INHERITED

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 30.0
# A worker that lived this long failed by accident, not by its configuration.
_HEALTHY_SECONDS = 10.0
# A worker says every third of this that its reactor turns; one that does not is replaced.
WATCHDOG_SECONDS = 60
_ASLEEP_SECONDS = 10.0  # since this process has looked last: it was stopped itself


@dataclass(slots=True)
class _Worker:
    index: int
    sockets: dict[str, socket.socket]
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket = field(default_factory=lambda: _channel())
    started: float = 0.0
    heard: float = 0.0
    restart_at: float = 0.0
    delay: float = 0.0
    is_ready: bool = False


def _channel() -> socket.socket:
    """Return a datagram socket with a name of the kernel's choice (unix(7), autobind)."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    opened.bind("")
    opened.setblocking(False)
    return opened


class Supervisor:
    """Runs ``command`` once for each worker, with ``{index}/{count}`` as its last argument."""

    def __init__(
        self,
        command: Sequence[str],
        sockets: Sequence[dict[str, socket.socket]],
        say: Callable[[str], None],
        *,
        stop_seconds: float,
    ) -> None:
        self._command = list(command)
        self._workers = [_Worker(index, own) for index, own in enumerate(sockets)]
        self._say = say
        self._stop_seconds = stop_seconds
        self._is_stopping = False
        self._was_ready = False
        self._looked = time.monotonic()
        # Signals arrive here as octets. (What sigtimedwait returns after a pause of the process,
        # as by a freezer or a debugger, may be no signal at all: Python 3.11.)
        self._signals, self._bell = socket.socketpair()
        self._signals.setblocking(False)
        self._bell.setblocking(False)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; return the exit code."""
        before = {number: signal.signal(number, _wake) for number in _SIGNALS}
        bell = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        try:
            for worker in self._workers:
                self._start(worker)
            while True:
                for received in self._wait():
                    self._handle(received)
                code = self._look_after()
                if code is not None:
                    return code
        finally:
            self._kill()
            signal.set_wakeup_fd(bell)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._signals.close()
            self._bell.close()

    # -- steps --------------------------------------------------------------------------------

    def _wait(self) -> bytes:
        """Return the numbers of the signals that came, or nothing after a while."""
        self._listen()
        pause = 1.0 if self._was_ready and not self._is_stopping else 0.05
        waiting = [w.restart_at for w in self._workers if w.process is None and w.restart_at]
        if waiting:
            pause = max(0.01, min(pause, min(waiting) - time.monotonic()))
        ready, _, _ = select.select([self._signals], [], [], pause)
        return self._signals.recv(4_096) if ready else b""

    def _handle(self, received: int) -> None:
        if received in (signal.SIGTERM, signal.SIGINT) and not self._is_stopping:
            self._is_stopping = True
            process.notify("STOPPING=1")
            self._deadline = time.monotonic() + self._stop_seconds + 5
            self._send(signal.SIGTERM)
        elif received == signal.SIGHUP:
            self._send(signal.SIGHUP)

    def _look_after(self) -> int | None:
        now = time.monotonic()
        if now - self._looked > _ASLEEP_SECONDS:
            # They may have been stopped as long as this process was.
            for worker in self._workers:
                worker.heard = max(worker.heard, now)
        self._looked = now
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is not None:
                code = self._buried(worker, now)
                if code is not None:
                    return code
            if worker.process is None:
                if not self._is_stopping and worker.restart_at <= now:
                    self._start(worker)
            elif now - worker.heard > WATCHDOG_SECONDS and not self._is_stopping:
                self._say(f"worker {worker.index} hangs and is replaced")
                worker.process.kill()
                worker.heard = now
        if self._is_stopping:
            if all(worker.process is None for worker in self._workers):
                return 0
            if now > self._deadline:
                self._say("workers did not stop in time and are killed")
                return 2
        return None

    def _buried(self, worker: _Worker, now: float) -> int | None:
        """Note that a worker has ended; return an exit code if all must end."""
        assert worker.process is not None
        code = worker.process.returncode
        worker.process = None
        if self._is_stopping:
            return None
        if code == 1 and not worker.is_ready and not self._was_ready:
            # It said what is wrong with the settings; trying again changes nothing.
            self._say("a worker could not start")
            return 1
        lived = now - worker.started
        healthy = lived >= _HEALTHY_SECONDS
        worker.delay = _FIRST_DELAY if healthy else min(_LONGEST_DELAY, worker.delay * 2)
        worker.delay = max(_FIRST_DELAY, worker.delay)
        worker.restart_at = now + worker.delay
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._say(
            f"worker {worker.index} ended after {lived:.1f} s with {how};"
            f" the next one starts in {worker.delay:.1f} s"
        )
        return None

    def _start(self, worker: _Worker) -> None:
        descriptors = {name: opened.fileno() for name, opened in worker.sockets.items()}
        environment = {
            **os.environ,
            INHERITED: json.dumps(descriptors),
            process.SUPERVISOR: str(os.getpid()),
            "NOTIFY_SOCKET": "@" + worker.channel.getsockname()[1:].decode(),
            "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000),
        }
        environment.pop("WATCHDOG_PID", None)
        worker.is_ready = False
        worker.started = worker.heard = time.monotonic()
        worker.process = subprocess.Popen(  # noqa: S603  our own program
            [*self._command, f"{worker.index}/{len(self._workers)}"],
            env=environment,
            pass_fds=tuple(descriptors.values()),
            stdin=subprocess.DEVNULL,
        )

    def _listen(self) -> None:
        """Take what the workers say of themselves."""
        channels = {worker.channel: worker for worker in self._workers}
        ready, _, _ = select.select(list(channels), [], [], 0)
        for channel in ready:
            worker = channels[channel]
            worker.heard = time.monotonic()
            if b"READY=1" in channel.recv(4_096):
                worker.is_ready = True
        if not self._was_ready and all(worker.is_ready for worker in self._workers):
            self._was_ready = True
            process.notify("READY=1")
        if self._was_ready:
            process.notify("WATCHDOG=1")

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None:
                worker.process.send_signal(number)

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
            worker.channel.close()
            for opened in worker.sockets.values():
                opened.close()


def _wake(number: int, frame: object) -> None:
    """Do nothing: that there is a handler makes the signal ring the bell."""


def command(config: os.PathLike[str]) -> list[str]:
    """Return the command line of a worker, its index left out."""
    return [sys.executable, "-m", "tmad.cli.main", "--config", os.fspath(config), "run", "--worker"]
