"""What is written for each platform, read back by something else than what wrote it."""

from __future__ import annotations

import base64
import configparser
import email
import hashlib
import plistlib
import re
import shlex
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pydantic import ValidationError

from tests.unit.device_profile_world import DEVICE, HOST, ISSUING, ROOT, described
from tmad.ca.device_profiles import (
    apple,
    eap_config,
    network_manager,
    passpoint,
    scripts,
    windows,
)
from tmad.ca.device_profiles.description import der
from tmad.ca.device_profiles.platforms import PLATFORMS, platform_of
from tmad.ca.device_profiles.rules import DeviceRules, WiFi
from tmad.ca.device_profiles.wish import Wish
from tmad.cli.device_profiles import PLATFORMS as CHOICES
from tmad.errors import Fault
from tmad.events import Secret
from tmad.protocols.enroll import codec
from tmad.signer.algorithms import KeyAlgorithm

# -- Apple ------------------------------------------------------------------------------------


def payloads(**others: Any) -> dict[str, list[dict[str, Any]]]:
    profile = plistlib.loads(apple.write(described(**others)))
    found: dict[str, list[dict[str, Any]]] = {"": [profile]}
    for payload in profile["PayloadContent"]:
        found.setdefault(payload["PayloadType"].removeprefix("com.apple."), []).append(payload)
    return found


DEVICE_ONLY: dict[str, Any] = {
    "subject": (("CN", "C02ABC"), ("SERIALNUMBER", "C02ABC")),
    "names": (),
}


def scep(**others: Any) -> dict[str, Any]:
    return {"protocol": "scep", "key": KeyAlgorithm.RSA_2048, **others}


def test_an_apple_profile_is_complete_and_its_identifiers_are_its_own() -> None:
    found = payloads(**scep())
    [profile] = found[""]
    assert profile["PayloadType"] == "Configuration"
    assert profile["PayloadIdentifier"] == "test.example.ca.est-phones"
    assert (profile["PayloadDisplayName"], profile["PayloadOrganization"]) == (
        "Example: phones",
        "Example",
    )
    assert f"{profile['PayloadExpirationDate']:%F %T}" == "2026-11-24 00:00:00"
    every = [profile, *profile["PayloadContent"]]
    for key in ("PayloadUUID", "PayloadIdentifier"):
        assert len({payload[key] for payload in every}) == len(every)
    for payload in every:
        assert payload["PayloadVersion"] == 1
        assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", payload["PayloadUUID"])
    [root], [between] = found["security.root"], found["security.pkcs1"]
    assert (root["PayloadContent"], between["PayloadContent"]) == (der(ROOT), der(ISSUING))


def test_a_later_apple_profile_takes_the_place_of_the_earlier_one() -> None:
    def ids(profile: dict[str, Any]) -> list[str]:
        return [each["PayloadUUID"] for each in (profile, *profile["PayloadContent"])]

    [one], [other] = (payloads(**scep(**how))[""] for how in ({}, {"subject": (("CN", "bob"),)}))
    assert ids(one) == ids(other)
    [third] = payloads(**scep(identifier="test.example.ca.scep-others"))[""]
    assert ids(third)[0] != ids(one)[0]


def test_an_apple_device_enrols_over_scep() -> None:
    [payload] = payloads(**scep())["security.scep"]
    content = payload["PayloadContent"]
    assert content["URL"] == f"https://{HOST}/scep"
    assert content["Challenge"] == "THESECRET"
    assert (content["Key Type"], content["Keysize"], content["Key Usage"]) == ("RSA", 2048, 5)
    assert content["Subject"] == [[["O", "Example"]], [["CN", "alice-phone"]]]
    assert content["SubjectAltName"] == {
        "dNSName": "alice.example.test",
        "ntPrincipalName": "alice@example.test",
    }
    assert content["KeyIsExtractable"] is False


@pytest.mark.parametrize(
    ("key", "kind", "size", "in_hardware"),
    [
        (KeyAlgorithm.P384, "ECSECPrimeRandom", 384, True),
        (KeyAlgorithm.P521, "ECSECPrimeRandom", 521, False),
        (KeyAlgorithm.RSA_3072, "RSA", 3072, False),
    ],
)
def test_an_apple_device_enrols_over_acme(
    key: KeyAlgorithm, kind: str, size: int, in_hardware: bool
) -> None:
    [payload] = payloads(protocol="acme", key=key, **DEVICE_ONLY)["security.acme"]
    assert payload["DirectoryURL"] == f"https://{HOST}/acme"
    assert payload["ClientIdentifier"] == "C02ABC"
    assert payload["Subject"] == [[["CN", "C02ABC"]], [["2.5.4.5", "C02ABC"]]]
    assert (payload["KeyType"], payload["KeySize"]) == (kind, size)
    assert (payload["HardwareBound"], payload["Attest"]) == (in_hardware, in_hardware)
    assert "Challenge" not in payload


