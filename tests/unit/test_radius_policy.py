"""Rules of policies: which one matches, what it answers, and what a template may become."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from tests.hierarchy_world import ADMIN
from tests.network_world import NetworkWorld, a_visit
from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.network import matching, templates
from tmad.network.matching import (
    CompiledRule,
    Pattern,
    Question,
    compile_rules,
    fill,
    is_method,
)
from tmad.network.policy import RadiusPolicyDocument

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday


def compiled(*rules: dict[str, Any], order: int = 100, name: str = "p") -> list[CompiledRule]:
    document = RadiusPolicyDocument.model_validate(
        {"order": order, "rules": [{"name": f"r{n}", **rule} for n, rule in enumerate(rules)]}
    )
    return list(compile_rules([(name, document)]))


def question(**values: Any) -> Question:
    said: dict[str, Any] = {
        "visit": a_visit(),
        "method": "eap-tls",
        "at": NOON,
        "authority": "issuing",
        "profile": "wifi-client",
        "person": "alice",
        "groups": ("Engineering",),
        "device": "laptop-7.example.test",
        "subject": {"CN": ("laptop-7",), "OU": ("Sales West",)},
        "names": (("dns", "laptop-7.example.test"), ("email", "alice@example.test")),
    }
    return Question(**(said | values))


@pytest.mark.parametrize(
    ("when", "fits"),
    [
        ({}, True),
        ({"clients": ["ap-1"]}, True),
        ({"clients": ["ap-2"]}, False),
        ({"tags": ["lab", "campus"]}, True),
        ({"tags": ["lab"]}, False),
        ({"ssids": ["staff"]}, True),
        ({"ssids": ["Staff"]}, False),  # an SSID is octets, not a word
        ({"port_types": ["wireless"]}, True),
        ({"port_types": ["ethernet", 5]}, False),
        ({"port_types": [19]}, True),
        ({"service_types": [2]}, True),
        ({"service_types": [6]}, False),
        ({"methods": ["pap", "eap-tls"]}, True),
        ({"methods": ["eap-ttls"]}, False),
        ({"authorities": ["issuing"]}, True),
        ({"authorities": ["other/issuing"]}, False),
        ({"anchors": ["partner"]}, False),
        ({"profiles": ["user"]}, False),
        ({"groups": ["sales", "ENGINEERING"]}, True),
        ({"groups": ["sales"]}, False),
        ({"people": ["*"]}, True),
        ({"people": ["al*"]}, True),
        ({"people": ["bob"]}, False),
        ({"devices": ["laptop-*"]}, True),
        ({"devices": ["phone-*"]}, False),
        ({"subject": ["OU=sales*"]}, True),
        ({"subject": ["OU=Sales*", "OU=Finance"]}, True),
        ({"subject": ["OU=Sales*", "CN=phone"]}, False),  # each attribute must fit
        ({"subject": ["O=*"]}, False),  # there is none
        ({"names": ["dns:*.example.test"]}, True),
        ({"names": ["dns:*.test"]}, False),  # a star is one label
        ({"names": ["email:*@example.test"]}, True),
        ({"names": ["upn:*"]}, False),
        ({"days": ["mon"]}, True),
        ({"days": ["sat", "sun"]}, False),
        ({"hours": ["08:00-18:00"]}, True),
        ({"hours": ["12:00-12:01"]}, True),
        ({"hours": ["08:00-12:00"]}, False),
        ({"hours": ["22:00-06:00", "13:00-24:00"]}, False),
        ({"hours": ["22:00-12:30"]}, True),
        ({"hours": ["08:00-12:30"], "timezone": "Europe/Vienna"}, False),  # it is 13:00 there
        ({"hours": ["13:00-14:00"], "timezone": "Europe/Vienna"}, True),
    ],
)
def test_r60_each_condition(when: dict[str, Any], fits: bool) -> None:
    [rule] = compiled({"when": when})
    assert rule.matches(question()) is fits
    assert bool(rule.failed(question())) is not fits


def test_a_condition_is_not_met_by_nothing() -> None:
    nobody = Question(visit=a_visit(), method="pap", at=NOON)
    for when in (
        {"people": ["*"]},
        {"devices": ["*"]},
        {"groups": ["engineering"]},
        {"profiles": ["wifi-client"]},
        {"authorities": ["issuing"]},
        {"names": ["dns:*"]},
        {"subject": ["CN=*"]},
    ):
        [rule] = compiled({"when": when})
        assert not rule.matches(nobody)


@pytest.mark.parametrize(
    ("method", "wanted", "fits"),
    [
        ("eap-ttls-pap", "eap-ttls", True),
        ("peap-tls", "peap", True),
        ("peap-tls", "peap-tls", True),
        ("eap-tls", "eap", False),
        ("eap-ttls-pap", "eap-tls", False),
    ],
)
def test_a_tunnel_covers_what_is_inside(method: str, wanted: str, fits: bool) -> None:
    assert is_method(method, wanted) is fits


def test_policies_are_asked_by_order_then_name() -> None:
    def one(order: int, enabled: bool = True) -> RadiusPolicyDocument:
        return RadiusPolicyDocument.model_validate(
            {"order": order, "enabled": enabled, "rules": [{"name": "r"}]}
        )

    rules = compile_rules([("z", one(1)), ("b", one(2)), ("a", one(2)), ("off", one(0, False))])
    assert [rule.title for rule in rules] == ["z/r", "a/r", "b/r"]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"rules": [{"name": "r"}, {"name": "r"}]}, "two rules are named r"),
        ({"rules": [{"name": "r", "when": {"hours": ["8-18"]}}]}, "is not HH:MM-HH:MM"),
        ({"rules": [{"name": "r", "when": {"timezone": "Mars"}}]}, "no time zone"),
        ({"rules": [{"name": "r", "when": {"names": ["laptop"]}}]}, "not KIND:PATTERN"),
        ({"rules": [{"name": "r", "when": {"subject": ["XX=1"]}}]}, "not ATTRIBUTE=PATTERN"),
        ({"rules": [{"name": "r", "wehn": {}}]}, 'did you mean "when"'),
        ({"rules": [{"name": "r", "reply": {"attributes": {"No-Such": "x"}}}]}, "No-Such"),
        ({"rules": [{"name": "r", "reply": {"attributes": {"Class": "0x00"}}}]}, "by tmad itself"),
        ({"rules": [{"name": "r", "reply": {"attributes": {"Idle-Timeout": "x"}}}]}, "a number"),
        ({"rules": [{"name": "r", "reply": {"acl": "{user_name}"}}]}, "is not known"),
        ({"rules": [{"name": "r", "reply": {"acl": "{subject.CN"}}]}, "a single {"),
        ({"rules": [{"name": "r", "reply": {"acl": "a\nb"}}]}, "control characters"),
        ({"rules": [{"name": "r", "reply": {"acct_interim": 59}}]}, "60"),
        ({"rules": [{"name": "r", "reply": {"vlan": "v" * 254}}]}, "253"),
        ({"rules": [{"name": "r", "then": "reject", "reply": {"vlan": 1}}]}, "has no reply"),
        ({"rules": [{"name": "r", "when": {"profiles": ["none"]}}]}, "no profile 'none'"),
        ({"rules": [{"name": "r", "when": {"clients": ["none"]}}]}, "no radius-client 'none'"),
        ({"rules": [{"name": "r", "when": {"anchors": ["none"]}}]}, "no trust-anchor 'none'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(document: dict[str, Any], path: str) -> None:
    world = NetworkWorld()
    with pytest.raises(Fault) as caught:
        drive(world.objects.put(ADMIN, "default", "radius-policy", "p", document))
    assert caught.value.code is FaultCode.REJECTED
    assert path in caught.value.detail


def test_r60_no_match_is_a_refusal_that_names_what_lacked() -> None:
    world = NetworkWorld().prepare()
    certificate = world.issue()
    assert world.refused(certificate).rule == "network.policy"
    world.policy({"name": "users", "when": {"profiles": ["user"]}})
    fault = world.refused(certificate)
    assert fault.rule == "network.profile"
    assert fault.values == {"staff/users": "profiles: wants user, got wifi-client"}
    world.policy({"name": "night", "when": {"hours": ["22:00-06:00"]}})
    assert world.refused(certificate).rule == "network.time"
    world.policy({"name": "off"}, enabled=False)
    assert world.refused(certificate).rule == "network.policy"


def test_the_first_match_decides_whatever_follows() -> None:
    world = NetworkWorld().prepare()
    certificate = world.issue()
    world.policy({"name": "no", "when": {"ssids": ["staff"]}, "then": "reject"}, {"name": "yes"})
    fault = world.refused(certificate)
    assert (fault.rule, fault.values["rule"]) == ("network.rejected", "no")
    admitted = world.login(certificate, visit=a_visit(ssid="guests"))
    assert admitted.rule == "yes"


def test_a_changed_policy_holds_for_the_next_login_in_another_process() -> None:
    world = NetworkWorld().prepare()
    certificate = world.issue()
    world.policy({"name": "old", "reply": {"vlan": 10}})
    assert ("Tunnel-Private-Group-Id", "10") in world.login(certificate).attributes
    another = NetworkWorld(world)
    another.policy({"name": "new", "reply": {"vlan": 20}})
    assert ("Tunnel-Private-Group-Id", "20") in world.login(certificate).attributes


# -- monitor mode ----------------------------------------------------------------------------------


def test_a_rule_that_monitors_lets_in_and_notes_what_it_would_refuse() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "monitor": True})
    certificate = world.issue(owner="person:gone")
    world.hold(certificate)
    admitted = world.login(certificate)
    assert [note.partition(":")[0] for note in admitted.monitored] == [
        "network.held",
        "network.owner-absent",
    ]
    assert world.last("network.admitted")["monitored"] == list(admitted.monitored)


def test_an_expired_certificate_that_is_only_monitored_gets_the_rules_time() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "monitor": True, "reply": {"session_timeout": 600}})
    certificate = world.issue()
    world.later(days=400)
    admitted = world.login(certificate)
    assert admitted.session_timeout == 600
    assert admitted.monitored[0].startswith("network.expired")


def test_a_rejecting_rule_that_monitors_is_noted_and_passed_over() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "no", "then": "reject", "monitor": True}, {"name": "yes"})
    admitted = world.login(world.issue())
    assert admitted.rule == "yes"
    assert admitted.monitored == ("network.rejected: the rule staff/no would refuse it",)


def test_monitoring_never_lets_in_whose_key_is_lost() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "monitor": True})
    certificate = world.issue()
    world.revoke(certificate, 1)
    assert world.refused(certificate).rule == "network.compromised-key"
    stranger = NetworkWorld().prepare().issue()
    assert world.refused(stranger).rule == "network.wrong-authority"


# -- what an answer holds --------------------------------------------------------------------------


def test_vlan_acl_and_times_become_attributes() -> None:
    world = NetworkWorld().prepare()
    reply = {"vlan": 42, "acl": "staff", "idle_timeout": 900, "acct_interim": 300}
    world.policy({"name": "all", "reply": {**reply, "session_timeout": 3600}})
    admitted = world.login(world.issue())
    assert admitted.session_timeout == 3600
    assert admitted.attributes == (
        ("Tunnel-Type", 13),
        ("Tunnel-Medium-Type", 6),
        ("Tunnel-Private-Group-Id", "42"),
        ("Filter-Id", "staff"),
        ("Idle-Timeout", 900),
        ("Acct-Interim-Interval", 300),
        ("Termination-Action", 1),
    )
    vpn = world.login(world.issue("vpn"), visit=a_visit(nas_port_type=5))
    assert "Termination-Action" not in dict(vpn.attributes)


def test_a_vendors_attributes_go_to_that_vendors_clients_only() -> None:
    attributes: dict[str, Any] = {
        "Cisco-AVPair": ["one", "two"],
        "Airespace-Interface-Name": "x",
        "Aruba-User-Role": "staff",
        "Attr-26.9999.1": "0x00",
    }
    [rule] = compiled({"reply": {"attributes": attributes}})
    names = {
        vendor: [n for n, _ in fill(rule, {}, vendor)] for vendor in ("cisco", "aruba", "generic")
    }
    assert names["cisco"] == ["Cisco-AVPair", "Cisco-AVPair", "Airespace-Interface-Name"]
    assert names["aruba"] == ["Aruba-User-Role"]
    assert names["generic"] == []


@pytest.mark.parametrize(
    ("wanted", "days", "expected"),
    [(3600, 10, 3600), (0, 10, 864_000), (2_592_000, 10, 864_000), (3600, 0.01, 864)],
)
def test_a_session_never_outlives_the_certificate(wanted: int, days: float, expected: int) -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "reply": {"session_timeout": wanted}})
    certificate = world.issue()
    world.clock.time = certificate.not_valid_after_utc
    world.later(days=-days)
    assert world.login(certificate).session_timeout == expected


def test_a_session_never_outlives_the_account() -> None:
    world = NetworkWorld().prepare()
    world.policy()
    certificate = world.issue(owner="person:alice")
    world.person("alice", valid_until=world.clock.time.replace(minute=10))
    assert world.login(certificate).session_timeout == 600


def test_simultaneous_devices_of_one_person() -> None:
    world = NetworkWorld().prepare()
    world.person("alice")
    world.policy({"name": "all", "simultaneous": 1})
    first, second = (world.issue(n, owner="person:alice") for n in ("one", "two"))
    world.login(first, visit=a_visit(calling_station="020000000001"))
    world.login(first, visit=a_visit(calling_station="020000000001"))  # the same again
    visit = a_visit(calling_station="020000000002")
    assert world.refused(second, visit=visit).rule == "network.simultaneous"


# -- templates -------------------------------------------------------------------------------------


def test_r61_templates_are_filled_from_certificate_and_person() -> None:
    world = NetworkWorld().prepare()
    world.person("alice", mail="alice@example.test")
    vlan = "{subject.OU}-{san.dns}-{person}-{person.mail}-{{x}}-{profile}"
    world.policy({"name": "all", "reply": {"vlan": vlan}})
    certificate = world.issue(dn="CN=laptop-7,OU=sales", owner="person:alice")
    values = dict(world.login(certificate).attributes)
    assert values["Tunnel-Private-Group-Id"] == (
        "sales-laptop-7.example.test-alice-alice@example.test-{x}-wifi-client"
    )


def test_r61_a_template_without_a_value_refuses() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "reply": {"vlan": "{subject.OU}"}})
    fault = world.refused(world.issue())
    assert (fault.rule, fault.values["missing"]) == ("network.template", "subject.OU")


def test_r61_what_does_not_fit_is_refused_and_never_cut() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "reply": {"acl": "{subject.OU}" * 4}})
    assert world.refused(world.issue(dn=f"CN=a,OU={'b' * 64}")).rule == "network.attribute-length"


METACHARACTERS = st.text(
    alphabet=st.sampled_from("{}*?[]()|\\/,;:=&%$'\"<>\n\r\t\0\u202e\u2028aZ0é")
)


@given(value=METACHARACTERS | st.text(max_size=300))
def test_t_web_05_a_value_is_text_whatever_it_holds(value: str) -> None:
    values = {"person": value, "subject.CN": "INNER"}
    shown = templates.clean(value).strip()
    if not shown or len(shown.encode()) > templates.LONGEST - 2:
        with pytest.raises(Fault) as caught:
            templates.expand("<{person}>", values)
        rule = "network.attribute-length" if shown else "network.template"
        assert caught.value.rule == rule
        return
    filled = templates.expand("<{person}>", values)
    assert filled == f"<{shown}>"
    assert templates.clean(filled) == filled
    assert len(filled.encode()) <= templates.LONGEST
    # What stands in braces inside a value is never looked up.
    assert "INNER" not in filled or "INNER" in value


@given(template=st.text(max_size=300) | METACHARACTERS)
def test_any_template_is_refused_in_words_or_can_be_filled(template: str) -> None:
    mistake = templates.mistake(template)
    if mistake is not None:
        assert mistake
        return
    names = [*templates.FIELDS, *(f"subject.{each}" for each in templates.SUBJECT)]
    assert isinstance(templates.expand(template, dict.fromkeys(names, "x")), str)


@given(text=METACHARACTERS | st.text(max_size=60), value=METACHARACTERS | st.text(max_size=60))
def test_t_web_05_only_a_star_of_the_rule_is_special(text: str, value: str) -> None:
    literal = text.replace("*", "")
    assert Pattern(literal).matches(literal)
    if "*" not in text:
        assert Pattern(text).matches(value) == (text.casefold() == value.casefold())
    # A value with stars never becomes a pattern.
    assert not Pattern("alice").matches("*")
    assert Pattern(f"{literal}*").matches(literal + value)
    assert Pattern(f"*{literal}").matches(value + literal)


def test_a_pattern_with_many_stars_takes_no_time() -> None:
    assert not Pattern("*a" * 60 + "b").matches("a" * 5000)
    assert Pattern("*a" * 60).matches("a" * 5000)


TEXT = st.sampled_from(["a", "b", "staff", "*", ""])


@given(
    ssids=st.lists(st.sampled_from(["a", "b", "staff"]), max_size=2),
    groups=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    rejects=st.lists(st.booleans(), max_size=4),
    ssid=TEXT,
    group=TEXT,
)
def test_no_match_is_never_a_yes(
    ssids: list[str], groups: list[str], rejects: list[bool], ssid: str, group: str
) -> None:
    rules = compiled(
        *(
            {
                "when": {"ssids": ssids, "groups": groups},
                "then": "reject" if reject else "accept",
            }
            for reject in rejects
        )
    )
    asked = question(visit=a_visit(ssid=ssid), groups=(group,))
    expected = (not ssids or ssid in ssids) and (not groups or group in groups)
    assert [rule.matches(asked) for rule in rules] == [expected] * len(rules)
    missed = matching.misses(rules, asked)
    assert len(missed) == (0 if expected else len(rules))


def test_names_of_a_certificate_with_metacharacters_stay_names() -> None:
    world = NetworkWorld().prepare()
    world.policy({"name": "all", "when": {"names": ["email:*@example.test"]}})
    assert world.refused(world.issue(names=(x509.DNSName("x.example.test"),))).rule == (
        "network.policy"
    )
