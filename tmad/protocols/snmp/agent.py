"""Answers questions from a snapshot: GET, GETNEXT, GETBULK; a SET is refused (RFC 3416, 4.2).

Nothing is computed here and nothing is looked up elsewhere: an answer is joined from names and
values that are encoded already. SNMPv1 has other errors and no Counter64 (RFC 3584, 4.2).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from tmad.errors import FaultCode
from tmad.protocols.snmp.codec import (
    FAULTS,
    PDU,
    V1,
    V2C,
    Kind,
    Status,
    VarBind,
    encode_binding,
    encode_pdu,
)
from tmad.protocols.snmp.vacm import Window
from tmad.protocols.snmp.values import (
    END_OF_MIB_VIEW,
    NO_SUCH_INSTANCE,
    NO_SUCH_OBJECT,
    Counter64,
    Value,
    decode_oid,
)

# What a PDU has beside its variables: tags, lengths, three numbers.
_OVERHEAD: Final = 26
# A GETBULK answers with no more variables (security 6.3), unless it asked for more names.
_MOST: Final = 64


class _TooBig(Exception):  # noqa: N818  an outcome, not an error
    """The variables do not fit into the message."""


class _Missing(Exception):  # noqa: N818  an outcome, not an error
    """SNMPv1: the variable with this number is not there."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Box:
    """The encoded variables of one answer, as many as fit."""

    __slots__ = ("pieces", "room")

    def __init__(self, room: int) -> None:
        self.pieces: list[bytes] = []
        self.room = room - _OVERHEAD

    def put(self, name: bytes, value: Value) -> bool:
        """Add a variable; tell whether there was room for it."""
        piece = encode_binding(name, value)
        self.room -= len(piece)
        if self.room < 0:
            return False
        self.pieces.append(piece)
        return True


def respond(pdu: PDU, version: int, window: Window, *, room: int, bulk_room: int) -> bytes | None:
    """Return the encoded answer to a question, of at most ``room`` octets; None: none fits.

    ``bulk_room`` bounds what a GETBULK may bring down upon an address that may be forged.
    """
    box = _Box(min(room, bulk_room) if pdu.kind == Kind.GETBULK else room)
    try:
        if not window.snapshot.keys:
            # Just started: nothing is known yet, which is not the same as nothing is there.
            return _refusal(pdu, version, _status(FaultCode.UNAVAILABLE, version), 0, room)
        if pdu.kind == Kind.GET:
            _get(pdu, version, window, box)
        elif pdu.kind == Kind.GETNEXT:
            for number, binding in enumerate(pdu.bindings, 1):
                _next(binding, number, version, window, box)
        elif pdu.kind == Kind.GETBULK:
            _bulk(pdu, window, box)
        else:
            # RFC 3416, 4.2.5: no view lets anybody write.
            status = Status.READ_ONLY if version == V1 else Status.NO_ACCESS
            return _refusal(pdu, version, status, 1 if pdu.bindings else 0, room)
    except _TooBig:
        return _too_big(pdu, version, room)
    except _Missing as missing:
        return _refusal(pdu, version, Status.NO_SUCH_NAME, missing.number, room)
    return encode_pdu(Kind.RESPONSE, pdu.request_id, 0, 0, box.pieces)


def refuse(pdu: PDU, version: int, status: Status, room: int) -> bytes | None:
    """Return an answer that says no to all of a question."""
    return _refusal(pdu, version, status, 0, room)


def _status(code: FaultCode, version: int) -> Status:
    return Status.GEN_ERR if version == V1 else FAULTS[code]


def _refusal(pdu: PDU, version: int, status: int, number: int, room: int) -> bytes | None:
    """Return an error with the variables as they came (RFC 3416, 4.2.1)."""
    pieces = [encode_binding(name, value) for name, value in pdu.bindings]
    answer = encode_pdu(Kind.RESPONSE, pdu.request_id, status, number, pieces)
    return answer if len(answer) <= room else _too_big(pdu, version, room)


