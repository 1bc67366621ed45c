"""Apple's configuration profiles (.mobileconfig): SCEP, ACME, certificates, Wi-Fi.

The keys are those of Apple's "Device Management" reference: com.apple.security.scep,
com.apple.security.acme (iOS 16, macOS 13.1), com.apple.security.root and .pkcs1,
com.apple.wifi.managed. The signature around it is CMS, and made elsewhere.
"""

from __future__ import annotations

import plistlib
from typing import Any

from cryptography import x509

from tmad.ca.device_profiles.description import Description, Network, der, unable
from tmad.signer.algorithms import RSA_BITS, KeyAlgorithm

MEDIA_TYPE = "application/x-apple-aspen-config"

# What Apple's reference has words for; others are written as object identifiers.
_SHORT = ("C", "L", "ST", "O", "OU", "CN")
_OIDS = {
    "SERIALNUMBER": "2.5.4.5",
    "DC": "0.9.2342.19200300.100.1.25",
    "UID": "0.9.2342.19200300.100.1.1",
    "EMAIL": "1.2.840.113549.1.9.1",
    "UNSTRUCTUREDNAME": "1.2.840.113549.1.9.2",
}
_ALTERNATIVE = {
    "dns": "dNSName",
    "email": "rfc822Name",
    "uri": "uniformResourceIdentifier",
    "upn": "ntPrincipalName",
}
_SIGN_AND_ENCRYPT = 1 | 4
_EAP_TLS = 13
_CLIENT_AUTH = "1.3.6.1.5.5.7.3.2"
_CURVES = {KeyAlgorithm.P256: 256, KeyAlgorithm.P384: 384, KeyAlgorithm.P521: 521}
# The Secure Enclave and its relatives hold no other keys.
_IN_HARDWARE = frozenset({KeyAlgorithm.P256, KeyAlgorithm.P384})
_RETRIES = 10
_RETRY_SECONDS = 60  # while somebody has to approve


def write(description: Description) -> bytes:
    """Return the profile as an XML property list, not yet signed."""
    credential = _credential(description)
    content = [_anchor(description, each) for each in description.anchors]
    content.append(credential)
    content += [_wifi(description, each, credential) for each in description.networks]
    profile = _payload(description, "Configuration", "", description.title)
    profile |= {
        "PayloadDescription": f"Enrols this device at {description.organisation}: "
        f"certificate for {description.common_name}.",
        "PayloadScope": "System",
        "PayloadRemovalDisallowed": False,
        "PayloadContent": content,
    }
    if description.expires_at is not None:
        profile["PayloadExpirationDate"] = description.expires_at.replace(tzinfo=None)
    return plistlib.dumps(profile)


def _payload(description: Description, kind: str, part: str, title: str) -> dict[str, Any]:
    return {
        "PayloadType": kind,
        "PayloadVersion": 1,
        "PayloadIdentifier": ".".join(filter(None, (description.identifier, part))),
        "PayloadUUID": description.uuid(part),
        "PayloadDisplayName": title,
        "PayloadOrganization": description.organisation,
    }


def _anchor(description: Description, certificate: x509.Certificate) -> dict[str, Any]:
    is_root = certificate.issuer == certificate.subject
    kind = "com.apple.security.root" if is_root else "com.apple.security.pkcs1"
    uuid = description.uuid_of(certificate)
    return {
        **_payload(description, kind, f"ca.{uuid.lower()}", _title(certificate)),
        "PayloadUUID": uuid,
        "PayloadCertificateFileName": f"{uuid.lower()}.cer",
        "PayloadContent": der(certificate),
    }


def _title(certificate: x509.Certificate) -> str:
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(common[0].value) if common else certificate.subject.rfc4514_string()


def _credential(description: Description) -> dict[str, Any]:
    match description.door.protocol:
        case "scep":
            return _scep(description)
        case "acme":
            return _acme(description)
    raise unable(
        "apple",
        f"these devices enrol over SCEP and ACME, not over {description.door.protocol}",
        protocol=description.door.protocol,
    )


