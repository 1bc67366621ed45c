"""NetworkManager's keyfile, and wpa_supplicant's network block, for EAP-TLS.

Both only name the files that certificate and key lie in (nm-settings-keyfile(5),
wpa_supplicant.conf(5)).
"""

from __future__ import annotations

import re

from tmad.ca.device_profiles.description import Description, Network, need_network

MEDIA_TYPE = "text/plain; charset=utf-8"

CERTIFICATE = "certificate.pem"
KEY = "key.pem"
ANCHORS = "wifi-anchors.pem"

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9 ._-]*(?<! )")


def keyfile(description: Description) -> bytes:
    """Return the keyfile of the first network."""
    network = need_network(description, "networkmanager")[0]
    at = description.directory
    lines = [
        "[connection]",
        f"id={_escaped(network.ssid)}",
        f"uuid={description.uuid(f'wifi {network.ssid}').lower()}",
        "type=wifi",
        "",
        "[wifi]",
        "mode=infrastructure",
        f"ssid={_ssid_list(network.ssid)}",
        *(["hidden=true"] if network.hidden else []),
        "",
        "[wifi-security]",
        f"key-mgmt={'wpa-eap-suite-b-192' if network.security == 'wpa3-192' else 'wpa-eap'}",
        *([] if network.security == "wpa2" else ["pmf=3"]),
        "",
        "[802-1x]",
        "eap=tls;",
        f"identity={_escaped(description.login)}",
        f"ca-cert={_escaped(f'{at}/{ANCHORS}')}",
        f"client-cert={_escaped(f'{at}/{CERTIFICATE}')}",
        f"private-key={_escaped(f'{at}/{KEY}')}",
        # The key has no password: the file's mode protects it.
        "private-key-password-flags=4",
        f"domain-match={_names(network)}",
        "",
        "[ipv4]",
        "method=auto",
        "",
        "[ipv6]",
        "method=auto",
        "",
    ]
    return "\n".join(lines).encode()


def block(description: Description) -> bytes:
    """Return wpa_supplicant's network blocks."""
    return "\n".join(
        _block(description, each) for each in need_network(description, "wpa")
    ).encode()


def _block(description: Description, network: Network) -> str:
    at = description.directory
    management = {"wpa2": "WPA-EAP WPA-EAP-SHA256", "wpa3": "WPA-EAP-SHA256"}
    lines = [
        "network={",
        f"    ssid={network.ssid.encode().hex()}",
        *(["    scan_ssid=1"] if network.hidden else []),
        f"    key_mgmt={management.get(network.security, 'WPA-EAP-SUITE-B-192')}",
        f"    ieee80211w={1 if network.security == 'wpa2' else 2}",
        *(["    pairwise=GCMP-256", "    group=GCMP-256", "    group_mgmt=BIP-GMAC-256"]
          if network.security == "wpa3-192" else []),
        "    eap=TLS",
        f"    identity={_quoted(description.login)}",
        f"    ca_cert={_quoted(f'{at}/{ANCHORS}')}",
        f"    client_cert={_quoted(f'{at}/{CERTIFICATE}')}",
        f"    private_key={_quoted(f'{at}/{KEY}')}",
        f"    domain_match={_quoted(_names(network))}",
        "}",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _names(network: Network) -> str:
    return ";".join(network.servers)


def _ssid_list(ssid: str) -> str:
    """Return an SSID as it is, or as a list of octets where a semicolon or more is in it."""
    if _PLAIN.fullmatch(ssid):
        return ssid
    return "".join(f"{octet};" for octet in ssid.encode())


def _escaped(value: str) -> str:
    """Return a value for GLib's key file: a space at its start is one of its own."""
    value = value.replace("\\", "\\\\")
    return f"\\s{value[1:]}" if value.startswith(" ") else value


def _quoted(value: str) -> str:
    """Return a string for wpa_supplicant, octets in hexadecimal where a quote is in it."""
    return value.encode().hex() if '"' in value else f'"{value}"'
