"""A CMC server on a whole core in memory: every part is the real one, nothing listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests import cmc_client as client
from tests.cmc_client import Answer, Holder
from tests.support import drive
from tests.unit import cmp_world
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import new_key
from tests.unit.est_world import Session
from tmad.protocols.cmc.responder import CMCResponder
from tmad.storage import tables
from tmad.wire.http import Request, Response

FULL = "application/pkcs7-mime; smime-type=CMC-request"
FULL_RESPONSE = "application/pkcs7-mime; smime-type=CMC-response"
SIMPLE_RESPONSE = "application/pkcs7-mime; smime-type=certs-only"
NONCE = b"a nonce of 16 oc"


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class World(cmp_world.World):
    """The bench with the endpoint cmc/iot, which takes recoverable secrets, beside cmp/iot."""

    def __init__(self, **endpoint: Any) -> None:
        options = {k: endpoint.pop(k) for k in ("algorithm", "database", "clock") if k in endpoint}
        super().__init__(**options)
        self._cmc = {"challenge": {"recoverable": True, "static": True}, **endpoint}
        self.cmc = CMCResponder(self.services)

    async def prepare(self) -> World:
        await super().prepare()
        await self.open("cmc", "iot", **self._cmc)
        return self

    @property
    def services(self) -> Any:
        found = super().services
        found.status = self.status
        return found

    def send(
        self,
        octets: bytes,
        *,
        tail: str = "iot",
        media_type: str = FULL,
        method: str = "POST",
        certificates: Sequence[bytes] = (),
    ) -> Response:
        request = Request(
            method=method,
            path=b"/cmc/" + tail.encode(),
            headers={"content-type": media_type},
            body=octets,
            peer="192.0.2.7",
            tail=tail.encode(),
            tls=Session(tuple(certificates)) if certificates else None,
        )
        return drive(self.cmc.respond(request))

    def ask(self, octets: bytes, **options: Any) -> Answer:
        """Send a full request; return the answer, which has status 200 whatever it says."""
        response = self.send(octets, **options)
        assert response.status == 200, (response.status, response.body)
        answer = Answer(response.body)
        assert response.content_type == (FULL_RESPONSE if answer.is_full else SIMPLE_RESPONSE)
        if answer.is_full:
            purposes = answer.signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            assert x509.ObjectIdentifier("1.3.6.1.5.5.7.3.27") in purposes.value  # id-kp-cmcCA
        return answer

    def known(self, *, endpoint: str = "cmc/iot", **options: Any) -> tuple[str, str]:
        """Return the reference of a fresh one-time secret, and the secret."""
        row, secret = drive(
            self.secrets.create(ADMIN, "default", endpoint, recoverable=True, **options)
        )
        return row.id, secret.reveal().decode()

    def enroll_by_secret(self, common: str = "dev1", **options: Any) -> Holder:
        """Return a holder that was enrolled by an identity proof; the request's key signs."""
        key = options.pop("key", None) or new_key()
        reference, secret = options.pop("known", None) or self.known()
        requests = [client.tcr(1, client.csr(key, name(common), **options))]
        content = client.pki_data(client.proof(reference, secret, requests), requests)
        answer = self.ask(client.signed(content, key=key))
        assert all(each.status == client.SUCCESS for each in answer.told), answer.told
        return Holder(answer.certified(key), key)

    def issued_by_cmc(self) -> int:
        """Return how many certificates came to be over CMC."""
        return drive(self.database.read(_count_issued))

    def authority_holder(self, *, has_purpose: bool = True, label: str = "iot") -> Holder:
        """Return a registration authority of cmc/iot, which is then configured with it."""
        profile = "cmc-ra" if has_purpose else "tls-client"
        options = {"profile": profile, "challenge": {"recoverable": True}}
        drive(self.open("cmc", "ras", **options))
        holder = self.enroll_by_secret_at("ras", "ra1")
        drive(self.open("cmc", label, **{**self._cmc, "registration_authorities": [profile]}))
        return holder

    def enroll_by_secret_at(self, label: str, common: str) -> Holder:
        key = new_key()
        reference, secret = self.known(endpoint=f"cmc/{label}")
        requests = [client.tcr(1, client.csr(key, name(common)))]
        content = client.pki_data(client.proof(reference, secret, requests), requests)
        answer = self.ask(client.signed(content, key=key), tail=label)
        assert all(each.status == client.SUCCESS for each in answer.told), answer.told
        return Holder(answer.certified(key), key)

    def why(self, answer: Answer) -> str:
        """Return the rules that a refusal's explain ids lead to."""
        found = []
        for each in answer.told:
            if "[" in each.text:
                identifier = each.text.rpartition("[")[2].rstrip("]")
                (record,) = drive(self.journal.explain(identifier))
                found.append(record.data)
        return "\n".join(found)


def _count_issued(connection: sa.Connection) -> int:
    t = tables.certificates
    issued = sa.select(sa.func.count()).where(t.c.via == "cmc", t.c.state == "issued")
    return connection.scalar(issued) or 0


def world(**endpoint: Any) -> World:
    """Return a prepared world; ``endpoint`` is of cmc/iot."""
    found = drive(World(**endpoint).prepare())
    assert isinstance(found, World)
    return found
