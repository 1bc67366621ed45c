"""SMS Server Tools (smsd) on this machine: a file a message, moved by smsd when it is done."""

from __future__ import annotations

import os
import secrets as random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tmad.config import SpoolGateway
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.delivery import gsm7

_LOOK_EVERY: Final = 0.5  # seconds

Run = Callable[..., Deferred[Any]]


class SpoolDelivery:
    """Sends by writing into the outgoing directory."""

    def __init__(
        self, settings: SpoolGateway, reactor: IReactorTime, *, run: Run = deferToThread
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._run = run

    async def send(self, to: str, text: Secret) -> str:
        """Hand a message over; return the name of its file. See Delivery.

        Where sent and failed are configured, wait until smsd has moved the file.
        """
        name = f"tmad-{random.token_hex(8)}"
        content = _message(to, text.reveal().decode())
        try:
            await self._run(_write, self._settings.outgoing, name, content)
        except OSError as error:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the SMS spool cannot be written",
                private=f"{self._settings.outgoing}: {error.strerror}",
                rule="otp.delivery.gateway",
            ) from None
        if self._settings.sent is not None or self._settings.failed is not None:
            await self._wait(name)
        return name

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _wait(self, name: str) -> None:
        deadline = self._reactor.seconds() + self._settings.wait_seconds
        while True:
            state = await self._run(self._state, name)
            if state == "sent":
                return
            if state == "failed":
                raise Fault(
                    FaultCode.REJECTED,
                    "smsd could not send the message",
                    private=f"{name} is in {self._settings.failed}",
                    rule="otp.delivery.refused",
                )
            if self._reactor.seconds() >= deadline:
                if state == "taken":
                    return  # smsd has it; where it does not keep what it sent, nobody knows more
                # Not an outage: the message is in the spool, and another would be sent twice.
                raise Fault(
                    FaultCode.REJECTED,
                    "smsd has not sent the message in time",
                    private=f"{name}: still {state} after {self._settings.wait_seconds:.0f} s",
                    rule="otp.delivery.refused",
                )
            await deferLater(self._reactor, _LOOK_EVERY)

    def _state(self, name: str) -> str:
        settings = self._settings
        if settings.failed is not None and (settings.failed / name).exists():
            return "failed"
        if settings.sent is not None:
            return "sent" if (settings.sent / name).exists() else "waiting"
        return "waiting" if (settings.outgoing / name).exists() else "taken"


def _message(to: str, text: str) -> bytes:
    """Return the file: header lines, an empty line, the text."""
    head = [f"To: {to.removeprefix('+')}"]
    if gsm7.encode(text) is not None and text.isascii():
        body = text.encode("ascii")
    else:
        # smsd reads what is not in its own character set as UCS-2.
        head.append("Alphabet: UCS")
        body = text.encode("utf-16-be")
    return "\n".join([*head, "", ""]).encode("ascii") + body


def _write(directory: Path, name: str, content: bytes) -> None:
    """Write a file that smsd, in the directory's group, sees whole or not at all."""
    # smsd takes every file of the directory but those whose name ends in .LOCK.
    scratch = directory / f"{name}.LOCK"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o660)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Whatever our umask: smsd, in the group, writes into the file what it did with it.
            os.fchmod(descriptor, 0o660)
            file.write(content)
        scratch.rename(directory / name)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
