"""eap-config: the file that eduroam's and geteduroam's apps read on Android and elsewhere.

The metadata format of draft-winter-opsawg-eap-metadata-02, as published with GÉANT's
Configuration Assistant Tool: the elements stand in the order of its schema.
"""

from __future__ import annotations

import base64
from datetime import UTC

from tmad.ca.device_profiles.description import (
    Description,
    Network,
    der,
    need_identity,
    need_network,
)
from tmad.ca.device_profiles.xml import Element, text

MEDIA_TYPE = "application/eap-config"

_EAP_TLS = "13"


def write(description: Description) -> bytes:
    """Return the file; the identity in it opens with the passphrase beside it."""
    networks = need_network(description, "android")
    identity = need_identity(description, "android")
    until = identity.certificate.not_valid_after_utc.astimezone(UTC)
    provider = Element(
        "EAPIdentityProvider",
        (
            Element("ValidUntil", f"{until:%Y-%m-%dT%H:%M:%SZ}"),
            Element("AuthenticationMethods", [_method(description, networks)]),
            Element("CredentialApplicability", [_applies(each) for each in networks]),
            Element("ProviderInfo", [Element("DisplayName", description.organisation)]),
        ),
        {
            "ID": description.identifier,
            "namespace": "urn:RFC4282:realm",
            "version": "1",
            "lang": "en",
        },
    )
    return text(Element("EAPIdentityProviderList", [provider]))


def _method(description: Description, networks: tuple[Network, ...]) -> Element:
    identity = need_identity(description, "android")
    roots = dict.fromkeys(root for each in networks for root in each.roots)
    servers = dict.fromkeys(server for each in networks for server in each.servers)
    form = {"format": "X.509", "encoding": "base64"}
    return Element(
        "AuthenticationMethod",
        (
            Element("EAPMethod", [Element("Type", _EAP_TLS)]),
            Element(
                "ServerSideCredential",
                [
                    *(Element("CA", _base64(der(root)), form) for root in roots),
                    *(Element("ServerID", server) for server in servers),
                ],
            ),
            Element(
                "ClientSideCredential",
                (
                    Element("OuterIdentity", description.login),
                    Element(
                        "ClientCertificate",
                        _base64(identity.sealed.reveal()),
                        {"format": "PKCS12", "encoding": "base64"},
                    ),
                    Element("Passphrase", identity.password.reveal().decode()),
                ),
                {"allow_save": "true"},
            ),
        ),
    )


def _applies(network: Network) -> Element:
    return Element("IEEE80211", (Element("SSID", network.ssid), Element("MinRSNProto", "CCMP")))


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
