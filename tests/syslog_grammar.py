"""RFC 5424's grammar, read strictly: what a test holds our messages against."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEADER = re.compile(
    rb"<(?P<pri>0|[1-9][0-9]{0,2})>1 "
    rb"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z) "
    rb"(?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128})"
    rb" (?P<id>[!-~]{1,32}) "
)
_SD_NAME = rb"[!#-<>-\\^-~]{1,32}"
_PARAMETER = re.compile(rb" (" + _SD_NAME + rb')="((?:[^"\\\]]|\\.)*)"', re.DOTALL)
_ELEMENT = re.compile(rb"\[(" + _SD_NAME + rb")")


@dataclass(frozen=True)
class Message:
    """One parsed message."""

    facility: int
    severity: int
    time: str
    host: str
    application: str
    process: str
    id: str
    elements: dict[str, dict[str, str]]
    text: str


def parse(octets: bytes) -> Message:
    """Return what a message says; ValueError for one that breaks the grammar."""
    head = _HEADER.match(octets)
    if head is None:
        raise ValueError(f"no header: {octets[:100]!r}")
    priority = int(head["pri"])
    if priority > 191:
        raise ValueError("priority")
    place = head.end()
    elements: dict[str, dict[str, str]] = {}
    if octets[place : place + 1] == b"-":
        place += 1
    else:
        place = _elements(octets, place, elements)
        if not elements:
            raise ValueError("neither nil nor an element")
    rest = octets[place:]
    if rest and rest[:1] != b" ":
        raise ValueError(f"after the structured data: {rest[:40]!r}")
    return Message(
        facility=priority // 8,
        severity=priority % 8,
        time=head["time"].decode(),
        host=head["host"].decode(),
        application=head["app"].decode(),
        process=head["process"].decode(),
        id=head["id"].decode(),
        elements=elements,
        text=rest[1:].decode("utf-8"),
    )


def _elements(octets: bytes, place: int, elements: dict[str, dict[str, str]]) -> int:
    while (begin := _ELEMENT.match(octets, place)) is not None:
        name = begin[1].decode()
        if name in elements:
            raise ValueError(f"{name} stands twice")
        elements[name] = {}
        place = begin.end()
        while (parameter := _PARAMETER.match(octets, place)) is not None:
            key = parameter[1].decode()
            if key in elements[name]:
                raise ValueError(f"{key} stands twice")
            value = re.sub(rb'\\(["\\\]])', rb"\1", parameter[2])
            elements[name][key] = value.decode("utf-8")
            place = parameter.end()
        if octets[place : place + 1] != b"]":
            raise ValueError(f"element {name} does not end: {octets[place : place + 40]!r}")
        place += 1
    return place
