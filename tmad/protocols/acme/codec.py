"""Objects of ACME: what clients ask for, and what they are answered (RFC 8555, 7 and 8)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509

from tmad.ca.acme.faults import Several
from tmad.errors import Fault, FaultCode
from tmad.protocols.acme import jws
from tmad.protocols.acme.jws import JWS
from tmad.protocols.acme.strictjson import Object, encode, malformed, parse_object, unpack
from tmad.wire import parsing

JOSE: Final = "application/jose+json"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
PEM_CHAIN: Final = "application/pem-certificate-chain"
PKIX_CERT: Final = "application/pkix-cert"

NAMESPACE: Final = "urn:ietf:params:acme:error:"

# RFC 8555, 6.7; RFC 9773, 7.4; the drafts of profiles and of device attestation.
PROBLEMS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "accountDoesNotExist": 400,
        "alreadyReplaced": 409,
        "alreadyRevoked": 400,
        "badAttestationStatement": 400,
        "badCSR": 400,
        "badNonce": 400,
        "badPublicKey": 400,
        "badRevocationReason": 400,
        "badSignatureAlgorithm": 400,
        "caa": 403,
        "compound": 400,
        "connection": 400,
        "dns": 400,
        "externalAccountRequired": 403,
        "incorrectResponse": 400,
        "invalidContact": 400,
        "invalidProfile": 400,
        "malformed": 400,
        "orderNotReady": 403,
        "rateLimited": 429,
        "rejectedIdentifier": 400,
        "serverInternal": 500,
        "tls": 400,
        "unauthorized": 403,
        "unsupportedContact": 400,
        "unsupportedIdentifier": 400,
        "userActionRequired": 403,
    }
)
# The core's codes: status, and the problem where no rule says a better one.
FAULTS: Final[Mapping[FaultCode, tuple[int, str]]] = MappingProxyType(
    {
        FaultCode.MALFORMED: (400, "malformed"),
        FaultCode.UNSUPPORTED: (400, "malformed"),
        FaultCode.BAD_ALGORITHM: (400, "badSignatureAlgorithm"),
        FaultCode.BAD_INTEGRITY: (400, "malformed"),
        FaultCode.BAD_TIME: (400, "malformed"),
        FaultCode.BAD_PROOF: (400, "badCSR"),
        FaultCode.UNAUTHENTICATED: (401, "unauthorized"),
        FaultCode.FORBIDDEN: (403, "unauthorized"),
        FaultCode.REJECTED: (403, "unauthorized"),
        FaultCode.NOT_FOUND: (404, "malformed"),
        FaultCode.CONFLICT: (409, "malformed"),
        FaultCode.RATE_LIMITED: (429, "rateLimited"),
        FaultCode.UNAVAILABLE: (503, "serverInternal"),
        FaultCode.INTERNAL: (500, "serverInternal"),
    }
)
# What these mean depends on who asked: the core's code says the status.
_BY_CODE: Final = frozenset({"unauthorized", "malformed", "serverInternal"})
# Rules of the core that every protocol shares, the longer before those that they begin with.
_RULES: Final = (
    ("profile.names", "rejectedIdentifier"),
    ("profile.validity.", "malformed"),
    ("profile.", "badCSR"),
    ("name.", "rejectedIdentifier"),
    ("constraints.", "rejectedIdentifier"),
    ("wire.csr", "badCSR"),
    ("wire.", "badCSR"),
    ("key.", "badCSR"),
    ("request.proof", "badCSR"),
    ("limits.", "rateLimited"),
)

_MAIL: Final = re.compile(r"[^\s@,?%]{1,64}@[A-Za-z0-9.-]{1,255}", re.ASCII)
# Certificates know whole seconds.
_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.0{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_MOST_CONTACTS: Final = 10
_LONGEST_CERTIFICATE: Final = 65_536


# -- what clients send ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRequest:
    """A newAccount (RFC 8555, 7.3); ``binding`` is the inner JWS, ``binding_text`` as it came."""

    contacts: tuple[str, ...]
    agrees: bool
    only_existing: bool
    binding: JWS | None
    binding_text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUpdate:
    """What shall change of an account (RFC 8555, 7.3.2 and 7.3.6)."""

    contacts: tuple[str, ...] | None
    deactivate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A keyChange's inner message (RFC 8555, 7.3.5); nobody has compared it yet."""

    inner: JWS
    account: str
    old_thumbprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A newOrder (RFC 8555, 7.4; RFC 9773, 5); identifiers are (type, value)."""

    identifiers: tuple[tuple[str, str], ...]
    not_before: datetime | None
    not_after: datetime | None
    replaces: str
    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """A revokeCert (RFC 8555, 7.6)."""

    certificate: x509.Certificate
    reason: int


def decode_payload(message: JWS) -> Object:
    """Return the object in a message; Fault(MALFORMED) for anything else."""
    return parse_object(message.payload, "the payload")


def decode_account(payload: Object, outer: JWS) -> AccountRequest:
    """Read a newAccount whose message is ``outer``."""
    binding, text = payload.get("externalAccountBinding"), ""
    found = None
    if binding is not None:
        found = jws.decode_inner(binding, "externalAccountBinding", is_mac=True)
        text = encode(binding).decode()
        bound = jws.decode_key(parse_object(found.payload, "the bound key"))
        # RFC 8555, 7.3.4
        if found.url != outer.url:
            raise malformed("the url of externalAccountBinding is not that of the message")
        if outer.jwk is None or bound.thumbprint != outer.jwk.thumbprint:
            raise malformed("externalAccountBinding is about another key")
    return AccountRequest(
        contacts=_contacts(payload) or (),
        agrees=_flag(payload, "termsOfServiceAgreed"),
        only_existing=_flag(payload, "onlyReturnExisting"),
        binding=found,
        binding_text=text,
    )


def decode_update(payload: Object) -> AccountUpdate:
    """Read an update of an account; members that are not known are ignored."""
    status = payload.get("status")
    if status not in (None, "deactivated", "valid"):
        raise malformed("the status of an account can become deactivated and nothing else")
    return AccountUpdate(contacts=_contacts(payload), deactivate=status == "deactivated")


def decode_key_change(payload: Object, outer: JWS) -> KeyChange:
    """Read a keyChange whose outer message is ``outer``."""
    inner = jws.decode_inner(payload, "the inner message", is_mac=False)
    if inner.url != outer.url:
        raise malformed("the url of the inner message is not that of the outer one")
    inside = decode_payload(inner)
    return KeyChange(
        inner=inner,
        account=_string(inside, "account"),
        old_thumbprint=jws.decode_key(inside.get("oldKey")).thumbprint,
    )


def decode_order(payload: Object) -> OrderRequest:
    """Read a newOrder."""
    listed = payload.get("identifiers")
    if not isinstance(listed, list):
        raise malformed("an order has a list of identifiers")
    return OrderRequest(
        identifiers=tuple([_identifier(each) for each in listed]),
        not_before=_instant(payload, "notBefore"),
        not_after=_instant(payload, "notAfter"),
        replaces=_string(payload, "replaces", default=""),
        profile=_string(payload, "profile", default=""),
    )


def decode_authorization(payload: Object) -> tuple[str, str]:
    """Read a newAuthz: type and value of its identifier (RFC 8555, 7.4.1)."""
    return _identifier(payload.get("identifier"))


def decode_deactivation(payload: Object) -> None:
    """Read the only change that an authorisation knows (RFC 8555, 7.5.2)."""
    if payload.get("status") != "deactivated":
        raise malformed("the status of an authorization can become deactivated and nothing else")


def decode_finalize(payload: Object) -> bytes:
    """Read a finalize: the DER of its PKCS#10 (RFC 8555, 7.4)."""
    try:
        return unpack(payload.get("csr"), "csr", longest=_LONGEST_CERTIFICATE)
    except Fault as fault:
        fault.values = {"problem": "badCSR"}
        raise


