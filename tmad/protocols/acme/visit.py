"""One signed request: who sent it, and that it is not a copy (RFC 8555, 6.2 to 6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tmad.ca.acme.control import Standing
from tmad.ca.acme.options import ACMEOptions
from tmad.errors import Fault, FaultCode
from tmad.protocols.acme import codec, jws
from tmad.protocols.acme.addresses import Addresses
from tmad.protocols.acme.jws import JWK, JWS
from tmad.protocols.acme.strictjson import Object, malformed
from tmad.storage.acme import Account
from tmad.wire.http import Request

if TYPE_CHECKING:
    from tmad.ca.endpoint import Endpoint
    from tmad.plugin import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request at one endpoint."""

    request: Request
    endpoint: Endpoint
    at: Addresses

    @property
    def options(self) -> ACMEOptions:
        return cast("ACMEOptions", self.endpoint.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A message that was signed just now: by the key in it, or by an account's."""

    visit: Visit
    message: JWS
    standing: Standing | None

    @property
    def account(self) -> Account:
        """Return the account that signed."""
        return self.known.account

    @property
    def known(self) -> Standing:
        """Return the account that signed, and what stands behind it."""
        assert self.standing is not None, "the operation asks for a kid"
        return self.standing

    @property
    def key(self) -> JWK:
        """Return the key that came with the message."""
        assert self.message.jwk is not None, "the operation asks for a jwk"
        return self.message.jwk

    @property
    def is_get(self) -> bool:
        """Tell a POST-as-GET: its payload is empty, which ``{}`` is not (RFC 8555, 6.3)."""
        return not self.message.payload

    @property
    def payload(self) -> Object:
        """Return the object that was sent."""
        return codec.decode_payload(self.message)


async def authenticate(
    visit: Visit, services: Services, *, by_jwk: bool, by_kid: bool, url: str
) -> Signed:
    """Return the message of a POST, whose sender and newness are certain.

    ``url`` is the address that it must have been signed for. The signature is checked first:
    strangers must not use up nonces (ACME-09).
    """
    kind = visit.request.headers.get("content-type", "")
    if kind.split(";")[0].strip().lower() != codec.JOSE:
        raise Fault(
            FaultCode.UNSUPPORTED,
            f"the content type must be {codec.JOSE}",
            rule="acme.content-type",
            values={"problem": "malformed", "type": kind[:100]},
        )
    message = jws.decode(visit.request.body)
    if message.jwk is not None and not by_jwk:
        raise malformed("this message is signed by an account: with kid, not with jwk")
    if message.jwk is None and not by_kid:
        raise malformed("this message is signed by a key of its own: with jwk, not with kid")
    account = None
    if message.jwk is not None:
        jws.verify(message, message.jwk.key)
    else:
        account = await _account(visit, services, message)
        jws.verify(message, jws.load_key(account.key))
    if message.url != url:
        # RFC 8555, 6.4
        raise Fault(
            FaultCode.UNAUTHENTICATED,
            "the message was signed for another address",
            rule="acme.url",
            values={"problem": "unauthorized", "url": message.url[:300], "expected": url[:300]},
        )
    assert message.nonce is not None, "jws.decode has seen to it"
    await services.acme.nonces.use(message.nonce)
    standing = None if account is None else await services.acme.accounts.stand(account)
    return Signed(visit=visit, message=message, standing=standing)


async def _account(visit: Visit, services: Services, message: JWS) -> Account:
    account_id = visit.at.account_id(message.kid)
    if account_id is None:
        raise malformed("kid is not the address of an account of this directory")
    return await services.acme.accounts.find(visit.endpoint, account_id)
