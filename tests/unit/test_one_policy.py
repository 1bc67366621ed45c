"""One policy: what is forbidden is refused on every road by the same rule, and so journaled.

The same PKCS#10 goes through SCEP, EST, CMP and the command line's service; each protocol's own
codec and responder are in between, the core behind them is one.
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

from tests import scep_client
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import World
from tests.unit.est_world import Session, basic
from tests.unit.scep_core import key_usage, make_certificate, rsa_key
from tmad.ca.requests import EndpointID, Proof
from tmad.errors import Fault
from tmad.identity.binding import Binding
from tmad.protocols.est.responder import ESTResponder
from tmad.protocols.scep.responder import EndpointOptions as SCEPOptions
from tmad.protocols.scep.responder import SCEPResponder
from tmad.wire import csr
from tmad.wire.http import Request
from tmad.wire.signatures import Policy

ROADS = ("scep", "est", "cmp")
P10CR = 4


class Roads(World):
    """One core with the endpoints scep/one, est/one and cmp/one, which have the same rules."""

    def furnish(self, **document: Any) -> Roads:
        for road in ROADS:
            rules = {"challenge": {"recoverable": True}, **document}
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
        getattr(self, f"_{road}")(make, shared)

    def _scep(self, make: Callable[[str], bytes], shared: Any) -> None:
        request_der = make(shared.secret)
        envelope = scep_client.make_envelope(request_der, self._ra, by_ski=True)
        message = scep_client.make_message(
            envelope, scep_client.self_signed(self.scep_signer), signing_time=self.clock()
        )
        request = Request(
            method="POST", path=b"/scep/one", tail=b"one", body=message.der, peer="192.0.2.7"
        )
        drive(self.scep.respond_below(request))

    scep_signer: Any = None  # SCEP wants the message signed with the key of the request

    def _est(self, make: Callable[[str], bytes], shared: Any) -> None:
        drive(
            self.est.respond(
                Request(
                    method="POST",
                    path=b"/.well-known/est/one/simpleenroll",
                    tail=b"/one/simpleenroll",
                    headers={
                        "content-type": "application/pkcs10",
                        "authorization": basic("x", shared.secret),
                    },
                    body=base64.b64encode(make("")),
                    peer="192.0.2.7",
                    tls=Session(),
                )
            )
        )

    def _cmp(self, make: Callable[[str], bytes], shared: Any) -> None:
        asking = self.client(shared)
        asking.begin()
        asking.send(P10CR, make(""))

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

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a key that is too small": ({"key": SMALL}, "key.rsa.size"),
    "an attribute that the profile lacks": (
        {"extra": (x509.NameAttribute(NameOID.TITLE, "boss"),)},
        "profile.subject.attribute",
    ),
    "too many names": (
        {"names": tuple(x509.DNSName(f"h{n}.example.test") for n in range(11))},
        "profile.names.dns.count",
    ),
    "another's account": ({"names": (UPN,)}, "profile.names.upn"),
    "a name that is none": (
        {"names": (x509.DNSName("under_score..example.test"),)},
        "name.dns.syntax",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_request_is_refused_by_the_same_rule_everywhere(case: str) -> None:
    how, expected = CASES[case]
    world = roads()
    key = how.get("key") or rsa_key(3)
    world.scep_signer = key
    make = request_of(key, **{name: value for name, value in how.items() if name != "key"})
    for road in ROADS:
        world.go(road, make)
    found = world.rules()
    assert [actor for actor, _ in found] == [f"{road}/one" for road in ROADS]
    rules = {rule for _, rule in found}
    assert rules == {expected}
    assert world.by_hand(make("")) == expected
    assert world.issued() == 0


def travel(world: Roads, common: str = "r1.example.test", **how: Any) -> list[str]:
    """Send one request down each road; return the rules that refused it."""
    before = len(world.rules())
    world.scep_signer = rsa_key(3)
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
    assert travel(roads(), bound_to=bound) == ["secret.binding.subject"] * 3


def test_a_wrong_secret_is_wrong_everywhere() -> None:
    assert travel(roads(), wrong=True) == ["secret.wrong"] * 3


def test_a_profile_is_reached_by_its_own_roads_only() -> None:
    assert travel(roads(profile="tls-self")) == ["profile.via"] * 3


def test_a_key_belongs_to_one_subject() -> None:
    world = roads()
    assert travel(world) == []
    assert travel(world, "another.example.test") == ["key.duplicate.same-subject"] * 3


def test_a_days_ration_is_the_same_on_every_road() -> None:
    world = roads(limits={"per_day": 1})
    assert travel(world) == []
    assert travel(world) == ["limits.per-day"] * 3


def test_a_person_is_asked_on_every_road() -> None:
    world = roads(approval="manual")
    assert travel(world) == []
    waiting = [record.actor for record in world.events("request.pending")]
    assert waiting == [f"{road}/one" for road in ROADS]
