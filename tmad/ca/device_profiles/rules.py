"""What an endpoint says about the devices that enrol at it: whose they are, which networks."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_LONGEST_SSID = 32  # octets (IEEE 802.11, 9.4.2.2)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WiFi(_Part):
    """A wireless network that devices join with their certificate (EAP-TLS)."""

    ssid: str = Field(description="The network's name, 1 to 32 octets of UTF-8.")
    hidden: bool = Field(default=False, description="It does not say its name by itself.")
    security: Literal["wpa2", "wpa3", "wpa3-192"] = Field(
        default="wpa2", description="wpa3-192: the suite of 192 bits that WPA3-Enterprise has."
    )
    servers: tuple[str, ...] = Field(
        default=(),
        max_length=10,
        description="DNS names in the certificates of the RADIUS servers; empty: this node's host.",
    )
    authorities: tuple[str, ...] = Field(
        default=(),
        max_length=10,
        description="Authorities above the RADIUS servers' certificates; empty: the one above "
        "this node's own.",
    )
    passpoint: str = Field(
        default="",
        description="Domain of the home provider, where the network announces Passpoint.",
    )

    @field_validator("ssid")
    @classmethod
    def _fits_a_beacon(cls, value: str) -> str:
        if not 1 <= len(value.encode()) <= _LONGEST_SSID:
            raise ValueError("an SSID has 1 to 32 octets")
        if not value.isprintable():
            raise ValueError("an SSID with control characters cannot be typed by anybody")
        return value

    @field_validator("servers")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple([check_host(each) for each in value])

    @field_validator("passpoint")
    @classmethod
    def _is_host(cls, value: str) -> str:
        return check_host(value) if value else value


class DeviceRules(_Part):
    """What configuration profiles for devices say besides how to enrol."""

    organisation: str = Field(
        default="",
        max_length=100,
        description="Whose profile it is, as devices show it; empty: the authority's O.",
    )
    wifi: tuple[WiFi, ...] = Field(
        default=(), max_length=10, description="Networks that they join with the certificate."
    )

    @field_validator("organisation")
    @classmethod
    def _is_one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("has control characters")
        return value


def check_host(value: str) -> str:
    """Return a DNS name in lower case; raise ValueError for anything else."""
    host = value.lower()
    if not _HOST.fullmatch(host):
        raise ValueError(f"{value!r} is not a DNS name")
    return host
