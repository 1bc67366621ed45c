"""Links to profiles: who may make one, what is behind it, and that it works once."""

from __future__ import annotations

import json
import plistlib
import re
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.support import drive
from tests.unit.ca_bench import ADMIN, asked
from tests.unit.device_profile_world import HOST, World, wish, world
from tmad.ca.device_profiles.wish import Wish
from tmad.ca.requests import Challenge, EndpointID
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.actors import EVERY_TENANT, Actor, Grant
from tmad.managed.objects import Objects
from tmad.storage import device_links
from tmad.wire import cms

OPERATOR = Actor("person:op", (Grant("operator", "default"),))
AUDITOR = Actor("person:au", (Grant("auditor", "default"),))


def link(
    here: World, platform: str = "apple", endpoint: str = "scep/phones", **how: Any
) -> tuple[str, str]:
    """Return the id of a new link, and its address."""
    row, address = drive(
        here.profiles.link(OPERATOR, "default", endpoint, platform, how.pop("wish", wish()), **how)
    )
    return row.id, address.reveal().decode()


def rules(here: World) -> list[str]:
    return [json.loads(record.data)["rule"] for record in here.events("request.refused")]


def profile(octets: bytes) -> Any:
    content = cms.decode_signed_data(octets).content
    assert content is not None
    return plistlib.loads(content)


def challenge(octets: bytes) -> str:
    for payload in profile(octets)["PayloadContent"]:
        if payload["PayloadType"] == "com.apple.security.scep":
            return str(payload["PayloadContent"]["Challenge"])
    raise AssertionError("no SCEP payload")


# -- a link's life ----------------------------------------------------------------------------


def test_a_link_shows_what_it_is_for_and_then_works_once() -> None:
    here = world()
    _, address = link(here)
    assert re.fullmatch(rf"https://{re.escape(HOST)}/enroll/[A-Za-z0-9_-]{{32}}", address)
    for _ in range(3):
        page = here.get(address)
        assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
        assert b"alice-phone" in page.body
    answer = here.get(f"{address}/file")
    assert (answer.status, answer.content_type) == (200, "application/x-apple-aspen-config")
    headers = dict(answer.headers)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Disposition"] == 'attachment; filename="scep-phones.mobileconfig"'
    for tail in ("", "/file"):
        assert here.get(address + tail).status == 404
    assert here.get(address, method="POST").status == 404
    assert rules(here) == ["device-profile.link.used"] * 2  # those who wanted the file
    assert [r.kind for r in here.events() if r.kind.startswith("device-link")] == [
        "device-link.created",
        "device-link.opened",
    ]


def test_the_secret_in_a_profile_enrols_exactly_that_device() -> None:
    here = world()
    _, address = link(here)
    secret = Secret(challenge(here.get(f"{address}/file").body))
    phones = EndpointID("scep", "phones")
    with pytest.raises(Fault) as caught:
        drive(here.authority.enroll(
            asked(common="mallory", names=(), endpoint=phones, credential=Challenge(secret))
        ))  # fmt: skip
    assert caught.value.rule == "secret.binding.subject"
    drive(here.authority.enroll(
        asked(common="alice-phone", names=(), endpoint=phones, credential=Challenge(secret))
    ))  # fmt: skip
    with pytest.raises(Fault) as caught:
        drive(here.authority.enroll(
            asked(common="alice-phone", names=(), endpoint=phones, credential=Challenge(secret))
        ))  # fmt: skip
    assert caught.value.rule == "secret.used"


def test_a_token_is_known_by_its_digest_and_a_secret_is_forgotten_when_it_left() -> None:
    here = world()
    _, address = link(here)
    [row] = drive(here.profiles.links(AUDITOR, "default"))
    assert row.sealed is not None
    assert address.rpartition("/")[2] not in repr(row)
    here.get(f"{address}/file")
    [row] = drive(here.profiles.links(AUDITOR, "default", "scep/phones"))
    assert (row.sealed, row.opened_by) == (None, "192.0.2.9")
    assert drive(here.profiles.links(AUDITOR, "default", "est/phones")) == ()


def test_a_browser_that_looks_ahead_uses_nothing_up() -> None:
    here = world()
    _, address = link(here)
    for header in ("sec-purpose", "purpose"):
        answer = here.get(f"{address}/file", headers={header: "prefetch;prerender"})
        assert answer.status == 403
    assert here.get(f"{address}/file").status == 200


