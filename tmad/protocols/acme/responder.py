"""ACME: from a request to its answer (RFC 8555, 6 and 7; RFC 9773)."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from tmad.ca.acme.accounts import AccountKey, ExternalBinding, NewAccount
from tmad.ca.acme.orders import PAGE, NewOrder
from tmad.ca.acme.states import Order
from tmad.ca.endpoint import journal_refusal
from tmad.ca.requests import (
    DomainControl,
    EndpointID,
    EnrollmentRequest,
    Pending,
    Proof,
)
from tmad.errors import Fault, FaultCode
from tmad.protocols.acme import answers, codec, jws
from tmad.protocols.acme.addresses import Addresses
from tmad.protocols.acme.chains import Chains
from tmad.protocols.acme.strictjson import Object, encode, malformed
from tmad.protocols.acme.visit import Signed, Visit, authenticate
from tmad.wire import csr
from tmad.wire.http import Request, Response
from tmad.wire.signatures import Policy

if TYPE_CHECKING:
    from tmad.plugin import Services

_POLICY: Final = Policy()
_NO_STORE: Final = ("Cache-Control", "no-store")
_GRACE: Final = 10  # seconds after which to come again, where a Fault does not say
# What an order's request may say of its subject; the rest of it nobody has shown (RFC 8555, 7.4).
_SUBJECT: Final = frozenset({NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER})

_NOT_JOURNALED: Final = frozenset({"acme.nonce", "acme.message", "acme.content-type"})

_Get: TypeAlias = Callable[[Visit, str], Awaitable[Response]]
_Post: TypeAlias = Callable[[Signed, str], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Operation:
    """What answers at an address: below it, there may be ``parts`` more segments."""

    answer: _Post
    by_jwk: bool = False
    by_kid: bool = True
    parts: tuple[int, ...] = (1,)


class ACMEResponder:
    """Answers every ACME operation at every endpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._acme = services.acme
        self._chains = Chains(services)
        # Allow-lists: what is in neither does not exist.
        self._gets: dict[str, _Get] = {
            "directory": self._directory,
            "new-nonce": self._new_nonce,
            "renewal-info": self._renewal_info,
        }
        self._posts: dict[str, _Operation] = {
            "new-account": _Operation(self._new_account, by_jwk=True, by_kid=False, parts=(0,)),
            "new-order": _Operation(self._new_order, parts=(0,)),
            "new-authz": _Operation(self._new_authorization, parts=(0,)),
            "revoke-cert": _Operation(self._revoke, by_jwk=True, parts=(0,)),
            "key-change": _Operation(self._change_key, parts=(0,)),
            "account": _Operation(self._account),
            "orders": _Operation(self._orders, parts=(1, 2)),
            "order": _Operation(self._order),
            "finalize": _Operation(self._finalize),
            "authz": _Operation(self._authorization),
            "challenge": _Operation(self._challenge, parts=(2,)),
            "certificate": _Operation(self._certificate, parts=(1, 2)),
        }

    async def respond(self, request: Request) -> Response:
        """Answer below /acme/: LABEL/OPERATION[/ID …]."""
        try:
            label, _, rest = request.tail.strip(b"/").decode("ascii").partition("/")
            endpoint = await self._services.endpoints.by_id(EndpointID("acme", label))
        except UnicodeDecodeError:
            return Response(status=404, body=b"there is nothing here\n")
        except Fault as fault:
            return _refusal(fault)
        visit = Visit(
            request=request,
            endpoint=endpoint,
            at=Addresses(f"{self._acme.base_url}/{endpoint.id}"),
        )
        name, _, inside = rest.partition("/")
        try:
            answer = await self._dispatch(visit, name, inside)
        except Fault as fault:
            await self._journal(visit, name, fault)
            answer = _refusal(fault)
            if fault.rule == "acme.content-type":
                answer.status = 415  # RFC 8555, 6.2
        return self._dress(visit, name, answer)

    async def _dispatch(self, visit: Visit, name: str, inside: str) -> Response:
        if name in self._gets:
            if visit.request.method != "GET":
                return _not_allowed("GET")
            return await self._gets[name](visit, inside)
        operation = self._posts.get(name)
        parts = inside.count("/") + 1 if inside else 0
        if operation is None or parts not in operation.parts:
            raise Fault(
                FaultCode.NOT_FOUND,
                "there is nothing here",
                rule="acme.absent",
                values={"what": name[:40]},
            )
        if visit.request.method != "POST":
            # RFC 8555, 6.3: resources are fetched by POST-as-GET.
            return _not_allowed("POST")
        signed = await authenticate(
            visit,
            self._services,
            by_jwk=operation.by_jwk,
            by_kid=operation.by_kid,
            url=visit.at.operation(f"{name}/{inside}" if inside else name),
        )
        return await operation.answer(signed, inside)

    def _dress(self, visit: Visit, name: str, answer: Response) -> Response:
        """Add what each answer has: the way to the directory, and a nonce (RFC 8555, 6.5, 7.1)."""
        headers = answer.headers
        if name != "directory":
            headers += (("Link", f'<{visit.at.directory}>;rel="index"'),)
        if visit.request.method == "POST":
            headers += (("Replay-Nonce", self._acme.nonces.make()), _NO_STORE)
        answer.headers = headers
        return answer

    async def _journal(self, visit: Visit, operation: str, fault: Fault) -> None:
        """Write down a refusal that the core has not written down itself.

        Not what is no message at all, with which anybody could fill a journal, nor a nonce that
        has become too old: clients run into that each day.
        """
        if fault.code is FaultCode.UNAVAILABLE or fault.rule in _NOT_JOURNALED:
            return
        await journal_refusal(
            self._services.journal,
            visit.endpoint,
            fault,
            peer=visit.request.peer,
            operation=operation[:40],
        )

    # -- without a signature

    async def _directory(self, visit: Visit, inside: str) -> Response:
        return _json(answers.directory(visit.at, visit.options))

    async def _new_nonce(self, visit: Visit, inside: str) -> Response:
        headers = (("Replay-Nonce", self._acme.nonces.make()), _NO_STORE)
        # RFC 8555, 7.2
        status = 200 if visit.request.is_head else 204
        return Response(status=status, headers=headers, content_type="")

    async def _renewal_info(self, visit: Visit, inside: str) -> Response:
        found = await self._acme.renewals.info(visit.endpoint, inside)
        return _json(answers.renewal(found), headers=(("Retry-After", str(found.retry_after)),))

    # -- accounts

    async def _new_account(self, signed: Signed, inside: str) -> Response:
        visit = signed.visit
        asked = codec.decode_account(signed.payload, signed.message)
        binding = None
        if asked.binding is not None:
            inner = asked.binding
            binding = ExternalBinding(
                reference=inner.kid,
                verify=lambda secret: jws.is_mac_of(inner, secret),
                text=asked.binding_text,
            )
        account, is_new = await self._acme.accounts.register(
            visit.endpoint,
            NewAccount(
                key=AccountKey(spki_der=signed.key.spki_der, thumbprint=signed.key.thumbprint),
                contacts=asked.contacts,
                agrees=asked.agrees,
                only_existing=asked.only_existing,
                binding=binding,
                peer=visit.request.peer,
            ),
        )
        return _json(
            answers.account(visit.at, account),
            status=201 if is_new else 200,
            headers=(("Location", visit.at.account(account.id)),),
        )

    async def _account(self, signed: Signed, inside: str) -> Response:
        account = signed.account
        if inside != account.id:
            raise _not_yours("account")
        if not signed.is_get:
            change = codec.decode_update(signed.payload)
            if change.deactivate:
                account = await self._acme.accounts.deactivate(account)
            elif change.contacts is not None:
                account = await self._acme.accounts.update(account, change.contacts)
        return _json(answers.account(signed.visit.at, account))

    async def _orders(self, signed: Signed, inside: str) -> Response:
        owner, _, before = inside.partition("/")
        if owner != signed.account.id:
            raise _not_yours("account")
        _expect_get(signed)
        at = signed.visit.at
        found = await self._acme.orders.of_account(owner, before)
        headers: tuple[tuple[str, str], ...] = ()
        if len(found) > PAGE:
            # RFC 8555, 7.1.2.1
            headers = (("Link", f'<{at.orders(owner)}/{found[PAGE - 1].id}>;rel="next"'),)
        return _json({"orders": [at.order(each.id) for each in found[:PAGE]]}, headers=headers)

    async def _change_key(self, signed: Signed, inside: str) -> Response:
        visit, account = signed.visit, signed.account
        change = codec.decode_key_change(signed.payload, signed.message)
        new = change.inner.jwk
        assert new is not None, "an inner message that is no MAC has a jwk"
        jws.verify(change.inner, new.key)
        if change.account != visit.at.account(account.id):
            raise malformed("the inner message is about another account")
        if change.old_thumbprint != account.thumbprint:
            raise malformed("oldKey is not the account's key")
        taken = await self._acme.accounts.of_key(visit.endpoint, new.thumbprint)
        if taken is not None:
            return self._key_in_use(visit, taken.id)
        key = AccountKey(spki_der=new.spki_der, thumbprint=new.thumbprint)
        account = await self._acme.accounts.change_key(visit.endpoint, account, key)
        return _json(answers.account(visit.at, account))

    def _key_in_use(self, visit: Visit, account_id: str) -> Response:
        # RFC 8555, 7.3.5
        answer = _refusal(
            Fault(
                FaultCode.CONFLICT, "another account has this key", rule="acme.account.key-in-use"
            )
        )
        answer.headers += (("Location", visit.at.account(account_id)),)
        return answer

    # -- orders

    async def _new_order(self, signed: Signed, inside: str) -> Response:
        visit = signed.visit
        asked = codec.decode_order(signed.payload)
        found = await self._acme.orders.create(
            visit.endpoint,
            signed.known,
            NewOrder(
                identifiers=asked.identifiers,
                profile=asked.profile,
                not_before=asked.not_before,
                not_after=asked.not_after,
                replaces=asked.replaces,
            ),
        )
        return self._show(visit, found, status=201)

    async def _order(self, signed: Signed, inside: str) -> Response:
        _expect_get(signed)
        found = await self._acme.orders.find(signed.visit.endpoint, signed.account.id, inside)
        return self._show(signed.visit, found)

    def _show(self, visit: Visit, found: Order, *, status: int = 200) -> Response:
        # Go's client takes the order's address from the answer to finalize as well (ACME-36).
        headers: tuple[tuple[str, str], ...] = (("Location", visit.at.order(found.row.id)),)
        if found.state == "processing":
            headers += (("Retry-After", str(visit.options.retry_after)),)
        return _json(answers.order(visit.at, found), status=status, headers=headers)

    async def _finalize(self, signed: Signed, inside: str) -> Response:
        visit, account = signed.visit, signed.account
        request_der = codec.decode_finalize(signed.payload)
        order = await self._acme.orders.find(visit.endpoint, account.id, inside)
        if order.state != "ready":
            raise Fault(
                FaultCode.FORBIDDEN,
                f"the order is {order.state}, not ready",
                rule="acme.order.state",
                values={"problem": "orderNotReady", "state": order.state, "order": inside},
            )
        request = csr.decode(request_der, _POLICY)
        await self._acme.validations.check_again(visit.endpoint, order.row)
        outcome = await self._services.authority.enroll(
            EnrollmentRequest(
                via="acme",
                endpoint=visit.endpoint.id,
                public_key=request.public_key,
                subject=_proposed(request.subject),
                names=request.names,
                wanted=request.wanted,
                proof=Proof.CSR_SIGNATURE,
                credential=DomainControl(account=account.id, order=inside),
                transaction=inside,
                peer=visit.request.peer,
                selector=order.row.profile,
                evidence=request.der,
            )
        )
        if isinstance(outcome, Pending):
            return self._show(
                visit, replace(order, state="processing", request_id=outcome.request_id)
            )
        return self._show(
            visit, replace(order, state="valid", certificate_id=outcome.certificate_id)
        )

    async def _certificate(self, signed: Signed, inside: str) -> Response:
        _expect_get(signed)
        visit = signed.visit
        order_id, _, number = inside.partition("/")
        order = await self._acme.orders.find(visit.endpoint, signed.account.id, order_id)
        return await self._chains.answer(visit, order, number)

    # -- authorisations

    async def _new_authorization(self, signed: Signed, inside: str) -> Response:
        visit = signed.visit
        if not visit.options.preauthorization:
            raise Fault(
                FaultCode.NOT_FOUND,
                "names are authorised when they are ordered",
                rule="acme.absent",
                values={"what": "new-authz"},
            )
        kind, value = codec.decode_authorization(signed.payload)
        found = await self._acme.orders.preauthorize(visit.endpoint, signed.known, kind, value)
        return _json(
            answers.authorization(visit.at, found),
            status=201,
            headers=(("Location", visit.at.authorization(found.id)),),
        )

    async def _authorization(self, signed: Signed, inside: str) -> Response:
        visit = signed.visit
        orders = self._acme.orders
        found = await orders.authorization(visit.endpoint, signed.account.id, inside)
        if not signed.is_get:
            codec.decode_deactivation(signed.payload)
            found = await orders.deactivate(found)
        headers: tuple[tuple[str, str], ...] = ()
        if found.state == "processing":
            headers = (("Retry-After", str(visit.options.retry_after)),)
        return _json(answers.authorization(visit.at, found), headers=headers)

    async def _challenge(self, signed: Signed, inside: str) -> Response:
        visit = signed.visit
        authorization_id, _, kind = inside.partition("/")
        orders = self._acme.orders
        found = await orders.authorization(visit.endpoint, signed.account.id, authorization_id)
        if not signed.is_get:
            codec.decode_payload(signed.message)  # an object it must be
            found = await self._acme.validations.begin(found, kind, signed.message.payload)
        elif kind not in found.challenges:
            raise _not_yours("challenge")
        headers: tuple[tuple[str, str], ...] = (
            ("Link", f'<{visit.at.authorization(found.id)}>;rel="up"'),
        )
        if found.state == "processing":
            headers += (("Retry-After", str(visit.options.retry_after)),)
        return _json(answers.challenge(visit.at, found, kind), headers=headers)

    # -- revocation

    async def _revoke(self, signed: Signed, inside: str) -> Response:
        endpoint = signed.visit.endpoint
        asked = codec.decode_revocation(signed.payload)
        revoking = self._acme.revoking
        if signed.standing is not None:
            await revoking.by_account(endpoint, signed.standing, asked.certificate, asked.reason)
        else:
            key_der = signed.key.spki_der
            await revoking.by_key(endpoint, key_der, asked.certificate, asked.reason)
        return Response(status=200, content_type="")


