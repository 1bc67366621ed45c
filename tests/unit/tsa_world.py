"""A time-stamping authority in memory: the whole core behind it, and a clock to play with."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

from asn1crypto import tsp
from cryptography import x509

from tests.hierarchy_world import Shelf
from tests.support import drive
from tests.unit.ca_bench import ADMIN, Bench, bench
from tmad.ca.service_certificates import ServiceCertificates
from tmad.ca.status import StatusSource
from tmad.protocols.tsa import codec
from tmad.protocols.tsa.clock import TrustedTime
from tmad.protocols.tsa.responder import TSAResponder
from tmad.wire import cms, der
from tmad.wire.http import Request, Response
from tmad.wire.signatures import Policy

POLICY = "1.2.3.4.1"
QUERY = {"content-type": "application/timestamp-query"}
NAMES = {known.name: oid for oid, known in codec.HASHES.items()}


def query(
    name: str = "sha256",
    content: bytes = b"what is stamped",
    *,
    policy: str = "",
    nonce: int | None = 42,
    certificate: bool = True,
    tail: bytes = b"",
) -> bytes:
    """Return a TimeStampReq."""
    digest = hashlib.new(name.replace("sha3-", "sha3_"), content).digest()
    return der.sequence(
        b"\x02\x01\x01",
        der.sequence(der.sequence(NAMES[name], der.NULL_DER), der.octets(digest)),
        der.oid(policy) if policy else b"",
        b"" if nonce is None else der.integer(nonce),
        b"\x01\x01\xff" if certificate else b"",
        tail,
    )


class World:
    """One endpoint tsa/default and its responder."""

    def __init__(self, options: dict[str, Any] | None = None, **how: Any) -> None:
        self.bench: Bench = bench(**how)
        b = self.bench
        b.keyring._shelf = Shelf(b.database)
        self.options: dict[str, Any] = {"policy": POLICY, **(options or {})}
        drive(b.open("tsa", "default", profile="tsa-signer", options=self.options))
        self.bound: float | None = 0.001
        self.since_boot = 1000.0
        self.services: Any = SimpleNamespace(
            endpoints=b.endpoints,
            journal=b.journal,
            keyring=b.keyring,
            now=b.clock,
            status=StatusSource(b.database),
            service_certificates=ServiceCertificates(
                b.database,
                b.changes,
                b.journal,
                b.keyring,
                b.hierarchy,
                b.endpoints,
                b.authority,
                b.clock,
                holder="test",
            ),
        )
        self.responder = self.another()

    def another(self) -> TSAResponder:
        """Return one more worker's responder."""
        time = TrustedTime(
            self.bench.clock, running=lambda: self.since_boot, bound=lambda: self.bound
        )
        return TSAResponder(self.services, time=time)

    def change(self, **document: Any) -> None:
        """Change the endpoint's document."""
        stored = drive(self.bench.objects.get(ADMIN, "default", "endpoint", "tsa-default"))
        plain = stored.document.model_dump(mode="json", exclude_defaults=True)
        drive(
            self.bench.objects.put(
                ADMIN, "default", "endpoint", "tsa-default", {**plain, **document}
            )
        )

    def post(self, body: bytes, *, tail: bytes = b"/default", headers: Any = None) -> Response:
        request = Request(
            method="POST",
            path=b"/tsa" + tail,
            tail=tail,
            body=body,
            headers=QUERY if headers is None else headers,
            peer="192.0.2.7",
        )
        return drive(self.responder.respond(request))

    def fails(self, body: bytes) -> str:
        """Return the failInfo of a rejection, as asn1crypto names it."""
        answer = self.post(body)
        assert answer.status == 200
        assert answer.content_type == "application/timestamp-reply"
        status = tsp.PKIStatusInfo.load(der.read(answer.body, der.SEQUENCE).raw(), strict=True)
        assert status["status"].native == "rejection"
        (failure,) = status["fail_info"].native
        return str(failure)

    def stamp(self, body: bytes) -> Stamp:
        """Return what is granted, after checking all that a client checks."""
        answer = self.post(body)
        assert answer.status == 200
        return Stamp(answer.body, self.services.service_certificates)


class Stamp:
    """A TimeStampResp that grants, read by asn1crypto and verified."""

    def __init__(self, body: bytes, certificates: ServiceCertificates) -> None:
        assert der.read(body, der.SEQUENCE).raw() == b"\x30\x03\x02\x01\x00", body  # granted
        found = tsp.TimeStampResp.load(body, strict=True)
        self.token = found["time_stamp_token"]
        signed = self.token["content"]
        assert signed["version"].native == "v3"
        assert signed["encap_content_info"]["content_type"].native == "tst_info"
        self.info = signed["encap_content_info"]["content"].parsed
        assert isinstance(self.info, tsp.TSTInfo)
        self.certificates = [each.dump() for each in signed["certificates"]]
        (self.signer_info,) = signed["signer_infos"]
        current = drive(certificates.current("tsa", "tsa/default"))
        self.certificate: x509.Certificate = current.certificate
        own = cms.decode_signed_data(self.token.dump())
        (signer,) = own.signers
        cms.verify(own, signer, self.certificate.public_key(), Policy())

    @property
    def serial(self) -> int:
        return int(self.info["serial_number"].native)
