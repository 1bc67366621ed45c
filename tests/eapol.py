"""eapol_test, the supplicant of wpa_supplicant without a network card, as a typed function.

It plays the device and its access point against a RADIUS server, compares the keys that both
sides derived, and tells all of it in a transcript that ``login`` reads into an ``Outcome``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PROGRAM = "eapol_test"
TLSVersion = Literal["1.2", "1.3", "any"]

# TLS 1.3 is off in 2.10 unless asked for; to leave a hole below it makes OpenSSL fall to 1.1.
_PHASE1 = {
    "1.2": "tls_disable_tlsv1_0=1 tls_disable_tlsv1_1=1 tls_disable_tlsv1_3=1",
    "1.3": (
        "tls_disable_tlsv1_0=1 tls_disable_tlsv1_1=1 tls_disable_tlsv1_2=1 tls_disable_tlsv1_3=0"
    ),
    "any": "tls_disable_tlsv1_3=0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NAS:
    """The access point that asks, and the server it asks."""

    port: int
    secret: str = field(repr=False)
    address: str = "127.0.0.1"
    station: str = "02:00:00:00:00:01"
    # More attributes, or others in place of its own: (number, text, integer, octets or nothing).
    attributes: tuple[tuple[int, str | int | bytes | None], ...] = ()
    framed_mtu: int | None = None
    wants_key_name: bool = True
    timeout: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A device: who it says it is, with what, and how it speaks.

    ``eap`` is a name of wpa_supplicant's (several with spaces between); ``inner`` its ``phase2``
    ("auth=PAP", "auth=GTC", "autheap=TLS", …). The second certificate is for EAP-TLS in a tunnel.
    """

    identity: str
    eap: str = "TLS"
    tls: TLSVersion = "any"
    anonymous: str = ""
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    password: str = field(default="", repr=False)
    inner: str = ""
    inner_authority: Path | None = None
    inner_certificate: Path | None = None
    inner_key: Path | None = None
    server_name: str = ""
    fragment_size: int | None = None
    include_length: bool = False
    ask_staple: bool = False
    phase1: str = ""
    # Further lines of the network block, as wpa_supplicant.conf has them.
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One RADIUS message of the server: its attributes in order, values as octets.

    Of attributes that it does not know (Filter-Id is one) it prints no value: they are empty.
    """

    code: int
    attributes: tuple[tuple[int, bytes], ...]

    def all(self, number: int) -> list[bytes]:
        """Return every value of an attribute."""
        return [value for kind, value in self.attributes if kind == number]

    def first(self, number: int) -> bytes | None:
        """Return the first value of an attribute, None without one."""
        return next(iter(self.all(number)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one run; the counts are over all its logins."""

    accepted: bool  # the last login, and the exit code
    timed_out: bool
    logins: int  # ended with Access-Accept
    rejects: int  # ended with Access-Reject
    keys_matched: int
    keys_differed: int
    key_names_matched: int
    resumed: int
    commitments: int  # TLS 1.3's protected success indication (RFC 9190, 2.1.1)
    rounds: tuple[int, ...]  # RADIUS requests of each login
    versions: tuple[str, ...]  # TLS version of each login that came so far
    eap_failures: int
    replies: tuple[Reply, ...] = field(repr=False)
    alerts_sent: tuple[str, ...]  # by the device, for instance "unknown CA"
    alerts_received: tuple[str, ...]
    transcript: str = field(repr=False)

    @property
    def final(self) -> Reply:
        """Return the last Access-Accept or Access-Reject."""
        return next(reply for reply in reversed(self.replies) if reply.code in (2, 3))

    def check(self, logins: int = 1, *, resumed: int | None = None, keys: bool = True) -> None:
        """Fail unless so many logins succeeded, all with equal keys and key names."""
        facts = self.accepted, self.logins, self.keys_differed
        assert facts == (True, logins, 0), f"{self}\n{self.transcript[-6000:]}"
        if keys:
            assert self.keys_matched == logins, f"{self}\n{self.transcript[-6000:]}"
        if resumed is not None:
            assert self.resumed == resumed, f"{self}\n{self.transcript[-6000:]}"

    def check_refused(self) -> None:
        """Fail unless the last login ended with Access-Reject and EAP-Failure inside."""
        assert not self.accepted, self
        assert not self.timed_out, f"{self}\n{self.transcript[-6000:]}"
        eap = self.final.first(79) or b""
        assert (self.final.code, eap[:1]) == (3, b"\x04"), f"{self}\n{self.transcript[-6000:]}"


def login(
    nas: NAS,
    peer: Peer,
    *,
    again: int = 0,
    resume: bool = True,
    keys: bool = True,
    between: Callable[[], None] | None = None,
) -> Outcome:
    """Log in, and ``again`` so many times in the same process, resuming TLS if allowed to.

    ``keys=False`` is for methods that derive none. ``between`` is called once the first login
    has succeeded; eapol_test stands still meanwhile (its own time-out goes on), so what it
    changes holds for the next login.
    """
    with tempfile.TemporaryDirectory(prefix="eapol-") as folder:
        configuration = Path(folder) / "peer.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(_configuration(peer, resume=resume))
        arguments = [
            PROGRAM, "-c", str(configuration), "-a", nas.address, "-p", str(nas.port),
            "-s", nas.secret, "-t", str(nas.timeout), "-M", nas.station, "-r", str(again),
        ]  # fmt: skip
        arguments += ["-e"] if nas.wants_key_name else []
        arguments += [] if keys else ["-n"]
        arguments += [f"-N{_attribute(number, value)}" for number, value in nas.attributes]
        if nas.framed_mtu is not None:
            arguments.append(f"-N{_attribute(12, nas.framed_mtu)}")
        code, transcript = _run(arguments, (again + 1) * (nas.timeout + 5), between)
    return _read(code, transcript)