def test_a_link_ends() -> None:
    here = world()
    _, address = link(here, lifetime=timedelta(hours=2))
    here.clock.advance(hours=2)
    assert here.get(address).status == 404
    assert here.get(f"{address}/file").status == 404
    assert rules(here) == ["device-profile.link.expired"]
    assert drive(here.profiles.forget()) == 1
    [row] = drive(here.profiles.links(ADMIN, "default"))
    assert row.sealed is None
    here.clock.advance(days=91)
    assert drive(here.profiles.forget()) == 1
    assert drive(here.profiles.links(ADMIN, "default")) == ()


def test_a_link_is_withdrawn_with_its_secret() -> None:
    here = world()
    link_id, address = link(here)
    assert drive(here.profiles.revoke(OPERATOR, "default", link_id, dry_run=True))
    assert here.get(address).status == 200
    assert drive(here.profiles.revoke(OPERATOR, "default", link_id))
    assert not drive(here.profiles.revoke(OPERATOR, "default", link_id))
    assert here.get(f"{address}/file").status == 404
    assert rules(here) == ["device-profile.link.revoked"]
    # One that was opened: the device may still have to enrol.
    link_id, address = link(here)
    secret = Secret(challenge(here.get(f"{address}/file").body))
    assert drive(here.profiles.revoke(OPERATOR, "default", link_id))
    with pytest.raises(Fault) as caught:
        drive(here.authority.enroll(asked(
            common="alice-phone", names=(), endpoint=EndpointID("scep", "phones"),
            credential=Challenge(secret),
        )))  # fmt: skip
    assert caught.value.rule == "secret.revoked"


def test_a_link_whose_secret_was_revoked_is_none_any_more() -> None:
    here = world()
    _, address = link(here)
    [row] = drive(here.profiles.links(ADMIN, "default"))
    drive(here.secrets.revoke(ADMIN, "default", row.secret_id or ""))
    assert here.get(f"{address}/file").status == 404
    assert rules(here) == ["device-profile.link.secret"]


def test_of_two_who_open_it_at_once_one_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = world()
    _, address = link(here)
    real = device_links.open_once

    def first_another(connection: Any, link_id: str, peer: str, now: Any) -> bool:
        monkeypatch.setattr(device_links, "open_once", real)
        real(connection, link_id, "192.0.2.66", now)
        return real(connection, link_id, peer, now)

    monkeypatch.setattr(device_links, "open_once", first_another)
    answer = here.get(f"{address}/file")
    assert answer.status == 404
    assert b"THE" not in answer.body


def test_what_fails_before_the_profile_is_finished_leaves_the_link_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = world()
    _, address = link(here)

    async def broken(*_: Any) -> Any:
        raise Fault(FaultCode.UNAVAILABLE, "the token is gone", retry_after=5)

    with monkeypatch.context() as patched:
        patched.setattr(here.keyring, "use", broken)
        answer = here.get(f"{address}/file")
        assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "5")
    assert here.get(f"{address}/file").status == 200


# -- certificate and key in the profile -------------------------------------------------------


def identity(octets: bytes) -> tuple[Any, x509.Certificate]:
    root = ET.fromstring(octets)
    import base64

    packed = base64.b64decode(root.findtext(".//ClientCertificate") or "")
    password = root.findtext(".//Passphrase") or ""
    key, certificate, above = pkcs12.load_key_and_certificates(packed, password.encode())
    assert certificate is not None
    assert len(above) == 1
    return key, certificate


def test_an_android_gets_certificate_and_key_through_the_pipeline() -> None:
    here = world()
    _, address = link(here, "android", "est/phones", wish=wish(names=("dns:a.example.test",)))
    assert here.get(address).status == 200
    assert here.events("key.generated") == []
    answer = here.get(f"{address}/file")
    assert answer.content_type == "application/eap-config"
    key, certificate = identity(answer.body)
    assert key.public_key() == certificate.public_key()
    assert certificate.subject.rfc4514_string() == "CN=alice-phone"
    [made] = here.events("key.generated")
    assert json.loads(made.data)["method"] == "challenge"
    assert "est/phones" in {record.actor for record in here.events("certificate.issued")}
    assert here.get(f"{address}/file").status == 404


def test_no_key_is_made_where_the_endpoint_makes_none() -> None:
    here = world()
    with pytest.raises(Fault) as caught:
        link(here, "android", "scep/phones")
    assert caught.value.rule == "keys.server"
    assert drive(here.secrets.list(ADMIN, "default")) == ()


