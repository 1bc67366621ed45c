"""One PKIData that is being served: what it says, who sent it, what others say about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tmad.errors import Fault
from tmad.protocols.cmc.answers import Reply
from tmad.protocols.cmc.codec import Path, PKIData
from tmad.protocols.cmc.controls import Modification
from tmad.protocols.cmc.senders import Sender

if TYPE_CHECKING:
    from tmad.protocols.cmc.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What registration authorities say about a PKIData, its requests and what it holds.

    Each note begins with a path from here: () is this PKIData, (5,) its body part 5. Those of
    inner layers come first, so that an outer one has the last word (RFC 10002, 6.5.1).
    """

    modifications: tuple[tuple[Path, Modification], ...] = ()
    vouched: tuple[tuple[Path, Path], ...] = ()
    identities: tuple[tuple[Path, Sender], ...] = ()
    processed: tuple[Path, ...] = ()

    def joined(self, outer: Notes) -> Notes:
        """Return these, and those of the layers around."""
        return Notes(
            modifications=self.modifications + outer.modifications,
            vouched=self.vouched + outer.vouched,
            identities=self.identities + outer.identities,
            processed=self.processed + outer.processed,
        )

    def below(self, message: int) -> Notes:
        """Return the notes about one message inside, as seen from there."""
        return Notes(
            modifications=tuple((p[1:], m) for p, m in self.modifications if p[:1] == (message,)),
            vouched=tuple((p[1:], ids) for p, ids in self.vouched if p[:1] == (message,)),
            identities=tuple((p[1:], who) for p, who in self.identities if p[:1] == (message,)),
            processed=tuple(p[1:] for p in self.processed if p[:1] == (message,)),
        )

    @property
    def changes(self) -> tuple[Modification, ...]:
        """Return what is changed in the requests of this PKIData."""
        return tuple(found for path, found in self.modifications if not path)

    def is_vouched(self, request: int) -> bool:
        """Tell whether possession was shown to an authority for one of these requests."""
        return any(not path and request in ids for path, ids in self.vouched)

    def is_processed(self, control: int) -> bool:
        """Tell whether an authority has done what one of these controls wants."""
        return (control,) in self.processed


NO_NOTES: Final = Notes()


@dataclass(slots=True, kw_only=True)
class Turn:
    """One PKIData on its way.

    ``author`` is who signed it and stands behind its controls; ``sender`` who asks with its
    requests, which an identity proof or a registration authority may show, too.
    """

    visit: Visit
    data: PKIData
    author: Sender
    sender: Sender
    notes: Notes
    reply: Reply
    transaction: bytes = b""
    depth: int = 0
    has_issued: bool = field(default=False)


class Refused(Exception):  # noqa: N818  a Fault with its place
    """A Fault about certain body parts, because of which nothing of the message is done."""

    def __init__(self, fault: Fault, *parts: Path) -> None:
        super().__init__(fault.detail)
        self.fault = fault
        self.parts = parts