def test_an_apple_device_joins_with_the_certificate_it_gets() -> None:
    found = payloads(**scep(security="wpa3", hidden=True))
    [wifi] = found["wifi.managed"]
    assert (wifi["SSID_STR"], wifi["EncryptionType"], wifi["HIDDEN_NETWORK"]) == (
        "Corp",
        "WPA3",
        True,
    )
    assert wifi["PayloadCertificateUUID"] == found["security.scep"][0]["PayloadUUID"]
    eap = wifi["EAPClientConfiguration"]
    assert eap["AcceptEAPTypes"] == [13]
    assert eap["TLSTrustedServerNames"] == ["radius1.example.test", "radius2.example.test"]
    assert eap["PayloadCertificateAnchorUUID"] == [found["security.root"][0]["PayloadUUID"]]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"protocol": "est"}, "not over est"),
        ({"protocol": "scep", "key": KeyAlgorithm.P256}, "RSA"),
        ({"protocol": "acme", "key": KeyAlgorithm.ED25519, **DEVICE_ONLY}, "ed25519"),
        ({"protocol": "acme"}, "no more"),
        (scep(names=(("ip", "192.0.2.1"),)), "ip"),
    ],
)
def test_what_apple_cannot_do_is_said(how: dict[str, Any], why: str) -> None:
    with pytest.raises(Fault, match=why) as caught:
        apple.write(described(**how))
    assert caught.value.rule == "device-profile.platform"


# -- Android ----------------------------------------------------------------------------------


def test_an_eap_config_has_its_elements_in_the_order_of_the_schema() -> None:
    root = ET.fromstring(eap_config.write(described()))
    [provider] = root
    assert provider.get("namespace") == "urn:RFC4282:realm"
    assert [each.tag for each in provider] == [
        "ValidUntil", "AuthenticationMethods", "CredentialApplicability", "ProviderInfo",
    ]  # fmt: skip
    [method] = provider.findall("AuthenticationMethods/AuthenticationMethod")
    assert [each.tag for each in method] == [
        "EAPMethod", "ServerSideCredential", "ClientSideCredential",
    ]  # fmt: skip
    assert [each.tag for each in method[1]] == ["CA", "ServerID", "ServerID"]
    assert base64.b64decode(method[1][0].text or "") == der(ROOT)
    assert [each.tag for each in method[2]] == ["OuterIdentity", "ClientCertificate", "Passphrase"]
    assert method[2][0].text == "alice@example.test"
    assert [each.tag for each in provider[2][0]] == ["SSID", "MinRSNProto"]


def test_a_passpoint_file_is_multipart_inside_base64() -> None:
    message = email.message_from_bytes(base64.b64decode(passpoint.write(described())))
    assert message.get_content_type() == "multipart/mixed"
    parts: Any = message.get_payload()
    kinds = {part.get_content_type(): part.get_payload(decode=True) for part in parts}
    assert list(kinds) == [
        "application/x-passpoint-profile", "application/x-x509-ca-cert", "application/x-pkcs12",
    ]  # fmt: skip
    assert kinds["application/x-x509-ca-cert"] == der(ROOT)
    tree = ET.fromstring(kinds["application/x-passpoint-profile"])
    space = {"m": "syncml:dmddf1.2"}
    values = {
        node.findtext("m:NodeName", "", space): node.findtext("m:Value", "", space)
        for node in tree.iter("{syncml:dmddf1.2}Node")
    }
    assert values["FQDN"] == values["Realm"] == "example.test"
    assert values["CertificateType"] == "x509v3"
    assert values["CertSHA256Fingerprint"] == hashlib.sha256(der(DEVICE)).hexdigest()


@pytest.mark.parametrize("name", ["android", "passpoint", "networkmanager", "wpa", "windows"])
def test_a_profile_about_wifi_needs_one(name: str) -> None:
    with pytest.raises(Fault, match="Wi-Fi"):
        platform_of(name).write(described(networks=()))


# -- Linux ------------------------------------------------------------------------------------


def sections(octets: bytes) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read_string(octets.decode())
    return parser