def test_a_refused_enrolment_shows_its_explain_id() -> None:
    here = world()
    # The profile "device" has no rule for a UPN.
    _, address = link(here, "android", "est/phones", wish=wish(names=("upn:a@example.test",)))
    answer = here.get(f"{address}/file")
    assert answer.status == 403
    assert re.search(rb"\[[0-9A-Z]{4}-[0-9A-Z]{4}\]", answer.body)
    assert rules(here) == ["profile.names.upn"]


def signer(octets: bytes) -> x509.Certificate:
    signed = cms.decode_signed_data(octets)
    found = signed.certificate_of(signed.signers[0])
    assert found is not None
    return x509.load_der_x509_certificate(found)


def test_a_revoked_signer_is_followed_by_another() -> None:
    here = world()

    def made() -> x509.Certificate:
        done = drive(here.profiles.make(ADMIN, "default", "scep/phones", "apple", wish()))
        assert done.content is not None
        return signer(done.content.reveal())

    first = made()
    assert made() == first
    issuer = drive(here.hierarchy.active("default", "devices"))
    serial, reason = first.serial_number, Reason.KEY_COMPROMISE
    drive(here.revocation.revoke(ADMIN, "default", issuer.id, serial, reason))
    assert made() != first


# -- who and where ----------------------------------------------------------------------------


def test_who_may_hand_out_no_secrets_may_make_no_profiles() -> None:
    here = world()
    for operation in (here.profiles.make, here.profiles.link):
        with pytest.raises(Fault) as caught:
            drive(operation(AUDITOR, "default", "scep/phones", "apple", wish()))
        assert caught.value.rule == "access.permission"
    link_id, _ = link(here)
    with pytest.raises(Fault) as caught:
        drive(here.profiles.revoke(AUDITOR, "default", link_id))
    assert caught.value.rule == "access.permission"


def test_another_tenants_endpoint_and_links_are_not_there() -> None:
    here = world()
    drive(here.objects.put(ADMIN, EVERY_TENANT, "tenant", "other", {}))
    for operation in (here.profiles.make, here.profiles.link):
        for endpoint in ("scep/phones", "scep/none", "nonsense"):
            with pytest.raises(Fault) as caught:
                drive(operation(ADMIN, "other", endpoint, "apple", wish()))
            assert (caught.value.code, caught.value.rule) == (
                FaultCode.NOT_FOUND,
                "endpoint.absent",
            )
    link_id, address = link(here)
    with pytest.raises(Fault) as caught:
        drive(here.profiles.revoke(ADMIN, "other", link_id))
    assert caught.value.rule == "device-profile.link.absent"
    assert drive(here.profiles.links(ADMIN, "other")) == ()
    assert here.get(address).status == 200


def test_a_closed_endpoint_hands_out_nothing() -> None:
    here = world()
    _, address = link(here)
    _close(here.objects)
    assert here.get(address).status == 404
    assert here.get(f"{address}/file").status == 404


def _close(objects: Objects) -> None:
    stored = drive(objects.get(ADMIN, "default", "endpoint", "scep-phones"))
    document = stored.document.model_dump(mode="json") | {"enabled": False}
    drive(objects.put(ADMIN, "default", "endpoint", "scep-phones", document, expect=1))


