"""Scripts that enrol, install and renew by themselves: POSIX shell, and PowerShell.

Each is a file that stands beside this module as it runs; what differs from device to device is
written into its settings, quoted by the rules of its language.
"""

from __future__ import annotations

import re
import shlex
from importlib import resources

from tmad.ca.device_profiles import network_manager, windows
from tmad.ca.device_profiles.description import Description, pem, unable
from tmad.signer.algorithms import RSA_BITS, KeyAlgorithm

SHELL_TYPE = "text/x-shellscript; charset=utf-8"
POWERSHELL_TYPE = "text/plain; charset=utf-8"

_OPENSSL_CURVES = {
    KeyAlgorithm.P256: "P-256",
    KeyAlgorithm.P384: "P-384",
    KeyAlgorithm.P521: "P-521",
}
_WINDOWS_CURVES = {
    KeyAlgorithm.P256: ("ECDSA_P256", 256),
    KeyAlgorithm.P384: ("ECDSA_P384", 384),
    KeyAlgorithm.P521: ("ECDSA_P521", 521),
}
# As openssl.cnf(5) calls the kinds of alternative names, and as certreq's INF files do.
_OPENSSL_NAMES = {"dns": "DNS", "ip": "IP", "email": "email", "uri": "URI"}
_OPENSSL_UPN = "otherName:1.3.6.1.4.1.311.20.2.3;UTF8"
_WINDOWS_NAMES = {"dns": "dns", "ip": "ipaddress", "email": "email", "uri": "url", "upn": "upn"}
_OPENSSL_ATTRIBUTES = {"EMAIL": "emailAddress", "SERIALNUMBER": "serialNumber",
                       "UNSTRUCTUREDNAME": "unstructuredName"}  # fmt: skip
_WINDOWS_ATTRIBUTES = {"EMAIL": "E", "SERIALNUMBER": "OID.2.5.4.5", "ST": "S",
                       "UID": "OID.0.9.2342.19200300.100.1.1",
                       "UNSTRUCTUREDNAME": "OID.1.2.840.113549.1.9.2"}  # fmt: skip
# PowerShell takes typographic quotes for the plain one.
_SINGLE_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
_MARK = "# @settings@\n"


def shell(description: Description) -> bytes:
    """Return the script for Linux: EST by curl and openssl."""
    door = description.door
    if door.protocol != "est":
        raise unable("shell", "the script enrols over EST, not over " + door.protocol)
    networks = description.networks
    anchors = tuple(dict.fromkeys(root for each in networks for root in each.roots))
    connection = network_manager.keyfile(description).decode() if networks else ""
    settings = {
        "label": description.identifier,
        "title": description.title,
        "url": door.url,
        "renewal_url": door.renewal_url,
        "user": door.user,
        "secret": "" if door.secret is None else door.secret.reveal().decode(),
        "subject": _openssl_subject(description),
        "names": _openssl_names(description),
        "key_algorithm": _openssl_key(description.key),
        "directory": description.directory,
        "renew_days": str(description.renew_days),
        "server_anchors": pem(door.roots),
        "issuers": pem(description.issuers),
        "network_anchors": pem(anchors),
        "connection": connection,
    }
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return _filled("enroll.sh", lines)


