"""For which device a profile shall be: its names, and networks besides the endpoint's own."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tmad.ca.device_profiles.rules import WiFi
from tmad.identity.binding import Binding

# What every platform's format can say without rules of its own; "*" would be a pattern in the
# binding of the secret, and a comma or a quote ends a value in openssl's and Windows' files.
_VALUE = re.compile(r"[^\x00-\x1f\x7f-\x9f\"*,&$%\\]{1,200}")
_PATH = re.compile(r"(/[A-Za-z0-9._+@-]+)+")
_ADDRESS_PREFIX = re.compile(r"/\d+$")


class Wish(BaseModel):
    """One device. The enrolment secret in its profile is good for exactly these names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: tuple[str, ...] = Field(min_length=1, max_length=10, description='"CN=alice-phone"')
    names: tuple[str, ...] = Field(
        default=(), max_length=20, description='"dns:host.example.test", "email:…", "upn:…"'
    )
    wifi: tuple[WiFi, ...] = Field(
        default=(), max_length=10, description="Networks, instead of those of the endpoint."
    )
    directory: str = Field(
        default="", description="Where certificate and key lie on devices that have files."
    )

    @field_validator("subject", "names")
    @classmethod
    def _can_be_written(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            _, _, text = each.replace(":", "=", 1).partition("=")
            if not _VALUE.fullmatch(text) or not text.isprintable() or text != text.strip():
                raise ValueError(f'{each!r}: 1 to 200 visible characters, none of " * , & $ % \\')
            if each.startswith("ip:") and _ADDRESS_PREFIX.search(each):
                raise ValueError(f"{each!r} is a network, not an address")
        return value

    @field_validator("directory")
    @classmethod
    def _is_a_path(cls, value: str) -> str:
        if value and (not _PATH.fullmatch(value) or ".." in value.split("/")):
            raise ValueError("must be an absolute path of plain words")
        return value

    @model_validator(mode="after")
    def _binds(self) -> Wish:
        Binding(subject=self.subject, names=self.names)
        return self

    @property
    def binding(self) -> Binding:
        """Return what the secret is good for."""
        return Binding(subject=self.subject, names=self.names)

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Return the subject as pairs such as ("CN", "r1")."""
        found = [each.partition("=") for each in self.subject]
        return tuple([(attribute.upper(), value) for attribute, _, value in found])

    @property
    def alternatives(self) -> tuple[tuple[str, str], ...]:
        """Return the other names as pairs such as ("dns", "r1.example.test")."""
        found = [each.partition(":") for each in self.names]
        return tuple([(kind, value) for kind, _, value in found])
