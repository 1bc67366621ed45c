"""Accounts, orders and authorisations as the JSON that clients read (RFC 8555, 7.1)."""

from __future__ import annotations

import json

from tmad.ca.acme.options import ACMEOptions
from tmad.ca.acme.renewal import RenewalInfo
from tmad.ca.acme.states import Order
from tmad.protocols.acme.addresses import Addresses
from tmad.protocols.acme.codec import error_of, instant
from tmad.protocols.acme.strictjson import Object
from tmad.storage.acme import Account, Authorization


def directory(at: Addresses, options: ACMEOptions) -> Object:
    """Return where everything is (RFC 8555, 7.1.1; RFC 9773, 4.1)."""
    meta: Object = {"externalAccountRequired": options.needs_binding}
    if options.terms_of_service:
        meta["termsOfService"] = options.terms_of_service
    if options.website:
        meta["website"] = options.website
    if options.validation.caa_identities:
        meta["caaIdentities"] = list(options.validation.caa_identities)
    if options.profiles:
        meta["profiles"] = {
            name: choice.description or choice.profile for name, choice in options.profiles.items()
        }
    found = {
        "newNonce": at.operation("new-nonce"),
        "newAccount": at.operation("new-account"),
        "newOrder": at.operation("new-order"),
        "revokeCert": at.operation("revoke-cert"),
        "keyChange": at.operation("key-change"),
        "renewalInfo": at.operation("renewal-info"),
        "meta": meta,
    }
    if options.preauthorization:
        found["newAuthz"] = at.operation("new-authz")
    return found


def account(at: Addresses, found: Account) -> Object:
    """Return an account (RFC 8555, 7.1.2)."""
    answer: Object = {
        "status": found.state,
        "contact": json.loads(found.contacts),
        "orders": at.orders(found.id),
    }
    if found.agreed_at is not None:
        answer["termsOfServiceAgreed"] = True
    if found.binding:
        answer["externalAccountBinding"] = json.loads(found.binding)
    return answer


def order(at: Addresses, found: Order) -> Object:
    """Return an order (RFC 8555, 7.1.3)."""
    row = found.row
    answer: Object = {
        "status": found.state,
        "expires": instant(row.expires_at),
        "identifiers": [{"type": kind, "value": value} for kind, value in row.identifiers],
        "authorizations": [at.authorization(each) for each in row.authorizations],
        "finalize": at.finalize(row.id),
    }
    for member, end in (("notBefore", row.not_before), ("notAfter", row.not_after)):
        if end is not None:
            answer[member] = instant(end)
    if row.profile:
        answer["profile"] = row.profile
    if row.replaces:
        answer["replaces"] = row.replaces
    if found.error is not None:
        answer["error"] = error_of(found.error)
    if found.state == "valid":
        answer["certificate"] = at.certificate(row.id)
    return answer


def authorization(at: Addresses, found: Authorization) -> Object:
    """Return an authorisation with its challenges (RFC 8555, 7.1.4)."""
    answer: Object = {
        "identifier": {"type": found.type, "value": found.value},
        "status": "pending" if found.state == "processing" else found.state,
        "expires": instant(found.expires_at),
        "challenges": [challenge(at, found, kind) for kind in shown_kinds(found)],
    }
    if found.is_wildcard:
        answer["wildcard"] = True
    return answer


def shown_kinds(found: Authorization) -> tuple[str, ...]:
    """Return which challenges are still of interest (RFC 8555, 7.1.4)."""
    if found.challenge is not None and found.state in ("valid", "invalid"):
        return (found.challenge,)
    return found.challenges


def challenge(at: Addresses, found: Authorization, kind: str) -> Object:
    """Return one challenge (RFC 8555, 8)."""
    state = "pending"
    if kind == found.challenge and found.state in ("processing", "valid", "invalid"):
        state = found.state
    answer: Object = {
        "type": kind,
        "url": at.challenge(found.id, kind),
        "status": state,
        "token": found.token,
    }
    if kind == found.challenge:
        if found.validated_at is not None:
            answer["validated"] = instant(found.validated_at)
        if found.error is not None and state != "valid":
            answer["error"] = error_of(json.loads(found.error))
        if found.record is not None and state == "valid":
            answer["validationRecord"] = [json.loads(found.record)]
    return answer


def renewal(found: RenewalInfo) -> Object:
    """Return when to renew (RFC 9773, 4.2)."""
    answer: Object = {"suggestedWindow": {"start": instant(found.start), "end": instant(found.end)}}
    if found.explanation:
        answer["explanationURL"] = found.explanation
    return answer
