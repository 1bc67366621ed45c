"""Logins by MAC address, which a switch or an access point makes for what speaks no 802.1X.

RFC 2865, 5.6 (Call-Check), 5.2 and 5.3. There is no standard for the rest: user name and password
are the address, in whatever form the maker likes; some say Call-Check, others do not.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from tmad.errors import Fault, FaultCode
from tmad.network.policy import MAC
from tmad.network.visit import Visit, mac_of
from tmad.protocols.radius import codec
from tmad.protocols.radius.codec import Packet

CALL_CHECK: Final = 10
_CHAP_OCTETS: Final = 17  # its identifier and an MD5 digest


def is_asked(packet: Packet, methods: tuple[str, ...]) -> bool:
    """Tell whether a client with these methods means the address and not a person."""
    if packet.number(codec.SERVICE_TYPE) == CALL_CHECK:
        return True
    if MAC not in methods:
        return False
    mac = mac_of(packet.text(codec.USER_NAME))
    return bool(mac) and mac == mac_of(packet.text(codec.CALLING_STATION_ID))


def of_station(visit: Visit) -> Visit:
    """Return the visit of the address that a request names, once or twice; Fault(REJECTED)."""
    mac = mac_of(visit.user_name)
    if not mac or visit.calling_station not in ("", mac):
        raise Fault(
            FaultCode.REJECTED,
            "user name and calling station are not one MAC address",
            rule="radius.mac.station",
            values={"user_name": visit.user_name, "calling_station": visit.calling_station_sent},
        )
    return visit if visit.calling_station else replace(visit, calling_station=mac)


def check_password(packet: Packet, visit: Visit, secret: bytes) -> None:
    """Raise Fault(UNAUTHENTICATED) unless the password is the address, by PAP or CHAP.

    Of the device it proves nothing: it shows that the client has our shared secret, and that
    nobody typed it. A client that signs its requests has shown the former and may leave it empty.
    """
    hidden = packet.first(codec.USER_PASSWORD)
    chap = packet.first(codec.CHAP_PASSWORD)
    if hidden is not None:
        clear = codec.reveal_password(hidden, packet.authenticator, secret)
        is_address = mac_of(clear.decode("ascii", "replace")) == visit.calling_station or (
            not clear and packet.is_signed
        )
    else:
        is_address = chap is not None and _is_chap_of(packet, chap, visit)
    if not is_address:
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the password of a login by MAC address is not the address",
            rule="radius.mac.password",
            values={"client": visit.client},
        )


def _is_chap_of(packet: Packet, chap: bytes, visit: Visit) -> bool:
    """Tell whether a CHAP response was made with the address, as user name or station has it."""
    if len(chap) != _CHAP_OCTETS:
        return False
    challenge = packet.first(codec.CHAP_CHALLENGE) or packet.authenticator
    return any(
        hmac.compare_digest(
            hashlib.md5(chap[:1] + text.encode() + challenge, usedforsecurity=False).digest(),
            chap[1:],
        )
        for text in {visit.user_name, visit.calling_station_sent}
    )
