"""XML written from nested values, for the formats that devices read.

What goes in is ours and text of an administrator; what comes out is escaped by the library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.etree import ElementTree as ET

Content: TypeAlias = "str | Iterable[Element]"


@dataclass(frozen=True, slots=True)
class Element:
    """One element; ``namespace`` holds for what is inside, too."""

    name: str
    content: Content = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""


def text(element: Element) -> bytes:
    """Return a document with its declaration, indented.

    A default namespace is declared where it begins: readers of these formats know no prefixes.
    """
    root = _node(element)
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'.encode()


def _node(element: Element) -> ET.Element:
    node = ET.Element(element.name, dict(element.attributes))
    if element.namespace:
        node.set("xmlns", element.namespace)
    if isinstance(element.content, str):
        node.text = element.content
    else:
        node.extend([_node(inner) for inner in element.content])
    return node
