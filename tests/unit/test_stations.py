"""Devices known by their MAC address alone: who is let in, into what, and until when (R-17)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.hierarchy_world import ADMIN
from tests.network_world import MAC, NetworkWorld, a_visit
from tests.support import drive
from tests.unit.test_disconnects_live import Ended
from tmad.errors import Fault
from tmad.identity.devices import Devices, Particulars
from tmad.network.logins import Admitted
from tmad.network.policy import RadiusPolicyDocument

PRINTERS = {
    "name": "printers",
    "when": {"methods": ["mac"], "devices": ["printer-*"]},
    "reply": {"vlan": "90"},
}
QUARANTINE = {
    "name": "quarantine",
    "when": {"methods": ["mac"]},
    "reply": {"vlan": "99", "session_timeout": 600},
    "unlisted": True,
}


@pytest.fixture
def world() -> NetworkWorld:
    world = NetworkWorld().prepare()
    world.policy({"name": "all"}, PRINTERS)
    return world


def devices(world: NetworkWorld) -> Devices:
    return Devices(world.database, world.journal, world.clock)


def join(world: NetworkWorld, **visit: Any) -> Admitted:
    return drive(world.admission.station(a_visit(**visit)))


def refused(world: NetworkWorld, **visit: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        join(world, **visit)
    return caught.value


def test_a_listed_address_gets_the_vlan_of_the_rule_that_names_the_method(
    world: NetworkWorld,
) -> None:
    """Not of the one before it, which is for whoever has shown something."""
    world.device("printer-1", mac=MAC)
    admitted = join(world)
    assert (admitted.rule, admitted.device, admitted.person) == ("printers", "printer-1", None)
    assert admitted.user_name == "printer-1"
    assert ("Tunnel-Private-Group-Id", "90") in admitted.attributes
    record = world.last("network.admitted")
    assert (record["method"], record["device"]) == ("mac", "printer-1")


def test_an_address_that_no_device_has_is_refused_and_explained(world: NetworkWorld) -> None:
    fault = refused(world)
    assert fault.rule == "network.unlisted"
    record = world.record(fault.explain_id)
    assert (record["method"], record["reason"]) == ("mac", "UNKNOWN_DEVICE")
    assert "tmad device create" in record["advice"]


def test_a_device_that_no_rule_names_is_refused(world: NetworkWorld) -> None:
    world.device("laptop-7", mac=MAC)
    fault = refused(world)
    assert fault.rule == "network.policy"
    # Neither does a rule that names none let it in.
    assert "methods: wants any but mac, got mac" in fault.values["staff/all"]


def test_another_tenants_device_is_not_listed_here(world: NetworkWorld) -> None:
    world.device("printer-1", mac=MAC, tenant="other")
    assert refused(world).rule == "network.unlisted"


def test_a_block_holds_at_the_very_next_request_and_ends_what_is_open(
    world: NetworkWorld,
) -> None:
    world.device("printer-1", mac=MAC)
    ended = Ended(world)
    ended.now()
    admitted = join(world)
    assert ended.now() == []
    drive(devices(world).block(ADMIN, "default", "printer-1"))
    assert refused(world).rule == "network.device-blocked"
    assert ended.now() == [admitted.session]
    drive(devices(world).unblock(ADMIN, "default", "printer-1"))
    assert join(world).device == "printer-1"


def test_a_block_holds_for_the_quarantine_too(world: NetworkWorld) -> None:
    world.policy(QUARANTINE)
    ended = Ended(world)
    ended.now()
    admitted = join(world)
    assert (admitted.rule, admitted.device, admitted.user_name) == ("quarantine", None, MAC)
    assert admitted.session_timeout == 600
    # Listed by now, in order to be blocked.
    world.device("intruder", mac=MAC, blocked_at=world.clock())
    assert refused(world).rule == "network.device-blocked"
    assert ended.now() == [admitted.session]


@pytest.mark.parametrize("change", ["other address", "no address", "deleted"])
def test_who_is_no_longer_listed_is_put_off(world: NetworkWorld, change: str) -> None:
    world.device("printer-1", mac=MAC)
    ended = Ended(world)
    ended.now()
    admitted = join(world)
    own = devices(world)
    if change == "deleted":
        drive(own.delete(ADMIN, "default", "printer-1"))
    else:
        mac = "0200000000ff" if change == "other address" else ""
        drive(own.update(ADMIN, "default", "printer-1", Particulars(mac=mac)))
    assert refused(world).rule == "network.unlisted"
    assert ended.now() == [admitted.session]


def test_a_certificates_session_does_not_hang_on_the_address_of_its_device(
    world: NetworkWorld,
) -> None:
    world.device("laptop-7.example.test", mac=MAC)
    ended = Ended(world)
    ended.now()
    world.login(world.issue())
    own = devices(world)
    drive(own.update(ADMIN, "default", "laptop-7.example.test", Particulars(mac="")))
    assert ended.now() == []


def test_a_blocked_address_ends_a_certificates_session_as_it_refuses_the_next(
    world: NetworkWorld,
) -> None:
    ended = Ended(world)
    ended.now()
    certificate = world.issue()
    admitted = world.login(certificate)
    world.device("stolen", mac=MAC, blocked_at=world.clock())
    assert world.refused(certificate).rule == "network.device-blocked"
    assert ended.now() == [admitted.session]


def test_the_owner_counts(world: NetworkWorld) -> None:
    world.person("alice")
    world.device("printer-1", mac=MAC, owner="alice")
    ended = Ended(world)
    ended.now()
    admitted = join(world)
    assert admitted.person == "alice"
    world.change_person("alice", disabled_at=world.clock())
    assert refused(world).rule == "network.owner-disabled"
    assert ended.now() == [admitted.session]


def test_a_rule_that_refuses_needs_not_name_the_method(world: NetworkWorld) -> None:
    world.device("printer-1", mac=MAC)
    world.policy({"name": "closed", "then": "reject", "when": {"ssids": ["staff"]}}, PRINTERS)
    assert refused(world).rule == "network.rejected"
    assert join(world, ssid="things").rule == "printers"


def test_the_account_of_the_owner_ends_the_session(world: NetworkWorld) -> None:
    world.person("alice", valid_until=world.clock() + timedelta(hours=1))
    world.device("printer-1", mac=MAC, owner="alice")
    assert join(world).session_timeout == 3_600


def test_what_would_become_of_it_can_be_asked(world: NetworkWorld) -> None:
    world.device("printer-1", mac=MAC)
    verdict = drive(world.admission.test(ADMIN, "default", a_visit(), "mac"))
    assert verdict.admitted is not None
    assert verdict.admitted.rule == "printers"
    visit = a_visit(calling_station="0200000000ff")
    verdict = drive(world.admission.test(ADMIN, "default", visit, "mac"))
    assert verdict.fault is not None
    assert verdict.fault.rule == "network.unlisted"


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"reply": {}}, "names the VLAN"),
        ({"when": {"methods": ["mac", "eap-tls"]}}, "accepts no other method"),
        ({"monitor": True}, "cannot only monitor"),
        ({"when": {"methods": ["eap-tls"]}, "unlisted": True}, "unlisted is for rules with"),
    ],
)
def test_a_rule_gives_an_address_no_more_than_a_vlan(change: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        RadiusPolicyDocument.model_validate({"rules": [PRINTERS | change]})
    RadiusPolicyDocument.model_validate(
        {"rules": [{"name": "no", "then": "reject", "when": {"methods": ["mac", "pap"]}}]}
    )
