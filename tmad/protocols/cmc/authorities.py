"""What registration authorities say in their layers about requests (RFC 10002, 6.5, 6.8, 6.20)."""

from __future__ import annotations

from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.protocols.cmc import codec, controls
from tmad.protocols.cmc.codec import Control, Path, PKIData
from tmad.protocols.cmc.turn import NO_NOTES, Notes, Refused, Turn

CONTROLS: Final = frozenset(
    {
        codec.ADD_EXTENSIONS,
        codec.MOD_CERT_TEMPLATE,
        codec.LRA_POP_WITNESS,
        codec.BATCH_REQUESTS,
        codec.CONTROL_PROCESSED,
        codec.RA_IDENTITY_WITNESS,
    }
)


def notes_of(turn: Turn) -> Notes:
    """Return what a layer says about itself and about what is in it; Refused for others."""
    found = [control for control in turn.data.controls if control.type in CONTROLS]
    if not found:
        return NO_NOTES
    if not turn.author.is_authority:
        raise Refused(
            Fault(
                FaultCode.FORBIDDEN,
                "only registration authorities send such a control",
                rule="cmc.ra.control",
            ),
            *[(control.id,) for control in found],
        )
    notes = NO_NOTES
    for control in found:
        try:
            notes = notes.joined(_note_of(turn, control))
        except Fault as fault:
            raise Refused(fault, (control.id,)) from None
    return notes


def check_targets(turn: Turn) -> None:
    """Refuse changes of requests that are not there (RFC 10002, 6.5.1)."""
    known = {request.id for request in turn.data.requests}
    for modification in turn.notes.changes:
        if not known.issuperset(modification.requests):
            fault = codec.bad_request(
                "a registration authority changes a request that is not there",
                "cmc.ra.reference",
                requests=", ".join(str(each) for each in modification.requests)[:100],
            )
            is_own = modification.path == (codec.THIS,)
            raise Refused(fault, (modification.control if is_own else codec.THIS,))


def _note_of(turn: Turn, control: Control) -> Notes:
    """Return what one control of a registration authority says."""
    data = turn.data
    if control.type in (codec.MOD_CERT_TEMPLATE, codec.ADD_EXTENSIONS):
        is_new = control.type == codec.MOD_CERT_TEMPLATE
        read = controls.mod_cert_template if is_new else controls.add_extensions
        found = read(control)
        return Notes(modifications=((_path(data, found.path), found),))
    if control.type == codec.LRA_POP_WITNESS:
        vouched = controls.lra_pop_witness(control)
        return Notes(vouched=((_path(data, (vouched.message,)), vouched.requests),))
    if control.type == codec.RA_IDENTITY_WITNESS:
        path = controls.ids(control)
        if path[0] in data.messages:
            return Notes(identities=((path, turn.author),))
        if path[0] in {request.id for request in data.requests}:
            return NO_NOTES  # whoever signs for a simple request stands for its identity anyway
        raise _nowhere()
    if control.type == codec.CONTROL_PROCESSED:
        return Notes(processed=controls.references(control))
    if not set(controls.ids(control)) <= set(data.messages):
        raise _nowhere()
    return NO_NOTES


def _path(data: PKIData, path: Path) -> Path:
    """Return a path as notes have it; Fault(UNSUPPORTED) for one that leads nowhere."""
    if path == (codec.THIS,):
        return ()
    if path[0] not in data.messages:
        raise _nowhere()
    return path


def _nowhere() -> Fault:
    return codec.bad_request("a control refers to what is not there", "cmc.ra.reference")
