"""T-ACME-05: where a validator may connect to, address by address."""

from __future__ import annotations

import ipaddress

import pytest

from tmad.ca.validation.contract import ValidationRules
from tmad.ca.validation.targets import check, is_ours
from tmad.errors import Fault

INSIDE = ("10.0.0.0/8", "192.168.0.0/16", "fd00::/8")
EVERYWHERE = ("0.0.0.0/0", "::/0")


def objection(address: str, *allowed: str, denied: tuple[str, ...] = (), port: int = 80) -> str:
    rules = ValidationRules.model_validate({"allowed_networks": allowed, "denied_networks": denied})
    asked = ipaddress.ip_address(address)
    try:
        check(asked, port, rules)
    except Fault as fault:
        return (
            fault.detail.partition("validated: ")[2]
            if fault.values["address"] == str(asked)
            else "?"
        )
    return ""


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses(address: str) -> None:
    assert objection(address) == ""
    assert objection(address, *EVERYWHERE) == ""
    assert "does not name it" in objection(address, *INSIDE)


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.1", "fd00:1::1"])
def test_private_addresses_where_a_network_names_them(address: str) -> None:
    assert "not public" in objection(address)
    assert objection(address, *INSIDE) == ""
    assert objection(address, *EVERYWHERE) == ""
    assert "denied_networks" in objection(address, *INSIDE, denied=INSIDE)
    assert "denied_networks" in objection(address, *INSIDE, denied=(f"{address}",))


@pytest.mark.parametrize(
    "address",
    ["172.16.0.1", "100.64.0.1", "198.18.0.1", "192.0.2.1", "fec0::1", "2001:db8::1", "fc00::1"],
)
def test_what_is_not_public(address: str) -> None:
    assert "not public" in objection(address) or "reserved" in objection(address)
    assert objection(address, "10.0.0.0/8")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "this machine"),
        ("127.8.8.8", "this machine"),
        ("::1", "this machine"),
        ("::ffff:127.0.0.1", "this machine"),
        ("64:ff9b::7f00:1", "this machine"),
        ("2002:7f00:1::", "this machine"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("2002:a9fe:a9fe::1", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("fe80::1", "link-local"),
        ("0.0.0.0", "no address of one machine"),
        ("0.1.2.3", "no address of one machine"),
        ("::", "no address of one machine"),
        ("224.0.0.1", "no address of one machine"),
        ("ff02::1", "no address of one machine"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", ""),
    ],
)
def test_what_is_never_asked_whatever_is_allowed(address: str, why: str) -> None:
    for allowed in ((), EVERYWHERE):
        said = objection(address, *allowed)
        assert said
        assert why in said
    assert objection(address, *INSIDE)


def test_what_is_lifted_by_name_alone() -> None:
    assert objection("127.0.0.1", "127.0.0.0/8") == ""
    assert objection("127.0.0.1", "127.0.0.1") == ""
    assert objection("::1", "::1") == ""
    assert objection("::ffff:127.0.0.1", "127.0.0.0/8") == ""
    assert objection("169.254.1.1", "169.254.1.1/32") == ""
    # A wider network does not mean it.
    assert objection("169.254.1.1", "169.254.0.0/16")
    assert objection("127.0.0.1", "126.0.0.0/7")


def test_own_ports_are_not_lifted() -> None:
    rules = ValidationRules.model_validate({"allowed_networks": ["127.0.0.0/8"]})
    address = ipaddress.ip_address("127.0.0.1")
    check(address, 80, rules, lambda: {8443})
    with pytest.raises(Fault, match="appliance's own"):
        check(address, 8443, rules, lambda: {8443})


def test_which_addresses_are_ours() -> None:
    assert is_ours(ipaddress.ip_address("127.0.0.1"))
    assert not is_ours(ipaddress.ip_address("192.0.2.1"))
    assert not is_ours(ipaddress.ip_address("0.0.0.0"))