def _configuration(peer: Peer, *, resume: bool) -> str:
    phase1 = [_PHASE1[peer.tls]]
    if peer.include_length:
        phase1.append("include_tls_length=1")
    if peer.phase1:
        phase1.append(peer.phase1)
    quoted: dict[str, object] = {
        "identity": peer.identity,
        "anonymous_identity": peer.anonymous,
        "ca_cert": peer.authority,
        "client_cert": peer.certificate,
        "private_key": peer.key,
        "password": peer.password,
        "phase1": " ".join(phase1),
        "phase2": peer.inner,
        "ca_cert2": peer.inner_authority,
        "client_cert2": peer.inner_certificate,
        "private_key2": peer.inner_key,
        "domain_match": peer.server_name,
    }
    lines = [f"fast_reauth={int(resume)}", "network={", "key_mgmt=IEEE8021X", "eapol_flags=0"]
    lines.append(f"eap={peer.eap}")
    lines += [f'{name}="{value}"' for name, value in quoted.items() if value]
    if peer.fragment_size is not None:
        lines.append(f"fragment_size={peer.fragment_size}")
    if peer.ask_staple:
        lines.append("ocsp=2")  # refuse a server without a good answer
    return "\n".join([*lines, *peer.more, "}", ""])


def _attribute(number: int, value: str | int | bytes | None) -> str:
    if value is None:
        return str(number)
    if isinstance(value, bytes):
        return f"{number}:x:{value.hex()}"
    return f"{number}:{'d' if isinstance(value, int) else 's'}:{value}"


def _run(
    arguments: list[str], seconds: float, between: Callable[[], None] | None
) -> tuple[int, str]:
    if between is None:
        done = subprocess.run(
            arguments, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
    # Line by line into the smallest of pipes: while nobody reads it, it can go on no further
    # than the first messages of the next login, where nothing is decided yet.
    with subprocess.Popen(
        ["stdbuf", "-oL", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        pipesize=4096,
    ) as process:
        assert process.stdout is not None
        lines: list[bytes] = []
        waiting: Callable[[], None] | None = between
        for line in process.stdout:
            lines.append(line)
            if waiting is not None and line.startswith(b"CTRL-EVENT-EAP-SUCCESS"):
                waiting()
                waiting = None
        return process.wait(seconds), b"".join(lines).decode(errors="replace")


# What it prints as decimal numbers.
_INTEGERS = frozenset(
    (5, 6, 12, 27, 28, 29, 40, 41, 42, 43, *range(45, 50), 51, 52, 53, 55, 61, 85)
)
_CODE = re.compile(r"^RADIUS message: code=(\d+) ", re.M)
_ATTRIBUTE = re.compile(r"^   Attribute (\d+) \(.*?\) length=\d+\n(?:      Value: (.*)\n)?", re.M)
_ALERT = re.compile(r"^SSL: SSL3 alert: (read|write) \(.*?\):(?:fatal|warning):(.*)$", re.M)


def _read(code: int, transcript: str) -> Outcome:
    # "Received RADIUS message" or "Sending RADIUS message …" stands before each dump.
    replies, rounds, sent = [], [], 0
    logins: list[str] = []
    begin = 0
    for found in _CODE.finditer(transcript):
        number = int(found[1])
        if number == 1:
            sent += 1
            continue
        replies.append(_reply(number, transcript, found.end()))
        if number in (2, 3):
            rounds.append(sent)
            logins.append(transcript[begin : found.end()])
            sent, begin = 0, found.end()
    counts = re.findall(r"^MPPE keys OK: (\d+)  mismatch: (\d+)$", transcript, re.M)
    alerts = _ALERT.findall(transcript)
    versions = [re.findall(r"^SSL: Using TLS version TLSv(\S+)$", part, re.M) for part in logins]
    return Outcome(
        accepted=code == 0,
        timed_out="EAPOL test timed out" in transcript,
        logins=sum(reply.code == 2 for reply in replies),
        rejects=sum(reply.code == 3 for reply in replies),
        keys_matched=int(counts[-1][0]) if counts else 0,
        keys_differed=int(counts[-1][1]) if counts else 0,
        key_names_matched=transcript.count("Session-Id matches EAP-Key-Name from server"),
        resumed=sum("Handshake finished - resumed=1" in part for part in logins),
        commitments=transcript.count("EAP-TLS: ACKing Commitment Message"),
        rounds=tuple(rounds),
        versions=tuple(found[-1] for found in versions if found),
        eap_failures=transcript.count("EAP: Received EAP-Failure"),
        replies=tuple(replies),
        alerts_sent=tuple(name for way, name in alerts if way == "write"),
        alerts_received=tuple(name for way, name in alerts if way == "read"),
        transcript=transcript,
    )


def _reply(code: int, transcript: str, begin: int) -> Reply:
    attributes = []
    place = transcript.index("\n", begin) + 1
    while (found := _ATTRIBUTE.match(transcript, place)) is not None:
        number = int(found[1])
        attributes.append((number, _value(number, found[2] or "")))
        place = found.end()
    return Reply(code=code, attributes=tuple(attributes))


def _value(number: int, text: str) -> bytes:
    """Return the octets of a value as it prints them: text, address, integer or hexadecimal."""
    if text.startswith("'"):
        return text[1:-1].encode("ascii").decode("unicode_escape").encode("latin-1")
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", text):
        return bytes(int(part) for part in text.split("."))
    if number in _INTEGERS:
        return int(text).to_bytes(4, "big")
    return bytes.fromhex(text)
