"""A small DNS server in a thread: answers from a table, or as badly as a test wants."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.names import dns

# (question, is it over TCP) -> the octets to answer with; None: silence.
Answerer = Callable[[dns.Message, bool], bytes | None]


class NameServer:
    """Serves ``records``: (name, type) -> list of values, over UDP and TCP on one port.

    A and AAAA are addresses, CNAME a name, TXT octets (cut into strings of 255), CAA
    (critical, tag, value). A name without any record does not exist. ``answer`` replaces it all.
    """

    def __init__(self, records: dict[tuple[str, str], list[Any]] | None = None) -> None:
        self.records = records if records is not None else {}
        self.answer: Answerer | None = None
        # Clients' hooks write TXT records here: a file for each name, a line for each record.
        self.zone: Path | None = None
        self.asked: list[tuple[str, str, bool]] = []
        self._tcp, self._udp = _listening()
        self.port: int = self._tcp.getsockname()[1]
        for loop in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=loop, daemon=True).start()

    @property
    def address(self) -> str:
        """What a setting that names it says."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop serving."""
        for each in (self._udp, self._tcp):
            # Closing alone does not wake the thread that waits.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            answer = self._answer(data, is_tcp=False)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection:
                length = struct.unpack(">H", connection.recv(2))[0]
                answer = self._answer(connection.recv(length), is_tcp=True)
                if answer is not None:
                    connection.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, data: bytes, *, is_tcp: bool) -> bytes | None:
        question = dns.Message()
        question.fromStr(data)
        query = question.queries[0]
        name, kind = query.name.name.decode().lower(), KINDS.get(query.type, str(query.type))
        self.asked.append((name, kind, is_tcp))
        if self.answer is not None:
            return self.answer(question, is_tcp)
        answer = reply_to(question)
        known = {key[0] for key in self.records}
        for _ in range(10):
            alias = self.records.get((name, "CNAME"))
            if alias and kind != "CNAME":
                add(answer, name, "CNAME", alias[0])
                name = alias[0]
                continue
            for value in (*self.records.get((name, kind), []), *self._written(name, kind)):
                add(answer, name, kind, value)
            break
        if not answer.answers and name not in known:
            answer.rCode = dns.ENAME
        octets: bytes = answer.toStr()
        if not is_tcp and len(octets) > 1232:
            answer.answers, answer.trunc = [], 1
            octets = answer.toStr()
        return octets

    def _written(self, name: str, kind: str) -> list[bytes]:
        if self.zone is None or kind != "TXT" or not (self.zone / name).is_file():
            return []
        return (self.zone / name).read_bytes().split()


def _listening() -> tuple[socket.socket, socket.socket]:
    """Return sockets for TCP and UDP on one port, which may be taken for either."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
        else:
            return tcp, udp


KINDS = {1: "A", 5: "CNAME", 16: "TXT", 28: "AAAA", 257: "CAA"}


def reply_to(question: dns.Message) -> dns.Message:
    """Return an answer without records."""
    answer = dns.Message(id=question.id, answer=1, recDes=question.recDes, recAv=1, maxSize=0)
    answer.queries = question.queries
    return answer


def add(answer: dns.Message, name: str, kind: str, value: Any) -> None:
    """Add a record to an answer."""
    payload: Any
    if kind == "A":
        payload = dns.Record_A(value)
    elif kind == "AAAA":
        payload = dns.Record_AAAA(value)
    elif kind == "CNAME":
        payload = dns.Record_CNAME(value)
    elif kind == "TXT":
        payload = dns.Record_TXT(*[value[i : i + 255] for i in range(0, len(value), 255)] or [b""])
    else:
        critical, tag, text = value
        octets = bytes([0x80 * critical, len(tag)]) + tag.encode() + text.encode()
        payload = dns.UnknownRecord(octets)
    number = {text: number for number, text in KINDS.items()}[kind]
    answer.answers.append(dns.RRHeader(name, number, payload=payload, ttl=1))
