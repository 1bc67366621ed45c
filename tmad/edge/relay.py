"""Questions from one worker to another: Unix datagrams in a directory that only we may enter.

Workers share their addresses, so a datagram may reach one that does not hold the conversation
it belongs to; that one asks the worker that does.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from tmad.errors import Fault, FaultCode

log = Logger()

# question or answer, the worker that asks, a token of its choice; then the octets
_HEAD: Final = struct.Struct(">BH8s")
_QUESTION, _ANSWER = 1, 2
_LONGEST: Final = 8_192
PATIENCE: Final = 5.0  # seconds
_MOST_WAITING: Final = 4_096
# The kernel keeps ten datagrams for a socket, and tells nobody when there is room again.
_PAUSE: Final = 0.001  # seconds

Answer = Callable[[bytes], Awaitable[bytes | None]]


class Relay(DatagramProtocol):
    """The workers of one node, as one protocol of worker ``index`` reaches them."""

    noisy = False

    def __init__(
        self, name: str, answer: Answer, directory: Path, reactor: Any, *, index: int, count: int
    ) -> None:
        self.index = index
        self.count = count
        self._name = name
        self._answer = answer
        self._directory = directory
        self._reactor = reactor
        self._descriptor: int | None = None
        self._waiting: dict[bytes, Deferred[bytes]] = {}
        self._late: dict[int, deque[bytes]] = {}  # for those whose queue in the kernel is full

    def open(self) -> IListeningPort:
        """Begin to listen for the other workers."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        # A socket's path has at most 107 characters; that of a directory may be longer.
        self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = Path(self._path(self.index))
        # Left behind by the worker that was here before: nobody else has this number.
        path.unlink(missing_ok=True)
        port: IListeningPort = self._reactor.listenUNIXDatagram(
            os.fspath(path), self, maxPacketSize=_LONGEST, mode=0o600
        )
        return port

    async def ask(self, worker: int, question: bytes, *, patience: float = PATIENCE) -> bytes:
        """Return what another worker answers, nothing when it is silent or slow.

        Fault(UNAVAILABLE) when there is no such worker, so that nobody else will answer either.
        """
        if self._descriptor is None or worker == self.index or not 0 <= worker < self.count:
            raise _unavailable(worker, "there is no such worker")
        if len(self._waiting) >= _MOST_WAITING:
            raise _unavailable(worker, "too many questions wait")
        token = secrets.token_bytes(8)
        answer: Deferred[bytes] = Deferred()
        self._waiting[token] = answer
        answer.addTimeout(patience, self._reactor, lambda _, __: b"")
        try:
            self._send(worker, _HEAD.pack(_QUESTION, self.index, token) + question)
            return await answer
        finally:
            self._waiting.pop(token, None)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802  Twisted's name
        if len(datagram) < _HEAD.size:
            return
        kind, worker, token = _HEAD.unpack_from(datagram)
        octets = datagram[_HEAD.size :]
        if kind == _QUESTION:
            ensureDeferred(self._serve(worker, token, octets))
        elif kind == _ANSWER and (waiting := self._waiting.pop(token, None)) is not None:
            waiting.callback(octets)

    def doStop(self) -> None:  # noqa: N802  Twisted's name
        super().doStop()  # type: ignore[no-untyped-call]  # untyped
        if self._descriptor is not None:
            Path(self._path(self.index)).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    async def _serve(self, worker: int, token: bytes, question: bytes) -> None:
        found = None
        try:
            found = await self._answer(question)
        except Fault as fault:
            log.warn("{name} of another worker: {why}", name=self._name, why=str(fault))
        except Exception:
            log.failure("{name} of another worker", name=self._name)
        try:
            self._send(worker, _HEAD.pack(_ANSWER, self.index, token) + (found or b""))
        except Fault as fault:
            # It has ended meanwhile; the client will ask again.
            log.debug("{why}", why=fault.private)

    def _send(self, worker: int, octets: bytes) -> None:
        # The type of a datagram's transport knows addresses of UDP only.
        transport: Any = self.transport
        if transport is None or self._descriptor is None:
            raise _unavailable(worker, "closed")
        if worker in self._late:
            self._keep(worker, octets)
            return
        try:
            # Twisted would drop what does not fit, without a word.
            transport.socket.sendto(octets, self._path(worker))
        except BlockingIOError:
            self._late[worker] = deque()
            self._keep(worker, octets)
            self._reactor.callLater(_PAUSE, self._send_late, worker)
        except OSError as error:
            raise _unavailable(worker, str(error.strerror)) from None

    def _keep(self, worker: int, octets: bytes) -> None:
        if len(self._late[worker]) >= _MOST_WAITING:
            raise _unavailable(worker, "it does not read")
        self._late[worker].append(octets)

    def _send_late(self, worker: int) -> None:
        """Send what has waited until the other worker had read what it was sent before."""
        waiting = self._late.pop(worker)
        while waiting:
            octets = waiting.popleft()
            try:
                self._send(worker, octets)
            except Fault as fault:
                log.debug("{why}", why=fault.private)
                return
            if worker in self._late:
                self._late[worker].extend(waiting)
                return

    def _path(self, worker: int) -> str:
        return f"/proc/self/fd/{self._descriptor}/{self._name}-{worker}"


def _unavailable(worker: int, why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "another worker cannot be asked",
        private=f"worker {worker}: {why}",
        rule="edge.relay",
    )