def _too_big(pdu: PDU, version: int, room: int) -> bytes | None:
    """RFC 3416, 4.2.1: without variables; RFC 1157, 4.1.2: with them as they came."""
    pieces = [] if version != V1 else [encode_binding(*binding) for binding in pdu.bindings]
    answer = encode_pdu(Kind.RESPONSE, pdu.request_id, Status.TOO_BIG, 0, pieces)
    return answer if len(answer) <= room else None


def _get(pdu: PDU, version: int, window: Window, box: _Box) -> None:
    snapshot = window.snapshot
    for number, (name, _) in enumerate(pdu.bindings, 1):
        place = snapshot.positions.get(name)
        if place is not None and window.has(place):
            value = snapshot.values[place]
            if version == V1 and isinstance(value, Counter64):
                raise _Missing(number)
        elif version == V1:
            raise _Missing(number)
        else:
            known = window.has_object(decode_oid(name))
            value = NO_SUCH_INSTANCE if known else NO_SUCH_OBJECT
        if not box.put(name, value):
            raise _TooBig


def _after(name: bytes, window: Window) -> int:
    """Return the place of the first instance after a name."""
    place = window.snapshot.positions.get(name)
    if place is not None:
        return place + 1
    return bisect_right(window.snapshot.keys, decode_oid(name))


def _next(binding: VarBind, number: int, version: int, window: Window, box: _Box) -> None:
    snapshot = window.snapshot
    place, end = window.run(_after(binding.name, window))
    while version == V1 and place < end and isinstance(snapshot.values[place], Counter64):
        # RFC 3584, 4.2.2.1: passed over as if it were not there.
        place, end = window.run(place + 1)
    if place < end:
        name, value = snapshot.names[place], snapshot.values[place]
    elif version == V1:
        raise _Missing(number)
    else:
        name, value = binding.name, END_OF_MIB_VIEW
    if not box.put(name, value):
        raise _TooBig


def _bulk(pdu: PDU, window: Window, box: _Box) -> None:
    """RFC 3416, 4.2.3: what does not fit is left out, from the end."""
    single = min(max(pdu.status, 0), len(pdu.bindings))
    for binding in pdu.bindings[:single]:
        try:
            _next(binding, 0, V2C, window, box)
        except _TooBig:
            break
    else:
        repeated = pdu.bindings[single:]
        most = max(_MOST, len(pdu.bindings))
        if len(repeated) == 1:
            count = min(max(pdu.error_index, 0), most - single)
            _column(repeated[0].name, count, window, box)
        elif repeated:
            _rows(repeated, max(pdu.error_index, 0), most, window, box)
    if not box.pieces and box.room < 0:
        raise _TooBig


def _column(name: bytes, count: int, window: Window, box: _Box) -> None:
    """Put the next ``count`` instances after one name."""
    names, values = window.snapshot.names, window.snapshot.values
    place = _after(name, window)
    while count > 0:
        place, end = window.run(place)
        if place == end:
            box.put(name, END_OF_MIB_VIEW)
            return
        end = min(end, place + count)
        for at in range(place, end):
            if not box.put(names[at], values[at]):
                return
        count -= end - place
        place, name = end, names[end - 1]


def _rows(
    repeated: Sequence[VarBind], repetitions: int, most: int, window: Window, box: _Box
) -> None:
    """Put the next instances after several names, row by row."""
    names = [binding.name for binding in repeated]
    places = [_after(name, window) for name in names]
    while repetitions > 0:
        repetitions -= 1
        ended = 0
        for column, place in enumerate(places):
            if len(box.pieces) >= most:
                return
            place, end = window.run(place)
            if place == end:
                ended += 1
                if not box.put(names[column], END_OF_MIB_VIEW):
                    return
                continue
            names[column] = window.snapshot.names[place]
            places[column] = place + 1
            if not box.put(names[column], window.snapshot.values[place]):
                return
        if ended == len(places):
            return
