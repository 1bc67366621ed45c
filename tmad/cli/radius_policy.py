"""``tmad radius-policy``: who may join the network, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tmad.cli import objects, output
from tmad.cli.context import REFUSED, Ended, Session, usage, with_core

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from tmad.network.logins import Verdict
    from tmad.network.visit import Visit

_CERTIFICATE_OCTETS = 1_000_000
_PORT_TYPES = {"ethernet": 15, "wireless": 19, "virtual": 5}

# option of the command -> key of the rule's `when`
_WHEN = {
    "client": "clients",
    "tag": "tags",
    "ssid": "ssids",
    "port_type": "port_types",
    "method": "methods",
    "ca": "authorities",
    "anchor": "anchors",
    "profile": "profiles",
    "group": "groups",
    "person": "people",
    "device": "devices",
    "subject": "subject",
    "san": "names",
    "hours": "hours",
    "day": "days",
}
_HELP = {
    "client": "From this RADIUS client.",
    "tag": "From a RADIUS client with this tag.",
    "ssid": "On this wireless network.",
    "port_type": "On this kind of port: ethernet, wireless, virtual.",
    "method": "By this method: eap-tls, eap-ttls, peap, pap, mac.",
    "ca": "With a certificate of this authority.",
    "anchor": "With a certificate of this trust anchor.",
    "profile": "With a certificate of this profile.",
    "group": "For people in this group.",
    "person": 'For this person; "*": anybody known.',
    "device": 'For this device; "*": any known one.',
    "subject": 'With such a subject: "OU=Sales*".',
    "san": 'With such a name: "dns:*.example.test".',
    "hours": "At this time: 08:00-18:00.",
    "day": "On this day: mon.",
}


@click.group("radius-policy")
def radius_policy() -> None:
    """Policies: who may join the network, and with what."""


def _rule_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that make up one rule; each condition may be repeated."""
    for option, text in reversed(_HELP.items()):
        decorate = click.option(f"--{option.replace('_', '-')}", option, multiple=True, help=text)
        function = decorate(function)
    for decorate in (
        click.option("--vlan", help="Answer with this VLAN; may hold {subject.OU} and the like."),
        click.option("--acl", help="Answer with this Filter-Id."),
        click.option("--session-timeout", type=int, help="Seconds until the next login."),
        click.option(
            "--attribute", "attributes", multiple=True, metavar="NAME=VALUE",
            help="Answer with this attribute, too.",
        ),
        click.option("--reject", is_flag=True, help="Refuse instead."),
        click.option("--monitor", is_flag=True, help="Only write down what would be refused."),
        click.option(
            "--unlisted", is_flag=True, help="With --method mac: also addresses of no device."
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


@radius_policy.command("create")
@click.argument("name")
@click.option("--file", "source", type=click.File("rb"), help="A whole policy as TOML.")
@click.option("--order", type=int, help="Policies with lower numbers come first (100).")
@click.option("--rule", default="accept", show_default=True, help="Name of its first rule.")
@_rule_options
@with_core
async def create(
    core: Session,
    name: str,
    source: BinaryIO | None,
    order: int | None,
    rule: str,
    **options: Any,
) -> None:
    """Make a policy with one rule, or the one that a file describes."""
    from tmad import documents

    if source is not None:
        if any(options.values()):
            usage("--file describes the whole policy; leave the rule's options out")
        document = documents.from_toml(source.read())
    else:
        document = {"rules": [_rule(rule, options)]}
    if order is not None:
        document["order"] = order
    change = await core.objects.put(
        core.actor, core.tenant, "radius-policy", name, document, expect=0, dry_run=core.dry_run
    )
    objects.show_change(core, change)
    output.next_step(
        f"tmad radius-policy rule {name} RULE …   adds another rule",
        "tmad radius-policy test --cert SERIAL --client CLIENT",
    )


@radius_policy.command("rule")
@click.argument("name")
@click.argument("rule")
@click.option("--before", metavar="RULE", help="Put it before this rule; else it is the last.")
@click.option("--remove", is_flag=True, help="Take the rule out.")
@_rule_options
@with_core
async def rule_(
    core: Session, name: str, rule: str, before: str | None, remove: bool, **options: Any
) -> None:
    """Add a rule to a policy, replace the one of this name, or take it out."""
    from tmad import documents

    stored = await core.objects.get(core.actor, core.tenant, "radius-policy", name)
    document = documents.plain(stored.document)
    rules = document.get("rules", [])
    names = [each["name"] for each in rules]
    for wanted in [rule] if remove else [before] if before else []:
        if wanted not in names:
            usage(f"there is no rule {wanted!r}{documents.nearest(wanted, names)}")
    place = names.index(rule) if rule in names else len(rules)
    rules = [each for each in rules if each["name"] != rule]
    if not remove:
        if before is not None:
            place = [each["name"] for each in rules].index(before)
        rules.insert(place, _rule(rule, options))
    change = await core.objects.put(
        core.actor,
        core.tenant,
        "radius-policy",
        name,
        {**document, "rules": rules},
        expect=stored.revision,
        dry_run=core.dry_run,
    )
    objects.show_change(core, change)


@radius_policy.command("test")
@click.option("--cert", "serial", metavar="SERIAL", help="With this certificate of ours.")
@click.option("--file", "source", type=click.File("rb"), help="With a PEM file, leaf first.")
@click.option("--person", metavar="NAME", help="As this person, after the password was right.")
@click.option("--client", required=True, help="From this RADIUS client.")
@click.option("--ssid", default="", help="On this wireless network.")
@click.option("--mac", default="", help="From this station.")
@click.option("--port-type", type=click.Choice(list(_PORT_TYPES)), default="wireless")
@click.option("--method", help="By this method (eap-tls; with --person: pap; with --mac: mac).")
@click.option("--at", type=click.DateTime(), help="At another time, in UTC.")
@with_core
async def test(
    core: Session,
    serial: str | None,
    source: BinaryIO | None,
    person: str | None,
    client: str,
    ssid: str,
    mac: str,
    port_type: str,
    method: str | None,
    at: datetime | None,
) -> None:
    """Say what would become of a login, and what each rule says to it. Nothing is written."""
    shown = [each for each in (serial, source, person) if each is not None]
    if len(shown) > 1 or not (shown or mac):
        usage("give one of --cert, --file and --person, or --mac alone")
    chain: tuple[x509.Certificate, ...] = ()
    if serial is not None:
        found = await core.inventory.find(core.actor, core.tenant, serial)
        chain = (found.certificate, *found.chain)
    elif source is not None:
        chain = _read(source)
    verdict = await core.services.admission.test(
        core.actor,
        core.tenant,
        await _visit(core, client, ssid, mac, _PORT_TYPES[port_type]),
        method or ("pap" if person else "eap-tls") if shown else "mac",
        chain=chain,
        person=person or "",
        at=at.replace(tzinfo=UTC) if at else None,
    )
    _show(verdict)
    if verdict.fault is not None:
        raise Ended(REFUSED, f"would be refused: {verdict.fault.detail}")


def _show(verdict: Verdict) -> None:
    from tmad.network import reasons

    shown: dict[str, Any] = {}
    if verdict.admitted is not None:
        admitted = verdict.admitted
        shown = {
            "verdict": "accept",
            "user_name": admitted.user_name,
            "policy": admitted.policy,
            "rule": admitted.rule,
            "session_timeout": admitted.session_timeout,
            "attributes": [f"{name} = {value}" for name, value in admitted.attributes],
            "person": admitted.person,
            "device": admitted.device,
            "monitored": list(admitted.monitored),
        }
    elif verdict.fault is not None:
        reason, advice = reasons.describe(verdict.fault)
        shown = {
            "verdict": "reject",
            "reason": reason,
            "rule": verdict.fault.rule,
            "detail": verdict.fault.detail,
            "values": dict(verdict.fault.values),
            "advice": advice,
        }
    shown["rules"] = [f"{rule}: {outcome}" for rule, outcome in verdict.rules]
    output.record(shown, name="verdict")


async def _visit(core: Session, client: str, ssid: str, mac: str, port_type: int) -> Visit:
    from tmad.network.visit import Visit, station

    stored = await core.objects.get(core.actor, core.tenant, "radius-client", client)
    return Visit(
        tenant=core.tenant,
        client=client,
        tags=tuple(stored.document.tags),
        address="",
        nas_identifier="",
        nas_port="",
        nas_port_type=port_type,
        ssid=ssid,
        called_station="",
        calling_station=station(mac),
        service_type=None,
        user_name="",
    )


def _read(source: BinaryIO) -> tuple[x509.Certificate, ...]:
    from tmad.wire import parsing

    data = source.read(_CERTIFICATE_OCTETS)
    try:
        if b"-----BEGIN " in data:
            return parsing.certificates(data)
        return (parsing.certificate(data),)
    except ValueError as error:
        usage(f"not a certificate: {error}")


def _rule(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rule that the options describe."""
    when: dict[str, Any] = {
        key: list(options[option]) for option, key in _WHEN.items() if options[option]
    }
    reply: dict[str, Any] = {
        key: options[key] for key in ("vlan", "acl", "session_timeout") if options[key] is not None
    }
    for pair in options["attributes"]:
        attribute, equals, text = pair.partition("=")
        if not equals:
            usage(f"{pair!r} is not NAME=VALUE")
        held = reply.setdefault("attributes", {}).setdefault(attribute, [])
        held.append(int(text) if text.isascii() and text.isdigit() else text)
    rule: dict[str, Any] = {"name": name}
    if when:
        rule["when"] = when
    if reply:
        rule["reply"] = reply
    if options["reject"]:
        rule["then"] = "reject"
    for flag in ("monitor", "unlisted"):
        if options[flag]:
            rule[flag] = True
    return rule


objects.attach(radius_policy, "radius-policy", columns=("order", "enabled", "revision"))