def test_a_keyfile_names_the_files_and_the_server() -> None:
    found = sections(network_manager.keyfile(described(hidden=True)))
    assert found["wifi"]["ssid"] == "Corp"
    assert found["wifi"]["hidden"] == "true"
    assert found["wifi-security"]["key-mgmt"] == "wpa-eap"
    tls = found["802-1x"]
    assert (tls["eap"], tls["identity"]) == ("tls;", "alice@example.test")
    assert tls["domain-match"] == "radius1.example.test;radius2.example.test"
    assert tls["private-key"] == "/etc/tmad-device/est-phones/key.pem"


@pytest.mark.parametrize("ssid", ["a;b", " lead", "tail ", "Büro", 'q"uote', "[x]", "1;2;3;"])
def test_an_ssid_that_is_no_plain_word_is_written_as_octets(ssid: str) -> None:
    text = sections(network_manager.keyfile(described(ssid=ssid)))["wifi"]["ssid"]
    assert bytes(int(octet) for octet in text.split(";") if octet).decode() == ssid
    block = network_manager.block(described(ssid=ssid)).decode()
    found = re.search(r"^    ssid=([0-9a-f]+)$", block, re.MULTILINE)
    assert found is not None
    assert bytes.fromhex(found[1]).decode() == ssid


@pytest.mark.parametrize(
    ("security", "management"),
    [("wpa2", "wpa-eap"), ("wpa3", "wpa-eap"), ("wpa3-192", "wpa-eap-suite-b-192")],
)
def test_each_security_has_its_key_management(security: str, management: str) -> None:
    found = sections(network_manager.keyfile(described(security=security)))["wifi-security"]
    assert found["key-mgmt"] == management
    assert (found.get("pmf") == "3") is (security != "wpa2")
    block = network_manager.block(described(security=security)).decode()
    assert ("SUITE-B-192" in block) is (security == "wpa3-192")


