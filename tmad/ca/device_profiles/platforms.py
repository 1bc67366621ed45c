"""The platforms that profiles are made for, and what each of them can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tmad.ca.device_profiles import (
    apple,
    eap_config,
    network_manager,
    passpoint,
    scripts,
    windows,
)
from tmad.ca.device_profiles.description import Description, unable
from tmad.signer.algorithms import RSA_BITS, KeyAlgorithm

_RSA = tuple(RSA_BITS)
_CURVES = (KeyAlgorithm.P256, KeyAlgorithm.P384, KeyAlgorithm.P521)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One kind of device.

    ``protocols`` are those that it enrols over by itself, empty where the profile only uses a
    certificate that is there. ``keys`` are what it can make, the best first. With
    ``holds_identity`` certificate and key are made here and lie in the profile.
    """

    name: str
    title: str
    media_type: str
    suffix: str
    write: Callable[[Description], bytes]
    protocols: tuple[str, ...] = ()
    keys: tuple[KeyAlgorithm, ...] = (*_CURVES, *_RSA)
    holds_identity: bool = False
    is_signed: bool = False

    def keys_over(self, protocol: str) -> tuple[KeyAlgorithm, ...]:
        """Return the keys that it can make for one protocol."""
        # Apple's SCEP knows RSA alone; RFC 8894, 3.1: messages are encrypted to the key.
        return _RSA if protocol == "scep" else self.keys


PLATFORMS: Mapping[str, Platform] = {
    each.name: each
    for each in (
        Platform(
            name="apple",
            title="iPhone, iPad, Mac",
            media_type=apple.MEDIA_TYPE,
            suffix=".mobileconfig",
            write=apple.write,
            protocols=("scep", "acme"),
            keys=(KeyAlgorithm.P384, KeyAlgorithm.P256, *_RSA),
            is_signed=True,
        ),
        Platform(
            name="android",
            title="Android, by the app geteduroam or another that reads eap-config",
            media_type=eap_config.MEDIA_TYPE,
            suffix=".eap-config",
            write=eap_config.write,
            keys=(*_RSA, *_CURVES),
            holds_identity=True,
        ),
        Platform(
            name="passpoint",
            title="Android, by its own Wi-Fi installer",
            media_type=passpoint.MEDIA_TYPE,
            suffix=".config",
            write=passpoint.write,
            keys=(*_RSA, *_CURVES),
            holds_identity=True,
        ),
        Platform(
            name="networkmanager",
            title="Linux with NetworkManager: the connection",
            media_type=network_manager.MEDIA_TYPE,
            suffix=".nmconnection",
            write=network_manager.keyfile,
        ),
        Platform(
            name="wpa",
            title="wpa_supplicant: the network block",
            media_type=network_manager.MEDIA_TYPE,
            suffix=".conf",
            write=network_manager.block,
        ),
        Platform(
            name="shell",
            title="Linux: a script that enrols, joins and renews",
            media_type=scripts.SHELL_TYPE,
            suffix=".sh",
            write=scripts.shell,
            protocols=("est",),
            keys=(*_CURVES, *_RSA, KeyAlgorithm.ED25519),
        ),
        Platform(
            name="windows",
            title="Windows: the wireless profile",
            media_type=windows.MEDIA_TYPE,
            suffix=".xml",
            write=windows.write,
        ),
        Platform(
            name="powershell",
            title="Windows: a script that enrols, joins and renews",
            media_type=scripts.POWERSHELL_TYPE,
            suffix=".ps1",
            write=scripts.powershell,
            protocols=("est", "wstep"),
            keys=(*_RSA, *_CURVES),
        ),
    )
}


def platform_of(name: str) -> Platform:
    """Return a platform by its name; Fault(REJECTED) for one that is unknown."""
    found = PLATFORMS.get(name)
    if found is None:
        raise unable(name, f"there is none; one of {', '.join(PLATFORMS)}")
    return found
