"""Windows' wireless profile: WLANProfile with EAP-TLS by a certificate of the store.

The schemas of "WLAN_profile", "OneX" and the EapHost configuration (MS-GPWL, appendix A); the
elements stand in their order.
"""

from __future__ import annotations

import hashlib

from cryptography import x509

from tmad.ca.device_profiles.description import Description, Network, der, need_network
from tmad.ca.device_profiles.xml import Element, text

MEDIA_TYPE = "application/xml"

_WLAN = "http://www.microsoft.com/networking/WLAN/profile/v1"
_ONEX = "http://www.microsoft.com/networking/OneX/v1"
_EAP_HOST = "http://www.microsoft.com/provisioning/EapHostConfig"
_EAP_COMMON = "http://www.microsoft.com/provisioning/EapCommon"
_EAP_BASE = "http://www.microsoft.com/provisioning/BaseEapConnectionPropertiesV1"
_EAP_TLS = "http://www.microsoft.com/provisioning/EapTlsConnectionPropertiesV"
_TLS_TYPE = "13"
_AUTHENTICATION = {"wpa2": "WPA2", "wpa3": "WPA3ENT", "wpa3-192": "WPA3ENT192"}


def write(description: Description) -> bytes:
    """Return the profile of the first network, as ``netsh wlan add profile`` takes it."""
    return profile(description, need_network(description, "windows")[0])


def profile(description: Description, network: Network) -> bytes:
    """Return the profile of one network; the computer's own certificate joins it."""
    strong = network.security == "wpa3-192"
    ssid = [Element("hex", network.ssid.encode().hex().upper()), Element("name", network.ssid)]
    security = Element(
        "security",
        (
            Element(
                "authEncryption",
                (
                    Element("authentication", _AUTHENTICATION[network.security]),
                    Element("encryption", "GCMP256" if strong else "AES"),
                    Element("useOneX", "true"),
                ),
            ),
            Element(
                "OneX",
                (
                    Element("cacheUserData", "true"),
                    Element("authMode", "machine"),
                    Element("EAPConfig", [_eap(description, network)]),
                ),
                namespace=_ONEX,
            ),
        ),
    )
    return text(
        Element(
            "WLANProfile",
            (
                Element("name", network.ssid),
                Element(
                    "SSIDConfig",
                    (Element("SSID", ssid), Element("nonBroadcast", _boolean(network.hidden))),
                ),
                Element("connectionType", "ESS"),
                Element("connectionMode", "auto"),
                Element("autoSwitch", "false"),
                Element("MSM", [security]),
            ),
            namespace=_WLAN,
        )
    )


def _eap(description: Description, network: Network) -> Element:
    method = [
        Element("Type", _TLS_TYPE, namespace=_EAP_COMMON),
        Element("VendorId", "0", namespace=_EAP_COMMON),
        Element("VendorType", "0", namespace=_EAP_COMMON),
        Element("AuthorId", "0", namespace=_EAP_COMMON),
    ]
    eap = Element(
        "Eap",
        (Element("Type", _TLS_TYPE), _tls(description, network)),
        namespace=_EAP_BASE,
    )
    return Element(
        "EapHostConfig",
        (Element("EapMethod", method), Element("Config", [eap], namespace=_EAP_HOST)),
        namespace=_EAP_HOST,
    )


def _tls(description: Description, network: Network) -> Element:
    # Of several certificates on the machine, the one that this authority has issued.
    issuers = [Element("IssuerHash", thumbprint(each)) for each in description.issuers]
    hashes = Element("CAHashList", issuers, {"Enabled": "true"})
    filtering = Element("FilteringInfo", [hashes], namespace=f"{_EAP_TLS}3")
    return Element(
        "EapType",
        (
            Element(
                "CredentialsSource",
                [Element("CertificateStore", [Element("SimpleCertSelection", "true")])],
            ),
            Element(
                "ServerValidation",
                (
                    Element("DisableUserPromptForServerValidation", "true"),
                    Element("ServerNames", ";".join(network.servers)),
                    *(Element("TrustedRootCA", thumbprint(root)) for root in network.roots),
                ),
            ),
            Element("DifferentUsername", "false"),
            Element("PerformServerValidation", "true", namespace=f"{_EAP_TLS}2"),
            Element("AcceptServerName", "true", namespace=f"{_EAP_TLS}2"),
            Element("TLSExtensions", [filtering], namespace=f"{_EAP_TLS}2"),
        ),
        namespace=f"{_EAP_TLS}1",
    )


def thumbprint(certificate: x509.Certificate) -> str:
    """Return what Windows finds a certificate in its stores by: SHA-1, and no other."""
    return hashlib.sha1(der(certificate), usedforsecurity=False).hexdigest()


def _boolean(value: bool) -> str:
    return "true" if value else "false"
