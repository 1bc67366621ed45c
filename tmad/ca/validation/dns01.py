"""dns-01 and dns-account-01: a TXT record (RFC 8555, 8.4; draft-ietf-acme-dns-account-label)."""

from __future__ import annotations

import base64
from hashlib import sha256

from tmad.ca.validation.contract import ChallengeKind, Problem, Question, refusal
from tmad.ca.validation.resolver import Resolver
from tmad.events import JSON


def record_name(question: Question) -> str:
    """Return the name whose TXT record holds the answer."""
    name = f"_acme-challenge.{question.identifier.value}"
    if question.kind is ChallengeKind.DNS_ACCOUNT_01:
        digest = sha256(question.account_url.encode()).digest()[:10]
        name = f"_{base64.b32encode(digest).decode().lower()}.{name}"
    return name


async def validate(question: Question, resolver: Resolver) -> dict[str, JSON]:
    """Return the record of a good answer, or raise a refusal."""
    name = record_name(question)
    digest = sha256(question.key_authorization.encode()).digest()
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=")
    texts = await resolver.texts(name)
    # Other orders of the same name have theirs beside it.
    if expected not in [text.strip() for text in texts]:
        raise refusal(
            Problem.INCORRECT_RESPONSE,
            f"none of the {len(texts)} TXT records of {name} is the digest of the key "
            "authorisation of this account",
            name=name,
            records=str(len(texts)),
        )
    return {"name": name, "records": len(texts)}