def settings_of(script: bytes) -> dict[str, str]:
    """Return the shell's variables, as its own rules of quoting have them."""
    text = script.decode().partition("\nconnections=")[0]
    words = shlex.split(text, comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_a_shell_script_holds_what_it_needs() -> None:
    script = scripts.shell(described(subject=(("O", "It's"), ("CN", "a/b+c"))))
    found = settings_of(script)
    assert found["secret"] == "THESECRET"
    assert found["subject"] == "/O=It's/CN=a\\/b\\+c"
    assert found["names"] == (
        "DNS:alice.example.test,otherName:1.3.6.1.4.1.311.20.2.3;UTF8:alice@example.test"
    )
    assert found["key_algorithm"] == "EC -pkeyopt ec_paramgen_curve:P-256"
    assert "private-key=/etc/tmad-device/est-phones/key.pem" in found["connection"]
    # One line, so that the copy that renews can be made without it.
    assert len(re.findall(rb"^secret='?THESECRET'?$", script, re.MULTILINE)) == 1


def test_only_what_enrols_over_est_has_a_shell_script() -> None:
    with pytest.raises(Fault, match="not over scep"):
        scripts.shell(described(protocol="scep"))


# -- Windows ----------------------------------------------------------------------------------

ORDER = {
    "WLANProfile": "name SSIDConfig connectionType connectionMode autoSwitch MSM",
    "SSIDConfig": "SSID nonBroadcast",
    "SSID": "hex name",
    "security": "authEncryption OneX",
    "authEncryption": "authentication encryption useOneX",
    "OneX": "cacheUserData authMode EAPConfig",
    "EapHostConfig": "EapMethod Config",
    "EapMethod": "Type VendorId VendorType AuthorId",
    "Eap": "Type EapType",
    "EapType": "CredentialsSource ServerValidation DifferentUsername PerformServerValidation"
    " AcceptServerName TLSExtensions",
    "ServerValidation": "DisableUserPromptForServerValidation ServerNames TrustedRootCA",
}


@pytest.mark.parametrize(
    ("security", "words"),
    [("wpa2", "WPA2 AES"), ("wpa3", "WPA3ENT AES"), ("wpa3-192", "WPA3ENT192 GCMP256")],
)
def test_a_windows_profile_has_its_elements_in_the_order_of_the_schema(
    security: str, words: str
) -> None:
    document = windows.write(described(ssid="Büro & Co", security=security))
    root = ET.fromstring(document)
    seen = set()
    for node in root.iter():
        name = node.tag.partition("}")[2]
        if name in ORDER:
            seen.add(name)
            assert [each.tag.partition("}")[2] for each in node] == ORDER[name].split()
    assert seen == set(ORDER)
    text = {node.tag.partition("}")[2]: node.text for node in root.iter()}
    assert text["hex"] == "Büro & Co".encode().hex().upper()
    assert f"{text['authentication']} {text['encryption']}" == words
    assert text["ServerNames"] == "radius1.example.test;radius2.example.test"
    thumbprint = hashlib.sha1(der(ROOT)).hexdigest()
    assert text["TrustedRootCA"] == thumbprint


def test_a_powershell_script_quotes_what_people_wrote() -> None:
    script = scripts.powershell(
        described(title="Bob\u2019s 'best'", key=KeyAlgorithm.RSA_2048, subject=(("CN", "a=b"),))
    )
    assert script.startswith(b"\xef\xbb\xbf<#\r\n")
    assert b"\n" not in script.replace(b"\r\n", b"")
    text = script.decode("utf-8-sig")
    assert "$Title = 'Bob\u2019\u2019s ''best'''\r\n" in text
    assert "$Secret = 'THESECRET'\r\n" in text
    assert 'Subject = "CN=""a=b"""' in text
    assert '_continue_ = "upn=alice@example.test&"' in text
    assert "# @settings@" not in text


@pytest.mark.parametrize(
    ("how", "why"),
    [({"protocol": "scep"}, "not over scep"), ({"key": KeyAlgorithm.ED25519}, "ed25519")],
)
def test_what_a_powershell_script_cannot_do_is_said(how: dict[str, Any], why: str) -> None:
    with pytest.raises(Fault, match=why):
        scripts.powershell(described(**how))


# -- what goes in ------------------------------------------------------------------------------


def test_the_command_knows_every_platform() -> None:
    assert list(PLATFORMS) == list(CHOICES)
    with pytest.raises(Fault, match="one of apple"):
        platform_of("symbian")


@pytest.mark.parametrize(
    "bad",
    [
        {"subject": ()},
        {"subject": ("CN=",)},
        {"subject": ("CN=*",)},
        {"subject": ("alice",)},
        {"subject": ('CN=a"b',)},
        {"subject": ("CN=a\nb",)},
        {"subject": (" CN= a",)},
        {"subject": ("CN=a",), "names": ("dns:*.example.test",)},
        {"subject": ("CN=a",), "names": ("dns:a,DNS:b",)},
        {"subject": ("CN=a",), "names": ("ip:10.0.0.0/8",)},
        {"subject": ("CN=a",), "names": ("ip:ten",)},
        {"subject": ("CN=a",), "names": ("fax:1",)},
        {"subject": ("CN=a",), "directory": "/etc/../x"},
        {"subject": ("CN=a",), "directory": "relative"},
        {"subject": ("CN=a",), "directory": "/etc/x y"},
        {"subject": ("CN=a\u202eb",)},
    ],
)
def test_a_wish_that_some_format_could_not_say_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wish(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"ssid": ""},
        {"ssid": "x" * 33},
        {"ssid": "ü" * 17},
        {"ssid": "a\nb"},
        {"ssid": "a", "servers": ("radius example",)},
        {"ssid": "a", "servers": ("a;b",)},
        {"ssid": "a", "servers": ("10.0.0.1:1812",)},
        {"ssid": "a", "passpoint": "no domain"},
        {"ssid": "a", "security": "wep"},
    ],
)
def test_a_network_that_cannot_be_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WiFi(**bad)
    with pytest.raises(ValidationError):
        DeviceRules(wifi=(bad,))  # type: ignore[arg-type]  # as a document has it


def test_an_organisation_is_one_line() -> None:
    with pytest.raises(ValidationError):
        DeviceRules(organisation="a\nb")


# -- addresses and pages ------------------------------------------------------------------------

TOKEN = "A" * 32


def test_an_address_is_a_token_and_nothing_else() -> None:
    assert codec.decode(f"/{TOKEN}".encode())[1] is False
    assert codec.decode(f"/{TOKEN}/file".encode())[1] is True
    for bad in (
        b"",
        b"/",
        b"/AAA",
        f"/{TOKEN}x".encode(),
        f"/{TOKEN}/x".encode(),
        b"/" + b"/" * 32,
    ):
        with pytest.raises(Fault) as caught:
            codec.decode(bad)
        assert caught.value.rule == "device-profile.link.address"


def test_a_page_escapes_what_it_shows() -> None:
    fault = Fault(next(iter(codec.STATUS)), "<script>alert(1)</script>", retry_after=3)
    answer = codec.refusal(fault)
    assert b"<script>" not in answer.body
    assert ("Retry-After", "3") in answer.headers
    assert any(name == "Content-Security-Policy" for name, _ in answer.headers)
    from tmad.errors import FaultCode

    assert set(codec.STATUS) == set(FaultCode)


def test_no_secret_shows_in_a_description() -> None:
    description = described()
    assert "THESECRET" not in repr(description)
    assert "word=Secret()" in repr(description.identity)
    assert isinstance(description.door.secret, Secret)
