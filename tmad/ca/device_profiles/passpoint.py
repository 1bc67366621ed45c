"""Android's Wi-Fi installer: a Passpoint subscription with the certificate in it.

The file is multipart/mixed, and base64 around all of it; the profile is the OMA-DM tree of the
Wi-Fi Alliance's Hotspot 2.0 PerProviderSubscription (Android: "Passpoint R1").
"""

from __future__ import annotations

import base64
import hashlib
import secrets

from tmad.ca.device_profiles.description import (
    Description,
    Network,
    der,
    need_identity,
    need_network,
    unable,
)
from tmad.ca.device_profiles.xml import Element, text

MEDIA_TYPE = "application/x-wifi-config"

_TREE = "urn:wfa:mo:hotspot2dot0-perprovidersubscription:1.0"


def write(description: Description) -> bytes:
    """Return the file as the installer wants it."""
    able = [each for each in need_network(description, "passpoint") if each.passpoint]
    if not able:
        raise unable("passpoint", "none of the endpoint's networks has devices.wifi.passpoint")
    network = able[0]
    identity = need_identity(description, "passpoint")
    parts = [
        ("application/x-passpoint-profile", _subscription(description, network)),
        # The installer takes one certificate to trust, and opens the key without a password.
        ("application/x-x509-ca-cert", der(network.roots[0])),
        ("application/x-pkcs12", identity.plain.reveal()),
    ]
    boundary = secrets.token_hex(16)
    lines = [
        f"Content-Type: multipart/mixed; boundary={boundary}",
        "Content-Transfer-Encoding: base64",
        "",
    ]
    for media_type, octets in parts:
        lines += [
            f"--{boundary}",
            f"Content-Type: {media_type}",
            "Content-Transfer-Encoding: base64",
            "",
            base64.b64encode(octets).decode("ascii"),
        ]
    lines += [f"--{boundary}--", ""]
    return base64.b64encode("\n".join(lines).encode("ascii"))


def _subscription(description: Description, network: Network) -> bytes:
    identity = need_identity(description, "passpoint")
    fingerprint = hashlib.sha256(der(identity.certificate)).hexdigest()
    home = [
        _leaf("FriendlyName", description.organisation),
        _leaf("FQDN", network.passpoint),
    ]
    certificate = [
        _leaf("CertificateType", "x509v3"),
        _leaf("CertSHA256Fingerprint", fingerprint),
    ]
    credential = [
        _leaf("CreationDate", f"{identity.certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"),
        _leaf("Realm", network.passpoint),
        _node("DigitalCertificate", certificate),
    ]
    kind = Element("RTProperties", [Element("Type", [Element("DDFName", _TREE)])])
    return text(
        Element(
            "MgmtTree",
            (
                Element("VerDTD", "1.2"),
                _node(
                    "PerProviderSubscription",
                    [
                        kind,
                        _node("i001", [_node("HomeSP", home), _node("Credential", credential)]),
                    ],
                ),
            ),
            namespace="syncml:dmddf1.2",
        )
    )


def _node(name: str, inner: list[Element]) -> Element:
    return Element("Node", [Element("NodeName", name), *inner])


def _leaf(name: str, value: str) -> Element:
    return Element("Node", [Element("NodeName", name), Element("Value", value)])