def decode_revocation(payload: Object) -> RevocationRequest:
    """Read a revokeCert."""
    certificate_der = unpack(
        payload.get("certificate"), "certificate", longest=_LONGEST_CERTIFICATE
    )
    try:
        certificate = parsing.certificate(certificate_der)
        parsing.key_of(certificate)
    except ValueError:
        raise malformed("certificate is not one that can be read") from None
    reason = payload.get("reason", 0)
    if not isinstance(reason, int) or isinstance(reason, bool):
        raise Fault(
            FaultCode.MALFORMED,
            "reason is a number",
            rule="acme.message",
            values={"problem": "badRevocationReason"},
        )
    return RevocationRequest(certificate=certificate, reason=reason)


def _identifier(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise malformed("an identifier has a type and a value")
    return _string(value, "type"), _string(value, "value")


def _contacts(payload: Object) -> tuple[str, ...] | None:
    listed = payload.get("contact")
    if listed is None:
        return None
    if not isinstance(listed, list) or len(listed) > _MOST_CONTACTS:
        raise _bad_contact("invalidContact", f"contact is a list of up to {_MOST_CONTACTS}")
    for each in listed:
        if not isinstance(each, str) or ":" not in each:
            raise _bad_contact("invalidContact", "a contact is an address such as mailto:a@b.test")
        scheme, _, address = each.partition(":")
        if scheme.lower() != "mailto":
            raise _bad_contact("unsupportedContact", "a contact begins with mailto:")
        if not _MAIL.fullmatch(address):
            # RFC 8555, 7.3: one address, and no header fields.
            raise _bad_contact("invalidContact", "a contact is exactly one mail address")
    return tuple(listed)


def _bad_contact(problem: str, detail: str) -> Fault:
    return Fault(FaultCode.MALFORMED, detail, rule="acme.contact", values={"problem": problem})


def _flag(payload: Object, name: str) -> bool:
    value = payload.get(name, False)
    if not isinstance(value, bool):
        raise malformed(f"{name} is true or false")
    return value


def _string(payload: Object, name: str, *, default: str | None = None) -> str:
    value = payload.get(name, default)
    if not isinstance(value, str) or len(value) > 1_000:
        raise malformed(f"{name} is a text")
    return value


def _instant(payload: Object, name: str) -> datetime | None:
    value = payload.get(name)
    if value is None:
        return None
    found = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise malformed(f"{name} is not a time such as 2026-01-02T03:04:05Z, in whole seconds")
    day, time, offset = found.groups()
    try:
        return datetime.fromisoformat(f"{day}T{time}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise malformed(f"{name} is not a time that exists") from None


# -- what they are answered -----------------------------------------------------------------------


def instant(value: datetime) -> str:
    """Return a time as RFC 3339 writes it, without a fraction (old clients stumble over it)."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def problem_of(fault: Fault) -> tuple[int, str]:
    """Return the status and the ACME problem of a Fault."""
    status, problem = FAULTS[fault.code]
    said = fault.values.get("problem", "")
    if said not in PROBLEMS:
        said = next((word for prefix, word in _RULES if fault.rule.startswith(prefix)), "")
        if fault.code in (FaultCode.UNAVAILABLE, FaultCode.INTERNAL):
            said = ""
    if not said:
        return status, problem
    return (status if said in _BY_CODE else PROBLEMS[said]), said


def problem(fault: Fault) -> tuple[int, Object]:
    """Return the status and the problem document of a Fault (RFC 7807; RFC 8555, 6.7)."""
    status, word = problem_of(fault)
    detail = f"{fault.detail} [{fault.explain_id}]" if fault.explain_id else fault.detail
    body: Object = {"type": NAMESPACE + word, "detail": detail, "status": status}
    if word == "badSignatureAlgorithm":
        offered = fault.values.get("algorithms", " ".join(jws.ALGORITHMS))
        body["algorithms"] = offered.split(" ")
    if isinstance(fault, Several):
        body["subproblems"] = [
            {
                "type": NAMESPACE + problem_of(part)[1],
                "detail": part.detail,
                "identifier": {"type": kind, "value": value},
            }
            for (kind, value), part in fault.parts
        ]
    return status, body


def error_of(said: Mapping[str, Any]) -> Object:
    """Return the problem document of an error that was kept."""
    word = _known(said)
    body: Object = {
        "type": NAMESPACE + word,
        "detail": str(said.get("detail", "")),
        "status": PROBLEMS[word],
    }
    if parts := said.get("subproblems"):
        body["subproblems"] = [
            {
                "type": NAMESPACE + _known(part),
                "detail": str(part["detail"]),
                "identifier": {"type": part["type"], "value": part["value"]},
            }
            for part in parts
        ]
    return body


def _known(said: Mapping[str, Any]) -> str:
    word = str(said.get("problem"))
    return word if word in PROBLEMS else "serverInternal"
