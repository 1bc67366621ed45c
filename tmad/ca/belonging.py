"""Do these names belong to the applicant? A login or a device shows who asks, not for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tmad.ca.names import NameKind, kind_of, text_of
from tmad.errors import Fault, FaultCode
from tmad.storage.people import PersonRow

if TYPE_CHECKING:
    from tmad.ca.applicant import Applicant
    from tmad.ca.endpoint import EndpointDocument


def check_names(
    applicant: Applicant,
    document: EndpointDocument,
    subject: x509.Name,
    names: Iterable[x509.GeneralName],
) -> None:
    """Raise Fault(FORBIDDEN) unless what will be certified is the applicant's own.

    The names are those of the certificate, not those of the request (EST-13).
    """
    if applicant.account is not None and document.people.names == "own":
        _check_person(applicant.account, subject, names)
    if applicant.device is not None and document.manufacturer_serial:
        _check_device(applicant.device, subject)


def serial_number_of(subject: x509.Name) -> str:
    """Return the serialNumber attribute, by which 802.1AR names a device, or an empty text."""
    found = _values(subject, NameOID.SERIAL_NUMBER)
    return found[0] if len(found) == 1 else ""


def _check_person(person: PersonRow, subject: x509.Name, names: Iterable[x509.GeneralName]) -> None:
    own_names = {each.casefold() for each in (person.name, person.full_name, person.mail) if each}
    addresses = {each.casefold() for each in (person.mail,) if each}
    asked = [("CN", value, own_names) for value in _values(subject, NameOID.COMMON_NAME)]
    asked += [("UID", value, {person.name}) for value in _values(subject, NameOID.USER_ID)]
    asked += [("E", value, addresses) for value in _values(subject, NameOID.EMAIL_ADDRESS)]
    for name in names:
        kind = kind_of(name)
        is_address = kind in (NameKind.EMAIL, NameKind.UPN)
        asked.append((kind.value, text_of(name), addresses if is_address else set()))
    identified = False
    for kind_text, value, allowed in asked:
        if value.casefold() not in allowed:
            raise Fault(
                FaultCode.FORBIDDEN,
                "these are not the names of the person who logged in",
                rule="person.names",
                values={"person": person.name, "kind": kind_text, "asked": value[:255]},
            )
        identified = True
    if not identified:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the request does not name the person who logged in",
            rule="person.names",
            values={"person": person.name, "asked": subject.rfc4514_string()[:255]},
        )


def _check_device(device: str, subject: x509.Name) -> None:
    found = _values(subject, NameOID.SERIAL_NUMBER)
    if not device or found != [device]:
        raise Fault(
            FaultCode.FORBIDDEN,
            "the subject must have the serialNumber of the device's own certificate",
            rule="manufacturer.serial",
            values={"device": device, "asked": ", ".join(found)[:255]},
        )


def _values(subject: x509.Name, oid: ObjectIdentifier) -> list[str]:
    return [str(each.value) for each in subject.get_attributes_for_oid(oid)]
