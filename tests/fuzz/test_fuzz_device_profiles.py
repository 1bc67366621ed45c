"""Profiles from whatever an administrator can type: refused, or read back as it was meant."""

from __future__ import annotations

import base64
import plistlib
import re
import shlex
import subprocess
import time
from typing import Any
from xml.etree import ElementTree as ET

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.device_profile_world import described
from tmad.ca.device_profiles import apple, eap_config, network_manager, passpoint, scripts, windows
from tmad.ca.device_profiles.rules import WiFi
from tmad.ca.device_profiles.wish import Wish
from tmad.errors import Fault, FaultCode
from tmad.protocols.enroll import codec
from tmad.signer.algorithms import KeyAlgorithm

SECONDS = 0.25  # of CPU for one description in all formats

_nasty = st.text(
    st.sampled_from(
        "aZ9 '\"\\/=+,;:#<>&$%*`!|(){}[]@-_.~^?\n\r\t\0\x1b\x7f\x85\u2019\u2028\u202eüß漢🦉"
    )
    | st.characters(),
    max_size=40,
)
# What passes, mostly.
_fair = st.text(st.sampled_from("aZ9 '/=+;:#<>@-_.~^?!|(){}[]\u2019üß漢"), min_size=1, max_size=12)
_typed = _fair | _nasty


def wished(subject: str, names: list[tuple[str, str]]) -> Wish | None:
    try:
        return Wish(subject=(f"CN={subject}",), names=tuple([f"{k}:{v}" for k, v in names]))
    except ValidationError:
        return None


@settings(max_examples=150)
@given(
    _typed,
    st.lists(st.tuples(st.sampled_from(["dns", "email", "uri", "upn"]), _typed), max_size=3),
    _typed,
    _typed,
)
@example("O'Brien's \u2018phone\u2019", [("uri", "urn:a=b;c")], "Büro; [1]", "</string>&")
@example("a/b+c=d #e", [], " x ", "'@")
def test_every_format_says_exactly_what_was_typed(
    subject: str, names: list[tuple[str, str]], ssid: str, organisation: str
) -> None:
    wish = wished(subject, names)
    try:
        wifi = WiFi(ssid=ssid)
    except ValidationError:
        wifi = None
    if wish is None or wifi is None or not organisation.isprintable():
        return
    how: dict[str, Any] = {
        "subject": wish.attributes, "names": wish.alternatives, "ssid": wifi.ssid,
        "organisation": organisation, "title": organisation,
    }  # fmt: skip
    begin = time.thread_time()
    profile = plistlib.loads(
        apple.write(described(protocol="scep", key=KeyAlgorithm.RSA_2048, **how))
    )
    xml = ET.fromstring(windows.write(described(**how)))
    eap = ET.fromstring(eap_config.write(described(**how)))
    base64.b64decode(passpoint.write(described(**how)), validate=True)
    keyfile = network_manager.keyfile(described(**how)).decode()
    block = network_manager.block(described(**how)).decode()
    shell = scripts.shell(described(**how)).decode()
    power = scripts.powershell(described(**how)).decode("utf-8-sig")
    assert time.thread_time() - begin < SECONDS
    assert profile["PayloadDisplayName"] == organisation
    [scep] = [p for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.security.scep"]
    assert scep["PayloadContent"]["Subject"] == [[["CN", subject]]]
    space = "{http://www.microsoft.com/networking/WLAN/profile/v1}"
    assert xml.findtext(f"{space}name") == ssid
    assert eap.findtext(".//IEEE80211/SSID") == ssid
    assert eap.findtext(".//ProviderInfo/DisplayName") == organisation
    # One line for each setting: nothing that was typed begins another.
    assert [line for line in keyfile.splitlines() if line.startswith("[")] == [
        "[connection]", "[wifi]", "[wifi-security]", "[802-1x]", "[ipv4]", "[ipv6]",
    ]  # fmt: skip
    assert block.count("\n") == 11
    words = shlex.split(shell.partition("\nconnections=")[0], comments=True)
    values = dict(word.split("=", 1) for word in words if "=" in word)
    assert values["title"] == organisation
    assert len(re.findall(r"^secret=", shell, re.MULTILINE)) == 1
    assert re.sub(r"\\(.)", r"\1", values["subject"]) == f"/CN={subject}"
    title = re.search(r"^\$Title = '(.*)'\r$", power, re.MULTILINE)
    assert title is not None
    assert re.sub("(['\u2018\u2019\u201a\u201b])\\1", r"\1", title[1]) == organisation


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.from_regex(rb"/[A-Za-z0-9_-]{30,34}(/file)?", fullmatch=True))
def test_any_address_is_a_token_or_is_refused(tail: bytes) -> None:
    begin = time.thread_time()
    code = None
    try:
        token, _ = codec.decode(tail)
    except Fault as fault:
        code = fault.code
    assert code in (None, FaultCode.NOT_FOUND)
    assert code or re.fullmatch(rb"[A-Za-z0-9_-]{32}", token.reveal())
    assert time.thread_time() - begin < 0.05


def test_the_shell_itself_takes_the_settings_as_they_are() -> None:
    typed = "$(touch x) `id` 'a' \"b\" \\ ; & | <EOF> !"
    script = scripts.shell(described(title=typed)).decode().partition("\nconnections=")[0]
    done = subprocess.run(
        ["sh", "-c", f'{script}\nprintf %s "$title"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == typed
