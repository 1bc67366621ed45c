"""Codes and notifications by mail: submission (RFC 6409) over TLS, one connection a message.

Not Twisted's SMTP client: its errors carry the session's log, with the password in it; it takes
answers of any length; and what a man in the middle wrote before the TLS handshake it reads as
answers after it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from tmad.config import MailSubmission
from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.httpclient import FAILURES, trust_root
from tmad.signer.seal import read_private

_LONGEST_LINE: Final = 1_024  # octets; RFC 5321, 4.5.3.1.5 says 512
_MOST_LINES: Final = 100  # of one answer
_REPLY: Final = re.compile(rb"([2-5][0-9][0-9])([ -]|$)(.*)", re.DOTALL)
_ADDRESS: Final = re.compile(r"[!#-'*+./0-9=?A-Z^_`a-z{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")

Connect = Callable[[Factory], Deferred[Any]]


@dataclass(frozen=True, slots=True)
class Submitted:
    """A message that the server has taken, but for those whom it ``refused``."""

    message_id: str
    refused: tuple[str, ...]


class MailDelivery:
    """Sends by SMTP."""

    def __init__(
        self,
        settings: MailSubmission,
        reactor: IReactorTime,
        now: Clock,
        *,
        host: str,
        connect: Connect | None = None,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._now = now
        self._host = host
        self._connect = connect or self._open

    @property
    def patience(self) -> float:
        """How many seconds one message may take."""
        return self._settings.timeout_seconds

    async def send(self, to: str, text: Secret) -> str:
        """Hand a message over; return its Message-ID. See Delivery."""
        submitted = await self.submit((to,), self._settings.subject, text.reveal().decode())
        return submitted.message_id

    async def submit(
        self, to: Sequence[str], subject: str, text: str, *, name: str = "", waits: bool = True
    ) -> Submitted:
        """Hand one message over for several people.

        ``name`` is what makes its Message-ID the same at each try. When the server wants one
        of them later (4xx), nobody gets it now, unless ``waits`` is False: then the others do.
        Fault(REJECTED) with the rule otp.delivery.recipient when nobody is left.
        """
        recipients = [_ascii_address(each) for each in to]
        message = self._message(recipients, subject, text, name)
        conversation = _Conversation()
        try:
            refused = await ensureDeferred(
                self._submit(conversation, recipients, message, waits)
            ).addTimeout(self._settings.timeout_seconds, self._reactor)
        except FAILURES as error:
            # A peer that hangs does not answer a good-bye, either.
            conversation.abort()
            raise _away(f"{type(error).__name__}: {error}") from None
        finally:
            conversation.hang_up()
        return Submitted(str(message["Message-ID"]), tuple(refused))

    async def close(self) -> None:
        """Nothing is kept open."""

    async def _submit(
        self,
        conversation: _Conversation,
        recipients: Sequence[str],
        message: EmailMessage,
        waits: bool,
    ) -> list[str]:
        """Return the recipients that the server did not want."""
        settings = self._settings
        factory: Any = Factory()
        factory.buildProtocol = lambda _: conversation
        factory.noisy = False
        await self._connect(factory)
        await conversation.expect(220)
        features = await self._greet(conversation)
        if settings.tls == "starttls":
            if "STARTTLS" not in features:
                # RFC 3207, 6: somebody in between may have taken the word out.
                raise _refused("the mail server offers no STARTTLS")
            await conversation.say("STARTTLS", 220)
            conversation.start_tls(optionsForClientTLS(settings.host, self._trust()))
            features = await self._greet(conversation)
        if settings.user:
            await self._authenticate(conversation, features)
        await conversation.say(f"MAIL FROM:<{settings.sender}>", 250)
        refused = []
        for recipient in recipients:
            try:
                await conversation.say(f"RCPT TO:<{recipient}>", 250, 251)
            except Fault as fault:
                if waits and fault.code is FaultCode.UNAVAILABLE:
                    raise
                refused.append(recipient)
                if len(refused) == len(recipients):
                    raise _unwanted(fault) from None
        await conversation.say("DATA", 354)
        await conversation.say_data(message.as_bytes())
        conversation.write("QUIT")
        return refused

    async def _greet(self, conversation: _Conversation) -> dict[str, str]:
        lines = await conversation.say(f"EHLO {self._host}", 250)
        words = (line.upper().partition(" ") for line in lines[1:])
        return {name: parameters for name, _, parameters in words}

    async def _authenticate(self, conversation: _Conversation, features: dict[str, str]) -> None:
        assert self._settings.password_file is not None  # the settings' own check
        user = self._settings.user.encode()
        password = read_private(self._settings.password_file).rstrip(b"\r\n")
        mechanisms = features.get("AUTH", "").split()
        if "PLAIN" in mechanisms:
            token = b64encode(b"\0" + user + b"\0" + password).decode()
            await conversation.say(f"AUTH PLAIN {token}", 235)
        elif "LOGIN" in mechanisms:
            await conversation.say("AUTH LOGIN", 334)
            await conversation.say(b64encode(user).decode(), 334)
            await conversation.say(b64encode(password).decode(), 235)
        else:
            raise _refused("the mail server offers neither AUTH PLAIN nor AUTH LOGIN")

    def _message(
        self, recipients: Sequence[str], subject: str, text: str, name: str
    ) -> EmailMessage:
        domain = self._settings.sender.partition("@")[2]
        message = EmailMessage()
        message["From"] = self._settings.sender
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
        message["Date"] = format_datetime(self._now())
        message["Message-ID"] = f"<{name}@{domain}>" if name else make_msgid(domain=domain)
        # RFC 3834, 5: no vacation answers to a machine.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text, cte="quoted-printable")
        return message

    def _trust(self) -> Any:
        return trust_root(self._settings.ca_file)

    def _open(self, factory: Factory) -> Deferred[Any]:
        settings = self._settings
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, settings.host, settings.port, timeout=settings.timeout_seconds
        )
        if settings.tls == "tls":
            endpoint = wrapClientTLS(optionsForClientTLS(settings.host, self._trust()), endpoint)
        opened: Deferred[Any] = endpoint.connect(factory)
        return opened


class _Conversation(Protocol):
    """One question, one answer, until one of the two hangs up."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._lines: list[bytes] = []
        self._answers: list[tuple[int, list[str]]] = []
        self._waiting: Deferred[None] | None = None
        self._ended: BaseException | None = None

    async def say(self, line: str, *expected: int) -> list[str]:
        """Write a command; return the lines of the answer, whose code must be expected."""
        self.write(line)
        return await self.expect(*expected)

    async def say_data(self, message: bytes) -> None:
        """Write a message, its lines that begin with a dot doubled (RFC 5321, 4.5.2)."""
        lines = re.split(rb"\r\n|\r|\n", message.rstrip(b"\r\n"))
        content = b"".join((b"." + line if line[:1] == b"." else line) + b"\r\n" for line in lines)
        self._write(content + b".\r\n")
        await self.expect(250)

    def write(self, line: str) -> None:
        """Write a command whose answer does not matter."""
        assert "\r" not in line
        assert "\n" not in line
        self._write(line.encode("ascii") + b"\r\n")

    async def expect(self, *expected: int) -> list[str]:
        """Wait for an answer; Fault(UNAVAILABLE) for 4xx, Fault(REJECTED) for another code."""
        if not self._answers and self._ended is None:
            self._waiting = Deferred()
            await self._waiting
        if not self._answers:
            assert self._ended is not None
            raise self._ended
        code, lines = self._answers.pop(0)
        if code in expected:
            return lines
        if 400 <= code < 500:
            raise _away(f"status {code}")
        raise _refused(f"the mail server refused the message with status {code}")

    def start_tls(self, options: Any) -> None:
        """Begin TLS; Fault(REJECTED) when octets came before it (RFC 3207; CVE-2011-0411)."""
        if self._received or self._lines or self._answers:
            raise _refused("octets came between STARTTLS and the TLS handshake")
        transport: Any = self.transport
        transport.startTLS(options)

    def hang_up(self) -> None:
        """End the connection, politely if the line is free."""
        if self.transport is not None:
            self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection at once."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802  Twisted's name
        self._received += data
        while (end := self._received.find(b"\n")) >= 0 and end <= _LONGEST_LINE:
            line = bytes(self._received[:end]).rstrip(b"\r")
            del self._received[: end + 1]
            if not self._take(line):
                return
        if len(self._received) > _LONGEST_LINE:
            self._end(_refused("the mail server sent a line that is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._end(_away(f"the connection ended: {reason.getErrorMessage()}"))

    def _take(self, line: bytes) -> bool:
        match = _REPLY.fullmatch(line)
        if match is None or len(self._lines) >= _MOST_LINES:
            self._end(_refused("what answers is no mail server"))
            return False
        self._lines.append(match[3])
        if match[2] != b"-":
            text = [each.decode("ascii", "replace") for each in self._lines]
            self._answers.append((int(match[1]), text))
            self._lines = []
            self._wake()
        return True

    def _end(self, why: BaseException) -> None:
        if self._ended is None:
            self._ended = why
        self.hang_up()
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def _write(self, octets: bytes) -> None:
        if self._ended is not None:
            raise self._ended
        assert self.transport is not None
        self.transport.write(octets)


def _ascii_address(to: str) -> str:
    """Return an address that every server takes; Fault(REJECTED) for one that needs SMTPUTF8."""
    name, at, domain = to.rpartition("@")
    try:
        address = f"{name}{at}{domain.encode('idna').decode()}"
    except UnicodeError:
        address = ""
    if not _ADDRESS.fullmatch(address):
        raise Fault(
            FaultCode.REJECTED,
            "the mail address cannot be sent to",
            rule="otp.delivery.address",
        )
    return address


def _unwanted(fault: Fault) -> Fault:
    return Fault(
        fault.code,
        fault.detail,
        private=fault.private,
        rule="otp.delivery.recipient",
        values=fault.values,
    )


def _refused(what: str) -> Fault:
    return Fault(FaultCode.REJECTED, what, rule="otp.delivery.refused")


def _away(why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "the mail server cannot be reached",
        private=why,
        rule="otp.delivery.gateway",
        values={"failure": why},
    )
