"""What an enrolment secret is good for: subjects, alternative names and a profile.

A secret that anybody can use for any name lets the holder of one device enrol as another
(VU#971035), so a binding, where there is one, covers every name that identifies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from pydantic import BaseModel, ConfigDict, Field, field_validator

UPN: Final = ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")

_ATTRIBUTES: Final = {
    "CN": NameOID.COMMON_NAME,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "EMAIL": NameOID.EMAIL_ADDRESS,
    "UNSTRUCTUREDNAME": NameOID.UNSTRUCTURED_NAME,
}
_KINDS: Final = ("dns", "ip", "email", "uri", "upn")


class Binding(BaseModel):
    """The names and the profile that one secret is good for; empty: whatever the profile allows.

    As soon as ``subject`` or ``names`` says anything, each CN and each alternative name of the
    request must match a pattern: a CN one of its own or one of ``names``, an alternative name
    one of ``names`` or one of the CN. ``*`` stands for any text, in a DNS name for one label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: tuple[str, ...] = Field(default=(), description='Such as "CN=router-*", "O=Example".')
    names: tuple[str, ...] = Field(
        default=(), description='Such as "dns:*.example.test", "ip:10.0.0.0/8".'
    )
    profile: str = Field(default="", description="The one profile that it is good for.")
    person: str = Field(
        default="",
        max_length=200,
        description="Whose it is: what is had with it belongs to this person (ACME).",
    )

    @field_validator("subject")
    @classmethod
    def _subject_is_known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            attribute, equals, value = pattern.partition("=")
            if not equals or not value or attribute.upper() not in _ATTRIBUTES:
                raise ValueError(
                    f"{pattern!r} is not ATTRIBUTE=PATTERN with one of {', '.join(_ATTRIBUTES)}"
                )
        return patterns

    @field_validator("names")
    @classmethod
    def _names_are_known(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            kind, _, value = pattern.partition(":")
            if kind not in _KINDS or not value:
                raise ValueError(f"{pattern!r} is not KIND:PATTERN with one of {', '.join(_KINDS)}")
            if kind == "ip":
                ipaddress.ip_network(value, strict=False)
        return patterns

    def names_of(self, kind: str) -> bool:
        """Tell whether it says which names of a kind it is good for."""
        return any(pattern.partition(":")[0] == kind for pattern in self.names)

    def violation(
        self, subject: x509.Name, names: Iterable[x509.GeneralName], profile: str
    ) -> tuple[str, str] | None:
        """Return what the binding does not cover as (rule, value), or None when it covers all."""
        if self.profile and profile != self.profile:
            return "secret.binding.profile", profile
        if not (self.subject or self.names):
            return None
        wanted: dict[str, list[str]] = {}
        for pattern in self.subject:
            attribute, _, value = pattern.partition("=")
            wanted.setdefault(attribute.upper(), []).append(value)
        for attribute, patterns in wanted.items():
            values = _values(subject, attribute)
            if attribute != "CN" and not values:
                return "secret.binding.subject", f"no {attribute}"
            for value in values:
                if attribute != "CN" and not any(_glob(p, value) for p in patterns):
                    return "secret.binding.subject", f"{attribute}={value}"
        names = tuple(names)
        common = _values(subject, "CN")
        if "CN" in wanted and not common:
            return "secret.binding.subject", "no CN"
        for value in common:
            if not self._covers_common_name(value, wanted.get("CN", [])):
                return "secret.binding.subject", f"CN={value}"
        for name in names:
            kind, value = _described(name)
            if not self._covers(kind, value, wanted.get("CN", [])):
                return "secret.binding.names", f"{kind}:{value}"
        return None

    def _covers_common_name(self, value: str, patterns: list[str]) -> bool:
        if patterns:
            return any(_glob(pattern, value) for pattern in patterns)
        return any(self._covers(kind, value, []) for kind in _KINDS)

    def _covers(self, kind: str, value: str, common: list[str]) -> bool:
        for pattern in self.names:
            its_kind, _, text = pattern.partition(":")
            if its_kind == kind and _matches(kind, text, value):
                return True
        # A device named CN=r1.example.test may also say so in its alternative name; a pattern
        # for a CN says nothing about the people and addresses that it would match.
        return kind in ("dns", "ip", "email", "upn") and any(
            _matches(kind, pattern, value)
            for pattern in common
            if kind == "dns" or "*" not in pattern
        )


def _values(subject: x509.Name, attribute: str) -> list[str]:
    found = subject.get_attributes_for_oid(_ATTRIBUTES[attribute])
    return [a.value if isinstance(a.value, str) else a.value.hex() for a in found]


def _described(name: x509.GeneralName) -> tuple[str, str]:
    match name:
        case x509.DNSName():
            return "dns", name.value
        case x509.IPAddress():
            return "ip", str(name.value)
        case x509.RFC822Name():
            return "email", name.value
        case x509.UniformResourceIdentifier():
            return "uri", name.value
        case x509.OtherName() if name.type_id == UPN:
            return "upn", _utf8(name.value)
    # A directory name, a registered id, an unknown other name: no pattern covers these.
    return "other", type(name).__name__


def _utf8(der: bytes) -> str:
    """Read a short DER UTF8String; what is none matches nothing."""
    if len(der) < 2 or der[0] != 0x0C or der[1] != len(der) - 2 or der[1] > 127:
        return "\0"
    try:
        return der[2:].decode()
    except UnicodeDecodeError:
        return "\0"


def _matches(kind: str, pattern: str, value: str) -> bool:
    if kind == "ip":
        try:
            return ipaddress.ip_address(value) in ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            return False
    if kind == "dns":
        labels, wanted = value.rstrip(".").split("."), pattern.rstrip(".").split(".")
        return len(labels) == len(wanted) and all(map(_glob, wanted, labels))
    return _glob(pattern, value)


def _glob(pattern: str, value: str) -> bool:
    """Match ``*`` without a regular expression: linear, whatever a stranger sends."""
    pattern, value = pattern.casefold(), value.casefold()
    first, *rest = pattern.split("*")
    if not rest:
        return value == pattern
    *middle, last = rest
    if not value.startswith(first) or len(value) < len(first) + len(last):
        return False
    at, end = len(first), len(value) - len(last)
    for piece in middle:
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return value.endswith(last)
