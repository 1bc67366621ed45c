"""What the pipeline believes an ACME account about an order: read anew, and while it issues.

RFC 8555, 7.4. Every authorisation of the order counts, not the first of them (T-ACME-01), and
account, enrolment secret and person still stand behind it (T-ACME-08).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from cryptography import x509

from tmad.ca.acme import identifiers
from tmad.ca.acme.faults import deny, for_each
from tmad.ca.validation.contract import Identifier
from tmad.ca.validity import Ends
from tmad.errors import Fault, FaultCode
from tmad.identity.binding import Binding
from tmad.identity.naming import person_key
from tmad.storage import acme as rows
from tmad.storage import enroll_secrets, people
from tmad.storage.acme import Account, Authorization, OrderRow
from tmad.storage.enroll_secrets import EnrollSecret

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tmad.ca.acme.options import ACMEOptions
    from tmad.ca.endpoint import Endpoint

_NOBODY = Binding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An account that may act now, and what the secret that bound it is good for."""

    account: Account
    secret: EnrollSecret | None
    binding: Binding

    def check(self, wanted: Iterable[Identifier], profile: str) -> None:
        """Raise Fault(REJECTED) for identifiers or a profile that the account may not have."""
        for_each(wanted, lambda each: self._check(each, profile))

    def _check(self, wanted: Identifier, profile: str) -> None:
        violation = self.binding.violation(
            x509.Name([]), (identifiers.general_name(wanted),), profile
        )
        if violation is not None:
            rule, value = violation
            raise deny(
                FaultCode.REJECTED,
                "rejectedIdentifier",
                "the account's enrolment secret is not for this",
                "acme.binding",
                limit=rule,
                asked=value,
                identifier=f"{wanted.type}:{wanted.value}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What an order is good for: exactly these identifiers, for one certificate."""

    standing: Standing
    order: OrderRow
    keys: frozenset[bytes]  # SHA-256 of the keys that devices attested; empty: any key

    @property
    def name(self) -> str:
        """Return who asks, as the journal names it."""
        return f"acme:{self.order.account}"

    @property
    def person(self) -> str:
        """Return the person that the account was bound to, or an empty text."""
        return self.standing.binding.person

    @property
    def ends(self) -> Ends | None:
        """Return from when to when the certificate is wanted, if the order says."""
        return ends_of(self.order)

    def profile(self, endpoint: Endpoint) -> str:
        """Return the name of the profile that the order chose; Fault when it is not offered."""
        return profile_of(endpoint, self.order.profile)

    def check_request(
        self, subject: x509.Name, names: Iterable[x509.GeneralName], spki_der: bytes
    ) -> None:
        """Raise Fault(REJECTED) unless a request is for all that was ordered and nothing else."""
        ordered = _ordered(self.order)
        asked = identifiers.named(subject, names, ordered)
        if asked != ordered:
            raise deny(
                FaultCode.REJECTED,
                "badCSR",
                "the request leaves out names of the order",
                "acme.names",
                missing=", ".join(sorted(each.value for each in ordered - asked)),
            )
        digest = sha256(spki_der).digest()
        if self.keys and self.keys != {digest}:
            raise deny(
                FaultCode.REJECTED,
                "badCSR",
                "the device has attested another key",
                "acme.attested-key",
                spki_sha256=digest.hex(),
            )
        if digest == sha256(self.standing.account.key).digest():
            # RFC 8555, 11.1: whoever gets the one key must not have the other.
            raise deny(
                FaultCode.REJECTED,
                "badCSR",
                "the key is the account's own",
                "acme.account-key",
                spki_sha256=digest.hex(),
            )

    def check_certificate(self, names: Iterable[x509.GeneralName], profile: str) -> None:
        """Raise Fault(REJECTED) unless what will be certified was ordered."""
        ordered = _ordered(self.order)
        identifiers.named(x509.Name([]), names, ordered)
        self.standing.check(ordered, profile)

    def check_again(self, connection: Connection, now: datetime) -> None:
        """Raise the Fault of :func:`read` where something has changed since it was decided."""
        read(
            connection,
            self.order.endpoint,
            self.order.account,
            self.order.id,
            now,
            is_claimed=True,
        )


def profile_of(endpoint: Endpoint, chosen: str) -> str:
    """Return which profile a name in the directory stands for; "" for the endpoint's own."""
    options = cast("ACMEOptions", endpoint.options)
    if not chosen and not options.profiles:
        return endpoint.document.profile
    choice = options.profiles.get(chosen or options.default_profile)
    if choice is None:
        raise deny(
            FaultCode.REJECTED,
            "invalidProfile",
            "this profile is not offered here",
            "acme.profile",
            profile=chosen,
            offered=", ".join(options.profiles),
        )
    return choice.profile


def ends_of(order: OrderRow) -> Ends | None:
    """Return the period that an order wants, None where it leaves that to the profile."""
    if order.not_before is None and order.not_after is None:
        return None
    return Ends(not_before=order.not_before, not_after=order.not_after, asked_at=order.created_at)


def claim(connection: Connection, wanted: Sequence[tuple[Control, str]], now: datetime) -> None:
    """Use each order for a request, in its transaction, if it all still holds.

    What does not hold for one of them fails for all.
    """
    orders = rows.orders_by_id(connection, [control.order.id for control, _ in wanted])
    named = [each for order in orders.values() for each in order.authorizations]
    authorizations = rows.authorizations_by_id(connection, named) if named else {}
    standing: dict[tuple[str, str], Standing] = {}
    for control, _ in wanted:
        owner = control.order.endpoint, control.order.account
        if owner not in standing:
            standing[owner] = stand(connection, *owner, now)
        order = orders.get(control.order.id)
        if order is not None and _owner(order) != owner:
            order = None
        found = [authorizations.get(each) for each in (order.authorizations if order else ())]
        _judge(
            standing[owner],
            control.order.id,
            order,
            [each if each and _owner(each) == owner else None for each in found],
            now,
        )
    if rows.claim_orders(connection, [(c.order.id, request) for c, request in wanted]) < len(
        wanted
    ):
        raise _used(wanted[0][0].order.id)


def _owner(found: OrderRow | Authorization) -> tuple[str, str]:
    return found.endpoint, found.account


def release(connection: Connection, order_id: str, request_id: str) -> None:
    """Give an order back whose request has failed."""
    rows.release_order(connection, order_id, request_id)


def stand(connection: Connection, endpoint: str, account_id: str, now: datetime) -> Standing:
    """Return an account that may act; Fault(UNAUTHENTICATED) with the reason why it may not."""
    account = rows.account_by_id(connection, endpoint, account_id)
    if account is None:
        raise deny(
            FaultCode.UNAUTHENTICATED,
            "accountDoesNotExist",
            "there is no such account",
            "acme.account.absent",
            account=account_id,
        )
    return standing_of(connection, account, now)


def standing_of(connection: Connection, account: Account, now: datetime) -> Standing:
    """Return what stands behind an account; Fault as :func:`stand`."""
    if account.state != "valid":
        raise _gone("the account is " + account.state, "acme.account.state", account)
    if account.secret_id is None:
        return Standing(account=account, secret=None, binding=_NOBODY)
    secret = enroll_secrets.by_id(connection, account.tenant, account.secret_id)
    if secret is None or secret.revoked_at is not None:
        raise _gone("the account's enrolment secret was revoked", "acme.account.secret", account)
    binding = Binding.model_validate_json(secret.bound_to)
    if binding.person:
        person = people.by_name(connection, account.tenant, person_key(binding.person))
        if person is None or not person.is_usable(now):
            raise _gone(
                "the person behind the account is gone or disabled",
                "acme.account.person",
                account,
                person=binding.person,
            )
    return Standing(account=account, secret=secret, binding=binding)


def read(
    connection: Connection,
    endpoint: str,
    account_id: str,
    order_id: str,
    now: datetime,
    *,
    is_claimed: bool = False,
) -> Control:
    """Return what an order is good for; Fault where anything of it does not hold now.

    ``is_claimed`` allows for the time in which a person decides: the order itself cannot expire
    any more, what it stands on can.
    """
    standing = stand(connection, endpoint, account_id, now)
    order = rows.order_by_id(connection, endpoint, account_id, order_id)
    found = rows.authorizations_of_order(connection, order) if order else ()
    return _judge(standing, order_id, order, found, now, is_claimed=is_claimed)


def _judge(
    standing: Standing,
    order_id: str,
    order: OrderRow | None,
    found: Sequence[Authorization | None],
    now: datetime,
    *,
    is_claimed: bool = False,
) -> Control:
    if order is None:
        raise _not_ready("there is no such order", "absent", order_id)
    if order.error is not None:
        raise _not_ready("the order has failed", "invalid", order_id)
    if not is_claimed:
        if order.request_id is not None:
            raise _used(order_id)
        if order.expires_at <= now:
            raise _not_ready("the order has expired", "expired", order_id)
    _check_all(order, found, now)
    attested = frozenset(each.attested_key for each in found if each and each.attested_key)
    return Control(standing=standing, order=order, keys=attested)


def _check_all(order: OrderRow, found: Sequence[Authorization | None], now: datetime) -> None:
    """Raise Fault(FORBIDDEN) unless there is a good authorisation for each of the names."""
    shown = set()
    for each in found:
        if each is None or each.state != "valid" or each.expires_at <= now:
            state = "absent" if each is None else each.state
            raise _not_ready(
                "a name of the order is not authorised",
                "expired" if state == "valid" else state,
                order.id,
                name="" if each is None else each.value,
            )
        shown.add((Identifier(each.type, each.value), each.is_wildcard))
    wanted = {identifiers.split(each) for each in _ordered(order)}
    if shown != wanted or not wanted:
        raise _not_ready("a name of the order is not authorised", "absent", order.id)


def _ordered(order: OrderRow) -> frozenset[Identifier]:
    return frozenset(Identifier(kind, value) for kind, value in order.identifiers)


def _not_ready(detail: str, state: str, order_id: str, **values: str) -> Fault:
    return deny(
        FaultCode.FORBIDDEN,
        "orderNotReady",
        detail,
        "acme.order.state",
        state=state,
        order=order_id,
        **values,
    )


def _used(order_id: str) -> Fault:
    return deny(
        FaultCode.FORBIDDEN,
        "orderNotReady",
        "the order was used for another request",
        "acme.order.used",
        order=order_id,
    )


def _gone(detail: str, rule: str, account: Account, **values: str) -> Fault:
    return deny(
        FaultCode.UNAUTHENTICATED, "unauthorized", detail, rule, account=account.id, **values
    )
