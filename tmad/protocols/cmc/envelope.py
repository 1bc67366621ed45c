"""Requests that are encrypted to an endpoint's own RSA key (RFC 10002, 5)."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from tmad.protocols.cmc import codec, layers
from tmad.protocols.cmc.layers import Enveloped
from tmad.wire import cms, envelopes
from tmad.wire.envelopes import EnvelopedData, KeyTransport
from tmad.wire.signatures import Policy

if TYPE_CHECKING:
    from tmad.plugin import Services
    from tmad.protocols.cmc.visit import Visit
    from tmad.wire.cms import Random


class Envelopes:
    """Opens envelopes."""

    def __init__(self, services: Services, random: Random = os.urandom) -> None:
        self._services = services
        self._random = random

    async def open(self, visit: Visit, envelope: Enveloped) -> bytes:
        """Return the ContentInfo inside; one Fault(BAD_INTEGRITY) for all that goes wrong."""
        if not visit.options.envelopes:
            raise codec.bad_request("encrypted requests are not served here", "cmc.envelope.off")
        enveloped = envelopes.decode(envelope.der)
        for own in await self._services.service_certificates.valid("scep-ra", visit.door):
            own_der = own.certificate.public_bytes(Encoding.DER)
            for recipient in enveloped.recipients:
                if cms.identifies(recipient.identifier, own_der):
                    opening = partial(self._open, enveloped, recipient, visit.options.policy)
                    content = await self._services.keyring.use(own.key_id, opening)
                    return layers.within_envelope(enveloped.content_type, content)
        raise envelopes.cannot_open("no recipient is a key of this endpoint")

    def _open(
        self,
        enveloped: EnvelopedData,
        recipient: KeyTransport,
        policy: Policy,
        key: PrivateKeyTypes,
    ) -> bytes:
        return envelopes.open_envelope(
            cast("rsa.RSAPrivateKey", key),
            enveloped,
            recipient,
            policy=policy,
            random=self._random,
        )