def _scep(description: Description) -> dict[str, Any]:
    bits = RSA_BITS.get(description.key)
    if bits is None:
        raise unable("apple", "their SCEP makes RSA keys, and the endpoint's profile allows none")
    content: dict[str, Any] = {
        "URL": description.door.url,
        "Name": description.organisation,
        "Subject": _subject(description),
        "Key Type": "RSA",
        "Keysize": bits,
        "Key Usage": _SIGN_AND_ENCRYPT,
        "KeyIsExtractable": False,
        "Retries": _RETRIES,
        "RetryDelay": _RETRY_SECONDS,
    }
    if description.names:
        content["SubjectAltName"] = _alternative(description)
    if description.door.secret is not None:
        content["Challenge"] = description.door.secret.reveal().decode()
    payload = _payload(description, "com.apple.security.scep", "scep", "Certificate (SCEP)")
    return {**payload, "PayloadContent": content}


def _acme(description: Description) -> dict[str, Any]:
    in_hardware = description.key in _IN_HARDWARE
    identifier = dict(description.subject).get("SERIALNUMBER", description.common_name)
    if description.names or any(value != identifier for _, value in description.subject):
        # RFC 8555, 7.4: what was not ordered may not stand in the request.
        raise unable("apple", "over ACME a certificate names the device's identifier, and no more")
    size = RSA_BITS.get(description.key) or _CURVES.get(description.key)
    if size is None:
        raise unable("apple", f"they make no {description.key.value} keys")
    payload = _payload(description, "com.apple.security.acme", "acme", "Certificate (ACME)")
    payload |= {
        "DirectoryURL": description.door.url,
        # The permanent-identifier that the device orders a certificate for, and attests.
        "ClientIdentifier": identifier,
        "KeyType": "ECSECPrimeRandom" if description.key in _CURVES else "RSA",
        "KeySize": size,
        "HardwareBound": in_hardware,
        "Attest": in_hardware,
        "KeyIsExtractable": False,
        "Subject": _subject(description),
        "UsageFlags": _SIGN_AND_ENCRYPT if description.key in RSA_BITS else 1,
        "ExtendedKeyUsage": [_CLIENT_AUTH],
    }
    return payload


def _subject(description: Description) -> list[list[list[str]]]:
    return [
        [[attribute if attribute in _SHORT else _OIDS[attribute], value]]
        for attribute, value in description.subject
    ]


def _alternative(description: Description) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for kind, value in description.names:
        if kind not in _ALTERNATIVE:
            raise unable("apple", f"these devices cannot ask for a name of the kind {kind}")
        found.setdefault(_ALTERNATIVE[kind], []).append(value)
    return {kind: values[0] if len(values) == 1 else values for kind, values in found.items()}


def _wifi(description: Description, network: Network, credential: dict[str, Any]) -> dict[str, Any]:
    part = f"wifi.{description.uuid(f'wifi {network.ssid}').lower()}"
    payload = _payload(description, "com.apple.wifi.managed", part, f"Wi-Fi {network.ssid}")
    return {
        **payload,
        "SSID_STR": network.ssid,
        "HIDDEN_NETWORK": network.hidden,
        "AutoJoin": True,
        "EncryptionType": "WPA2" if network.security == "wpa2" else "WPA3",
        "ProxyType": "None",
        # The identity that the certificate's payload makes.
        "PayloadCertificateUUID": credential["PayloadUUID"],
        "EAPClientConfiguration": {
            "AcceptEAPTypes": [_EAP_TLS],
            "TLSCertificateIsRequired": True,
            "TLSMinimumVersion": "1.2",
            "TLSTrustedServerNames": list(network.servers),
            "PayloadCertificateAnchorUUID": [description.uuid_of(each) for each in network.roots],
        },
    }
