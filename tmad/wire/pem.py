"""Text for octets: RFC 7468."""

from __future__ import annotations

import base64
from typing import Final

_LINE: Final = 64  # characters (RFC 7468, 2)


def armour(label: str, data: bytes) -> bytes:
    """Return DER between lines that say what it is, such as "CERTIFICATE"."""
    text = base64.b64encode(data)
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    name = label.encode()
    return b"\n".join((b"-----BEGIN %b-----" % name, *lines, b"-----END %b-----" % name, b""))
