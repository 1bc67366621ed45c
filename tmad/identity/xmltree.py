"""XML that strangers made, read in pieces: no DOCTYPE, no entities, bounded depth and size.

Whatever may refer to something else is refused before it is looked at (XXE, billion laughs).
Each element below the root is handed over when it ends and then forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers import expat

from tmad.errors import Fault, FaultCode

_DEPTH: Final = 32
_NODES: Final = 20_000  # in one element below the root
_ATTRIBUTES: Final = 32


@dataclass(slots=True)
class Element:
    """An element: its name without namespace prefix, what it holds, and its line."""

    name: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The element's own text without white space around it."""
        return "".join(self.pieces).strip()

    def find(self, *path: str) -> Element | None:
        """Return the first element on a path of names below this one."""
        found: Element | None = self
        for name in path:
            assert found is not None
            found = next((child for child in found.children if child.name == name), None)
            if found is None:
                return None
        return found

    def value(self, *path: str) -> str:
        """Return the text of the first element on a path; empty where there is none."""
        found = self.find(*path)
        return "" if found is None else found.text


def read(
    data: bytes, begin: Callable[[Element], None], piece: Callable[[Element], None]
) -> Element:
    """Parse; call ``begin`` with the root and ``piece`` with each element below it.

    Return the root, which has no children then. Raise Fault(MALFORMED) for what is not
    well-formed, Fault(REJECTED) for a document type declaration.
    """
    reader = _Reader(begin, piece)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartDoctypeDeclHandler = _doctype
    parser.EntityDeclHandler = _doctype
    parser.StartElementHandler = lambda name, attributes: reader.start(
        name, attributes, parser.CurrentLineNumber
    )
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _malformed(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError):
        # An encoding that Python does not know, or that has more than one octet a character.
        raise _malformed("the character encoding is not supported; use UTF-8") from None
    assert reader.root is not None  # expat refuses a document without an element
    return reader.root


class _Reader:
    def __init__(self, begin: Callable[[Element], None], piece: Callable[[Element], None]) -> None:
        self.root: Element | None = None
        self._begin = begin
        self._piece = piece
        self._open: list[Element] = []
        self._nodes = 0

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if len(self._open) >= _DEPTH:
            raise _malformed(f"line {line}: more than {_DEPTH} elements deep")
        if len(attributes) > _ATTRIBUTES:
            raise _malformed(f"line {line}: more than {_ATTRIBUTES} attributes")
        self._nodes += 1
        if self._nodes > _NODES:
            raise _malformed(f"line {line}: more than {_NODES} elements in one part")
        # Files of the field disagree about namespaces; names alone are never ambiguous in them.
        plain = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        element = Element(name.rpartition(" ")[2], plain, line)
        if not self._open:
            self.root = element
            self._begin(element)
        elif len(self._open) > 1:
            self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, name: str) -> None:
        element = self._open.pop()
        if len(self._open) == 1:
            self._piece(element)
            self._nodes = 0

    def characters(self, text: str) -> None:
        if len(self._open) > 1:
            self._open[-1].pieces.append(text)


def _doctype(*_: Any) -> None:
    raise Fault(
        FaultCode.REJECTED,
        "the file has a document type declaration; a token file needs none, and it can read"
        " other files or fill the memory",
        rule="otp.file.doctype",
    )


def _malformed(why: str) -> Fault:
    return Fault(FaultCode.MALFORMED, f"not well-formed XML: {why}", rule="otp.file.xml")
