"""Texts with {{names}} in them, filled in as the place needs it: URL, JSON, form, XML, plain.

What is filled in never changes the structure around it: a text with quotes stays one JSON
string, an ampersand stays inside its form field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([a-z]+)\s*\}\}")

Escape = Callable[[str], str]


def fill(template: str, values: Mapping[str, str], escaped: Escape) -> str:
    """Return the template with each {{name}} replaced; nothing is replaced twice."""
    return _PLACEHOLDER.sub(lambda match: escaped(values[match[1]]), template)


def in_url(text: str) -> str:
    """Escape for a path segment or a query value (RFC 3986, 2.3)."""
    return quote(text, safe="")


def in_header(text: str) -> str:
    """Keep a value on its line (RFC 9110, 5.5)."""
    return re.sub(r"[^ -~]", " ", text)


def escape_for(content_type: str) -> Escape:
    """Return how to escape for a body of this type; what is not known is taken for plain text."""
    kind = content_type.partition(";")[0].strip()
    if kind == "application/json" or kind.endswith("+json"):
        return _in_json
    if kind == "application/x-www-form-urlencoded":
        return quote_plus
    if kind in ("text/xml", "application/xml") or kind.endswith("+xml"):
        return _in_xml
    return str


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_xml(text: str) -> str:
    # Characters that XML 1.0 cannot hold, not even escaped, are dropped.
    plain = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
    return escape(plain, {'"': "&quot;", "'": "&apos;"})