@pytest.mark.parametrize(
    ("endpoint", "platform", "why"),
    [
        ("scep/phones", "powershell", "scep/phones is SCEP"),
        ("est/phones", "apple", "est/phones is EST"),
        ("cmp/iot", "shell", "cmp/iot is CMP"),
        ("scep/people", "apple", "accepts no enrolment secrets"),
        ("scep/routers", "android", "not made here"),
        ("scep/routers", "windows", "no Wi-Fi"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_secret_is_made(
    endpoint: str, platform: str, why: str
) -> None:
    here = world()
    drive(here.open("scep", "people", authenticate=["password"]))
    for operation in (here.profiles.make, here.profiles.link):
        with pytest.raises(Fault, match=re.escape(why)):
            drive(operation(ADMIN, "default", endpoint, platform, wish()))
    assert drive(here.secrets.list(ADMIN, "default")) == ()


def test_where_a_person_decides_no_secret_is_needed() -> None:
    here = world()
    drive(here.open("scep", "asked", authenticate=["manual"]))
    made = drive(here.profiles.make(OPERATOR, "default", "scep/asked", "apple", wish()))
    assert (made.secret_id, made.expires_at) == (None, None)
    assert made.content is not None
    [payload] = [
        each
        for each in profile(made.content.reveal())["PayloadContent"]
        if each["PayloadType"] == "com.apple.security.scep"
    ]
    assert "Challenge" not in payload["PayloadContent"]
    _, address = link(here, endpoint="scep/asked", lifetime=timedelta(days=3))
    assert here.get(f"{address}/file").status == 200
    for days in (0, 31):
        with pytest.raises(Fault) as caught:
            link(here, endpoint="scep/asked", lifetime=timedelta(days=days))
        assert caught.value.rule == "device-profile.link.lifetime"


def test_apples_devices_enrol_over_acme_without_a_secret() -> None:
    here = world()
    drive(here.open("acme", "ios", authenticate=["acme"]))
    device = Wish(subject=("SERIALNUMBER=C02ABC",))
    made = drive(here.profiles.make(OPERATOR, "default", "acme/ios", "apple", device))
    assert (made.secret_id, made.expires_at) == (None, None)
    assert made.content is not None
    [payload] = [
        each
        for each in profile(made.content.reveal())["PayloadContent"]
        if each["PayloadType"] == "com.apple.security.acme"
    ]
    assert payload["DirectoryURL"] == f"https://{HOST}/acme/ios/directory"
    assert (payload["ClientIdentifier"], payload["Attest"]) == ("C02ABC", True)


@pytest.mark.parametrize(("authenticate", "has_secret"), [("challenge", True), ("kerberos", False)])
def test_windows_enrols_by_its_own_way(authenticate: str, has_secret: bool) -> None:
    here = world()
    people = {"realms": ["CORP.TEST"]} if authenticate == "kerberos" else {}
    drive(here.open("wstep", "pcs", authenticate=[authenticate], people=people,
                    options={"template": "Computers"}))  # fmt: skip
    made = drive(here.profiles.make(OPERATOR, "default", "wstep/pcs", "powershell", wish()))
    assert made.content is not None
    script = made.content.reveal().decode("utf-8-sig")
    assert f"$Url = 'https://{HOST}/xcep/pcs'\r\n" in script
    assert "$Way = 'xcep'\r\n" in script
    assert "$Template = 'Computers'\r\n" in script
    assert ("$Secret = ''\r\n" in script) is not has_secret


def test_a_dry_run_makes_nothing() -> None:
    here = world()
    made = drive(
        here.profiles.make(OPERATOR, "default", "scep/phones", "apple", wish(), dry_run=True)
    )
    assert (made.content, made.secret_id) == (None, None)
    link(here, dry_run=True)
    assert drive(here.secrets.list(ADMIN, "default")) == ()
    assert drive(here.profiles.links(ADMIN, "default")) == ()


def test_a_node_without_https_has_no_links_and_one_without_a_name_no_networks() -> None:
    here = world()
    with pytest.raises(Fault) as caught:
        drive(here.furnished(HOST, https="").link(ADMIN, "default", "scep/phones", "apple", wish()))
    assert caught.value.rule == "device-profile.link.https"
    drive(here.open("scep", "bare", devices={"wifi": [{"ssid": "Corp"}]}))
    drive(here.profiles.make(ADMIN, "default", "scep/bare", "apple", wish()))
    with pytest.raises(Fault) as caught:
        drive(here.furnished("192.0.2.1").make(ADMIN, "default", "scep/bare", "apple", wish()))
    assert caught.value.rule == "device-profile.wifi.servers"


def test_an_endpoint_names_only_authorities_that_there_are() -> None:
    here = world()
    wifi = {"ssid": "Corp", "servers": ["r.example.test"], "authorities": ["nobody"]}
    with pytest.raises(Fault) as caught:
        drive(here.open("scep", "bad", devices={"wifi": [wifi]}))
    assert "nobody" in str(caught.value.values) + caught.value.detail
    wifi["authorities"] = ["devices"]
    drive(here.open("scep", "good", devices={"wifi": [wifi]}))
    made = drive(here.profiles.make(ADMIN, "default", "scep/good", "apple", wish()))
    assert made.name == "scep-good.mobileconfig"


def test_a_renewal_is_asked_for_inside_the_window() -> None:
    here = world()

    def days(**document: Any) -> int:
        label = f"l{len(here.events())}"
        drive(here.open("est", label, **document))
        made = drive(here.profiles.make(ADMIN, "default", f"est/{label}", "shell", wish()))
        assert made.content is not None
        match = re.search(rb"^renew_days=(\d+)$", made.content.reveal(), re.MULTILINE)
        assert match is not None
        return int(match[1])

    assert days() == 90  # a third of a year is more than three months
    assert days(renewal={"window_days": 20}) == 20