def _proposed(subject: x509.Name) -> x509.Name:
    """Return what of a subject an order can be about; the rest is dropped."""
    kept = [each for each in subject if each.oid in _SUBJECT]
    return subject if len(kept) == len(list(subject)) else x509.Name(kept)


def _expect_get(signed: Signed) -> None:
    if not signed.is_get:
        raise malformed("this is fetched with an empty payload (POST-as-GET)")


def _not_yours(what: str) -> Fault:
    """Return the answer for what belongs to others: the one for what does not exist."""
    return Fault(
        FaultCode.NOT_FOUND,
        f"there is no such {what}",
        rule="acme.absent",
        values={"problem": "malformed", "what": what},
    )


def _json(
    value: Object, *, status: int = 200, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    return Response(status=status, headers=headers, body=encode(value), content_type=codec.JSON)


def _not_allowed(method: str) -> Response:
    body: Object = {
        "type": codec.NAMESPACE + "malformed",
        "detail": f"this is reached by {method} only",
        "status": 405,
    }
    return Response(
        status=405, headers=(("Allow", method),), body=encode(body), content_type=codec.PROBLEM
    )


def _refusal(fault: Fault) -> Response:
    status, body = codec.problem(fault)
    headers: tuple[tuple[str, str], ...] = ()
    if fault.retry_after is not None or status == 503:
        headers = (("Retry-After", str(math.ceil(fault.retry_after or _GRACE))),)
    return Response(status=status, headers=headers, body=encode(body), content_type=codec.PROBLEM)
