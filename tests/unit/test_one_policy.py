"""One policy: what is forbidden is refused on every road by the same rule, and so journaled.

The same PKCS#10 goes through SCEP, EST, CMP, CMC, Windows' WSTEP, ACME and the command line's
service; each protocol's own codec and responder are in between, the core behind them is one. The
agent and the links to profiles have no road of their own: they ask over one of these.

ACME alone has a rule before all others: what was not ordered, and so not validated, may not stand
in a request (RFC 8555, 7.4). Where that is what refuses, the table says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests import cmc_client, scep_client
from tests.cmp_client import Shared
from tests.support import drive
from tests.unit import acme_world
from tests.unit.ca_bench import ADMIN
from tests.unit.cmc_world import World
from tests.unit.est_world import Session, basic
from tests.unit.scep_core import key_usage, make_certificate, rsa_key
from tests.unit.wstep_world import SOAP, issue
from tmad.ca.numbers import RequestNumbers
from tmad.ca.requests import EndpointID, Proof
from tmad.errors import Fault
from tmad.identity.actors import EVERY_TENANT
from tmad.identity.binding import Binding
from tmad.protocols.est.responder import ESTResponder
from tmad.protocols.scep.responder import EndpointOptions as SCEPOptions
from tmad.protocols.scep.responder import SCEPResponder
from tmad.protocols.wstep.responder import WSTEPResponder
from tmad.protocols.wstep.visit import Presenting, URLs
from tmad.wire import csr
from tmad.wire.http import Request
from tmad.wire.signatures import Policy

ROADS = ("scep", "est", "cmp", "cmc", "wstep", "acme")
P10CR = 4


HOST = "ca.example.test"
WORD = "correct horse battery staple"


class Roads(World):
    """One core with an endpoint "one" for each road, which all have the same rules."""

    def furnish(self, **document: Any) -> Roads:
        stored = drive(self.objects.get(ADMIN, "default", "profile", "device"))
        device = stored.document.model_dump(mode="json", exclude_defaults=True)
        device["via"] = [*device["via"], "wstep"]
        drive(self.objects.put(ADMIN, "default", "profile", "device", device))
        for road in ROADS:
            rules = {"challenge": {"recoverable": True}, **document}
            if road == "acme":
                rules |= {"authenticate": ["acme"], "options": {"external_account_required": True}}
            drive(self.open(road, "one", **rules))
        self.url = "/p/one"
        self._ra_key = rsa_key(7)
        usage = key_usage(digital_signature=True, key_encipherment=True)
        self._ra = make_certificate(
            self.clock, "ra", self._ra_key.public_key(), self._ra_key, None, usage=usage
        )
        self.est = ESTResponder(self.services)
        scep_services: Any = SimpleNamespace(
            **{
                **vars(self.services),
                "endpoints": SimpleNamespace(by_id=self._scep_endpoint),
                "service_certificates": SimpleNamespace(valid=self._scep_ra),
                "keyring": SimpleNamespace(use=self._scep_key),
            }
        )
        self.scep = SCEPResponder(scep_services)
        numbers = RequestNumbers(self.database, self.clock)
        services: Any = SimpleNamespace(**vars(self.services), host=HOST, request_numbers=numbers)
        nobody: Any = None
        self.wstep = WSTEPResponder(
            services,
            Presenting(nobody, self.service_certificates, HOST),
            URLs(host=HOST, given="", certificate=""),
        )
        self.acme = acme_world.World(self)
        self.acme.open("default")  # where its clients take their nonces
        return self

    async def _scep_endpoint(self, about: EndpointID) -> Any:
        found = await self.endpoints.by_id(about)
        return SimpleNamespace(
            id=found.id, tenant=found.tenant, document=found.document, options=SCEPOptions()
        )

    async def _scep_ra(self, purpose: str, scope: str) -> Any:
        return (SimpleNamespace(certificate=self._ra, key_id="ra"),)

    async def _scep_key(self, key_id: str, operation: Any) -> Any:
        return operation(self._ra_key)

    # -- the roads ----------------------------------------------------------------------------

    def go(
        self, road: str, make: Callable[[str], bytes], *, wrong: bool = False, **secret: Any
    ) -> None:
        """Send a request, made with or without a challenge inside, with a fresh secret."""
        shared = self.shared(endpoint=f"{road}/one", **secret)
        if wrong:
            shared = replace(shared, secret=shared.secret[::-1])
        self.show(road, make, shared)

    def show(self, road: str, make: Callable[[str], bytes], shared: Any) -> None:
        """Send a request with a secret, whatever it is for."""
        getattr(self, f"_over_{road}")(make, shared)

    def _over_scep(self, make: Callable[[str], bytes], shared: Any) -> None:
        request_der = make(shared.secret)
        envelope = scep_client.make_envelope(request_der, self._ra, by_ski=True)
        message = scep_client.make_message(
            envelope, scep_client.self_signed(self.signer), signing_time=self.clock()
        )
        request = Request(
            method="POST", path=b"/scep/one", tail=b"one", body=message.der, peer="192.0.2.7"
        )
        drive(self.scep.respond_below(request))

    signer: Any = None  # SCEP and CMC want the message signed with the key of the request

    def _over_est(self, make: Callable[[str], bytes], shared: Any) -> None:
        drive(
            self.est.respond(
                Request(
                    method="POST",
                    path=b"/.well-known/est/one/simpleenroll",
                    tail=b"/one/simpleenroll",
                    headers={
                        "content-type": "application/pkcs10",
                        "authorization": basic(shared.reference, shared.secret),
                    },
                    body=base64.b64encode(make("")),
                    peer="192.0.2.7",
                    tls=Session(),
                )
            )
        )

    def _over_cmp(self, make: Callable[[str], bytes], shared: Any) -> None:
        asking = self.client(shared)
        asking.begin()
        asking.send(P10CR, make(""))

    def _over_cmc(self, make: Callable[[str], bytes], shared: Any) -> None:
        requests = [cmc_client.tcr(1, make(""))]
        proof = cmc_client.proof(shared.reference, shared.secret, requests)
        message = cmc_client.signed(cmc_client.pki_data(proof, requests), key=self.signer)
        self.ask(message, tail="one")

    def _over_wstep(self, make: Callable[[str], bytes], shared: Any) -> None:
        drive(
            self.wstep.respond(
                Request(
                    method="POST",
                    path=b"/wstep/one",
                    tail=b"/one",
                    headers=SOAP,
                    body=issue(make(""), user=shared.reference, word=shared.secret),
                    peer="192.0.2.7",
                    secure=True,
                    tls=Session(),
                )
            )
        )

    def _over_acme(self, make: Callable[[str], bytes], shared: Any) -> None:
        request = csr.decode(make(""), Policy())
        hosts = [name.value for name in request.names if isinstance(name, x509.DNSName)]
        [common] = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        client = acme_world.Client(self.acme, label="one")
        eab = shared.reference, acme_world.b64(shared.secret.encode())
        answer = client.post("new-account", {"externalAccountBinding": client.binding(*eab)})
        if answer.status != 201:
            return
        client.kid = answer.headers["Location"]
        order = client.order(*dict.fromkeys([str(common.value), *hosts]))
        if order.status == 201:
            client.prove(order)
            client.finalize(order, request.der)

    def rules(self) -> list[tuple[str, str]]:
        """Return (actor, rule) of each refusal in the journal."""
        return [
            (record.actor, json.loads(record.data)["rule"])
            for record in self.events("request.refused")
        ]

    def by_hand(self, request_der: bytes) -> str:
        """Return by which rule the same request is refused to an operator."""
        request = csr.decode(request_der, Policy())
        with pytest.raises(Fault) as caught:
            drive(
                self.authority.issue(
                    ADMIN,
                    "default",
                    authority="devices",
                    profile=self.profile,
                    subject=request.subject,
                    names=request.names,
                    wanted=request.wanted,
                    public_key=request.public_key,
                    proof=Proof.CSR_SIGNATURE,
                    evidence=request.der,
                )
            )
        return caught.value.rule

    profile = "device"


def roads(**document: Any) -> Roads:
    made: Roads = drive(Roads().prepare())  # type: ignore[assignment]  # prepare returns self
    return made.furnish(**document)


def request_of(
    key: Any,
    common: str = "r1.example.test",
    *,
    names: tuple[x509.GeneralName, ...] = (),
    extra: tuple[x509.NameAttribute[str], ...] = (),
) -> Callable[[str], bytes]:
    """Return a maker of the same request, with a challenge inside where one is given."""

    def make(challenge: str) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common), *extra])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if challenge:
            builder = builder.add_attribute(
                x509.ObjectIdentifier("1.2.840.113549.1.9.7"), challenge.encode()
            )
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    return make


SMALL = rsa.generate_private_key(65537, 1024)
UPN = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x10bob@example.test")

# How to ask, which rule says no, and which one ACME has before it.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a key that is too small": ({"key": SMALL}, "key.rsa.size", "key.rsa.size"),
    "too many names": (
        {"names": tuple(x509.DNSName(f"h{n}.example.test") for n in range(11))},
        "profile.names.dns.count",
        "profile.names.dns.count",
    ),
    "another's account": ({"names": (UPN,)}, "profile.names.upn", "acme.names"),
    "a name that is none": (
        {"names": (x509.DNSName("under_score..example.test"),)},
        "name.dns.syntax",
        "acme.identifier.value",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_request_is_refused_by_the_same_rule_everywhere(case: str) -> None:
    how, expected, by_acme = CASES[case]
    world = roads()
    key = how.get("key") or rsa_key(3)
    world.signer = key
    make = request_of(key, **{name: value for name, value in how.items() if name != "key"})
    for road in ROADS:
        world.go(road, make)
    assert world.rules() == [
        (f"{road}/one", by_acme if road == "acme" else expected) for road in ROADS
    ]
    assert world.by_hand(make("")) == expected
    assert world.issued() == 0


def test_an_attribute_that_the_profile_lacks_is_in_no_certificate() -> None:
    world = roads()
    world.signer = rsa_key(3)
    make = request_of(rsa_key(3), extra=(x509.NameAttribute(NameOID.TITLE, "boss"),))
    for road in ROADS:
        world.go(road, make)
    *others, _ = ROADS
    assert world.rules() == [(f"{road}/one", "profile.subject.attribute") for road in others]
    assert world.by_hand(make("")) == "profile.subject.attribute"
    # ACME's certificates hold what was ordered, and nothing else of the request.
    [issued] = [r for r in world.events("certificate.intended") if r.actor == "acme/one"]
    assert json.loads(issued.data)["subject"] == "CN=r1.example.test"


def travel(world: Roads, common: str = "r1.example.test", **how: Any) -> list[str]:
    """Send one request down each road; return the rules that refused it."""
    before = len(world.rules())
    world.signer = rsa_key(3)
    for road in ROADS:
        world.go(road, request_of(rsa_key(3), common), **how)
    found = world.rules()[before:]
    assert [actor for actor, _ in found] == [f"{road}/one" for road in ROADS][: len(found)]
    return [rule for _, rule in found]


def test_a_good_request_is_served_on_every_road() -> None:
    world = roads()
    assert travel(world) == []
    issued = [record.actor for record in world.events("certificate.issued")]
    assert [actor for actor in issued if "/" in actor] == [f"{road}/one" for road in ROADS]


def test_a_secret_is_good_for_its_name_only() -> None:
    bound = Binding(subject=("CN=other",))
    assert travel(roads(), bound_to=bound) == [*["secret.binding.subject"] * 5, "acme.binding"]


def test_a_wrong_secret_is_wrong_everywhere() -> None:
    assert travel(roads(), wrong=True) == [*["secret.wrong"] * 5, "acme.binding.wrong"]


def test_a_secret_is_good_at_its_own_endpoint_of_its_own_tenant_only() -> None:
    world = roads()
    world.signer = rsa_key(3)
    put = world.objects.put
    drive(put(ADMIN, EVERY_TENANT, "tenant", "other", {}))
    drive(put(ADMIN, "other", "authority", "theirs", {}))
    drive(put(ADMIN, "other", "profile", "theirs", {"via": list(ROADS)}))
    for road in ROADS:
        kind = "acme" if road == "acme" else "challenge"
        rules: dict[str, Any] = {"challenge": {"recoverable": True}, "authenticate": [kind]}
        drive(world.open(road, "two", **rules))
        theirs = {
            **rules, "protocol": road, "label": "three", "authority": "theirs", "profile": "theirs",
        }  # fmt: skip
        drive(put(ADMIN, "other", "endpoint", f"{road}-three", theirs))
        for tenant, label in (("default", "two"), ("other", "three")):
            row, secret = drive(
                world.secrets.create(ADMIN, tenant, f"{road}/{label}", recoverable=True)
            )
            make = request_of(rsa_key(3), f"{label}.example.test")
            world.show(road, make, Shared(row.id, secret.reveal().decode()))
    *others, _ = ROADS
    expected = [(f"{road}/one", "secret.wrong") for road in others for _ in range(2)]
    assert world.rules() == [*expected, *[("acme/one", "acme.binding.wrong")] * 2]
    assert world.issued() == 0


def test_people_of_another_group_enrol_on_no_road_that_knows_people() -> None:
    world = roads(authenticate=["password"], people={"groups": ["staff"], "names": "any"})
    drive(world.accounts.person("alice", WORD))
    for road in ("est", "wstep"):
        world.show(road, request_of(rsa_key(3)), Shared("alice", WORD))
    assert world.rules() == [("est/one", "person.groups"), ("wstep/one", "person.groups")]


def test_a_profile_is_reached_by_its_own_roads_only() -> None:
    assert travel(roads(profile="tls-self")) == ["profile.via"] * 6


def test_a_key_belongs_to_one_subject() -> None:
    world = roads()
    assert travel(world) == []
    assert travel(world, "another.example.test") == ["key.duplicate.same-subject"] * 6


def test_a_days_ration_is_the_same_on_every_road() -> None:
    world = roads(limits={"per_day": 1})
    assert travel(world) == []
    assert travel(world) == ["limits.per-day"] * 6


def test_a_person_is_asked_on_every_road() -> None:
    world = roads(approval="manual")
    assert travel(world) == []
    waiting = [record.actor for record in world.events("request.pending")]
    assert waiting == [f"{road}/one" for road in ROADS]