def powershell(description: Description) -> bytes:
    """Return the script for Windows: certreq with EST, or with a policy server (MS-XCEP)."""
    door = description.door
    if door.protocol not in ("est", "wstep"):
        raise unable(
            "powershell", "the script enrols over EST and WSTEP, not over " + door.protocol
        )
    networks = [windows.profile(description, each).decode() for each in description.networks]
    # Windows finds certificates by their SHA-1.
    thumbprint = windows.thumbprint(description.issuers[0]).upper()
    settings = {
        "Label": _literal(description.identifier),
        "Title": _literal(description.title),
        "Way": _literal("est" if door.protocol == "est" else "xcep"),
        "Url": _literal(door.url),
        "RenewalUrl": _literal(door.renewal_url),
        "User": _literal(door.user),
        "Secret": _literal("" if door.secret is None else door.secret.reveal().decode()),
        "Template": _literal(description.profile),
        "CommonName": _literal(description.common_name),
        "RenewDays": str(description.renew_days),
        "IssuerThumbprints": _array([thumbprint]),
        "Anchors": _array([pem((each,)) for each in description.anchors]),
        "Networks": _array(networks),
        "RequestText": _literal(_inf(description)),
    }
    lines = "".join(f"${name} = {value}\n" for name, value in settings.items())
    # Windows PowerShell reads a file without this mark in the code page of the machine.
    return b"\xef\xbb\xbf" + _filled("enroll.ps1", lines).replace(b"\n", b"\r\n")


def _filled(name: str, settings: str) -> bytes:
    text = resources.files("tmad.ca.device_profiles").joinpath(name).read_text("utf-8")
    return text.replace(_MARK, settings, 1).encode()


# -- openssl ----------------------------------------------------------------------------------


def _openssl_key(algorithm: KeyAlgorithm) -> str:
    if algorithm in RSA_BITS:
        return f"RSA -pkeyopt rsa_keygen_bits:{RSA_BITS[algorithm]}"
    if algorithm in _OPENSSL_CURVES:
        return f"EC -pkeyopt ec_paramgen_curve:{_OPENSSL_CURVES[algorithm]}"
    return algorithm.value


def _openssl_subject(description: Description) -> str:
    return "".join(
        f"/{_OPENSSL_ATTRIBUTES.get(attribute, attribute)}=" + re.sub(r"([\\/+=])", r"\\\1", value)
        for attribute, value in description.subject
    )


def _openssl_names(description: Description) -> str:
    return ",".join(
        f"{_OPENSSL_UPN if kind == 'upn' else _OPENSSL_NAMES[kind]}:{value}"
        for kind, value in description.names
    )


# -- Windows ----------------------------------------------------------------------------------


def _inf(description: Description) -> str:
    """Return what ``certreq -new`` reads; the values hold no quotes (see Description)."""
    name, length = _WINDOWS_CURVES.get(description.key, ("RSA", RSA_BITS.get(description.key, 0)))
    if not length:
        raise unable("powershell", f"Windows makes no {description.key.value} keys")
    # digitalSignature, and keyEncipherment for RSA.
    usage = "0xa0" if name == "RSA" else "0x80"
    subject = ", ".join(
        f"{_WINDOWS_ATTRIBUTES.get(attribute, attribute)}={_x500(value)}"
        for attribute, value in reversed(description.subject)
    )
    lines = [
        "[Version]",
        'Signature="$Windows NT$"',
        "",
        "[NewRequest]",
        f'Subject = "{subject}"',
        "RequestType = PKCS10",
        f"KeyAlgorithm = {name}",
        f"KeyLength = {length}",
        "HashAlgorithm = SHA256",
        f"KeyUsage = {usage}",
        "MachineKeySet = true",
        "Exportable = false",
        "SMIME = false",
        'ProviderName = "Microsoft Software Key Storage Provider"',
    ]
    if description.names:
        lines += ["", "[Extensions]", '2.5.29.17 = "{text}"']
        lines += [
            f'_continue_ = "{_WINDOWS_NAMES[kind]}={value}&"' for kind, value in description.names
        ]
    return "\r\n".join([*lines, ""])


def _x500(value: str) -> str:
    """Return a value of a name; what would separate parts of it stands in doubled quotes."""
    return f'""{value}""' if re.search(r"[,;+=<>#\\]|^ | $", value) else value


def _literal(value: str) -> str:
    return "'" + _SINGLE_QUOTES.sub(r"\1\1", value) + "'"


def _array(values: list[str]) -> str:
    return "@(" + ", ".join(map(_literal, values)) + ")"
