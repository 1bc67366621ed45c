"""Certificates as they are fetched: with one way up, or another (RFC 8555, 7.4.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.acme.states import Order
from tmad.errors import Fault, FaultCode
from tmad.protocols.acme import codec
from tmad.protocols.acme.visit import Visit
from tmad.wire import parsing
from tmad.wire.http import Response
from tmad.wire.pem import armour

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Issuer
    from tmad.plugin import Services


class Chains:
    """Answers with certificates."""

    def __init__(self, services: Services) -> None:
        self._acme = services.acme
        self._hierarchy = services.hierarchy

    async def answer(self, visit: Visit, order: Order, number: str) -> Response:
        """Return an order's certificate; ``number`` "" is the chain of the hierarchy."""
        if order.state != "valid":
            raise _absent()
        certificate_der, issuer_id = await self._acme.orders.certificate(order)
        issuer = await self._hierarchy.by_id(issuer_id)
        if codec.PKIX_CERT in visit.request.headers.get("accept", ""):
            return self._alone(certificate_der, issuer)
        chains = [_without_root(issuer.chain), *_alternates(visit, issuer)]
        chosen = int(number) if number.isascii() and number.isdigit() and len(number) < 3 else 0
        if number and not 1 <= chosen < len(chains):
            raise _absent()
        headers = tuple(
            ("Link", f'<{visit.at.certificate(order.row.id, each)}>;rel="alternate"')
            for each in range(len(chains))
            if each != chosen
        )
        body = armour("CERTIFICATE", certificate_der) + _pem_above(chains[chosen])
        return Response(headers=headers, body=body, content_type=codec.PEM_CHAIN)

    def _alone(self, certificate_der: bytes, issuer: Issuer) -> Response:
        above = self._hierarchy.urls(issuer).ca_issuers
        return Response(
            headers=(("Link", f'<{above}>;rel="up"'),) if above else (),
            body=certificate_der,
            content_type=codec.PKIX_CERT,
        )


@lru_cache(100)
def _pem_above(chain: tuple[x509.Certificate, ...]) -> bytes:
    """Return what stands below each of an issuer's certificates."""
    return b"".join([armour("CERTIFICATE", each.public_bytes(Encoding.DER)) for each in chain])


@lru_cache(100)
def _without_root(chain: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    # RFC 8555, 9.1: whoever trusts the root has it. But below a root alone it is all there is
    # above, and certbot takes no chain of one.
    return tuple(each for each in chain if each.issuer != each.subject) or chain


def _alternates(visit: Visit, issuer: Issuer) -> list[tuple[x509.Certificate, ...]]:
    """Return the configured chains that begin with the issuer's own name and key."""
    if not visit.options.alternate_chains:
        return []
    own = issuer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = []
    for text in visit.options.alternate_chains:
        chain = parsing.certificates(text.encode())
        first = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if first == own and chain[0].subject.public_bytes() == issuer.subject_der:
            found.append(_without_root(chain))
    return found


def _absent() -> Fault:
    return Fault(
        FaultCode.NOT_FOUND,
        "there is no such certificate",
        rule="acme.absent",
        values={"problem": "malformed", "what": "certificate"},
    )
