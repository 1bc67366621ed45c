"""What a RADIUS client says about one login, in one normal form (RFC 2865, RFC 3580).

Of a visit only the client is authenticated: everything else is what a switch or an access point
says, and the outer identity is what whoever wants to join says of himself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PAIRS: Final = re.compile(r"[0-9A-Fa-f]{2}([-:. ]?)(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")
_TRIPLES: Final = re.compile(r"[0-9A-Fa-f]{4}([-:. ])[0-9A-Fa-f]{4}\1[0-9A-Fa-f]{4}")
_HALVES: Final = re.compile(r"[0-9A-Fa-f]{6}[-:.][0-9A-Fa-f]{6}")  # HP's single-dash
_MAC: Final = re.compile(r"[0-9a-f]{12}")
_SEPARATORS: Final = str.maketrans("", "", "-:. ")


# Not frozen: it is made for each login, and freezing takes twice the time of the rest.
@dataclass(slots=True, kw_only=True)
class Visit:
    """One attempt to log in, as its RADIUS client describes it.

    ``client`` is the name of the ``radius-client`` object. Stations are twelve lower-case
    hexadecimal digits where they are MAC addresses, else as they were sent. ``session_key`` is
    the Acct-Session-Id of the Access-Request, if there was one.
    """

    tenant: str
    client: str
    tags: tuple[str, ...]
    address: str
    nas_identifier: str
    nas_port: str
    nas_port_type: int | None
    ssid: str
    called_station: str
    calling_station: str
    service_type: int | None
    user_name: str
    session_key: str = ""
    calling_station_sent: str = ""  # letter for letter: a Disconnect-Request repeats it
    wants_key_name: bool = False


def station(text: str) -> str:
    """Return a MAC address in any usual form as twelve hexadecimal digits, else the text."""
    if _PAIRS.fullmatch(text) or _TRIPLES.fullmatch(text) or _HALVES.fullmatch(text):
        return text.translate(_SEPARATORS).lower()
    return text


def mac_of(text: str) -> str:
    """Return a MAC address in any usual form as twelve digits, an empty text for anything else."""
    found = station(text)
    return found if _MAC.fullmatch(found) else ""


def ssid_of(called_station: str) -> tuple[str, str]:
    """Split a Called-Station-Id into station and SSID (RFC 3580, 3.20).

    The SSID follows the address after a colon; hostapd sends the colon on wires, too, with
    nothing behind it.
    """
    # An address has 12, 14 or 17 characters; the SSID may hold anything, colons included.
    for length in (17, 14, 12):
        address, rest = called_station[:length], called_station[length:]
        if (found := station(address)) != address or _is_plain(address):
            if not rest:
                return found, ""
            if rest[0] == ":":
                return found, rest[1:]
    return called_station, ""


def _is_plain(address: str) -> bool:
    return len(address) == 12 and bool(_PAIRS.fullmatch(address))
