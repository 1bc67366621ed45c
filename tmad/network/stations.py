"""Devices without 802.1X, known by their MAC address alone (R-17; RFC 2865, 5.6: Call-Check).

Whoever can see an address can take it. So it never counts as proof: only a rule that names the
method lets such a device in, and that into a VLAN of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tmad.errors import Fault, FaultCode
from tmad.network import holder, policy
from tmad.network.cases import Case
from tmad.network.holder import Holder
from tmad.network.matching import Question
from tmad.network.visit import Visit
from tmad.storage.network import DeviceStanding


def case(visit: Visit, mac: str, devices: Sequence[DeviceStanding], at: datetime) -> Case:
    """Return what is known about the station of a visit; ``devices`` are those of its address."""
    device = next(iter(devices), None)
    doubts = list(holder.of_devices(devices, device, mac, at))
    if device is None:
        doubts.append(_unlisted(mac))
    ends = None if device is None else device.owner_valid_until
    name = device.name if device else mac
    return Case(
        question=Question(
            visit=visit, method=policy.MAC, at=at, device=device.name if device else ""
        ),
        holder=Holder(
            name=name,
            person=None,
            device=device,
            responsible=device.owner if device and device.owner_is_known else None,
            doubts=tuple(doubts),
            ends=ends,
        ),
        user_name=name,
        doubts=tuple(doubts),
        ends=() if ends is None else (ends,),
    )


def _unlisted(mac: str) -> Fault:
    return Fault(
        FaultCode.FORBIDDEN,
        "no device here has this MAC address",
        rule="network.unlisted",
        values={"mac": mac},
    )
