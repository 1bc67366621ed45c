"""Key pairs that the appliance makes for an applicant (RFC 7030, 4.4; RFC 9483, 4.1.6).

The private key leaves once, in the answer, and is kept nowhere: whoever loses the answer asks
for another certificate with another key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tmad.ca.keycheck import KeyRules
from tmad.ca.requests import EnrollmentRequest, GeneratedKey, KeyWish
from tmad.ca.shape import Profile
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.journal import Journal
from tmad.signer.algorithms import RSA_BITS, KeyAlgorithm, generate
from tmad.signer.workers import Reactor, Workers

if TYPE_CHECKING:
    from tmad.ca.applicant import Applicant
    from tmad.ca.endpoint import Endpoint

_MAKEABLE: Final = frozenset(each.value for each in KeyAlgorithm)
_THREADS: Final = 2
_WAITING: Final = 64  # an RSA key takes up to a second


class KeyMaker:
    """Makes keys for applicants who have shown who they are."""

    def __init__(self, journal: Journal, reactor: Reactor | None) -> None:
        self._journal = journal
        self._workers = Workers("key generation", threads=_THREADS, queue=_WAITING, reactor=reactor)

    async def make(
        self,
        wish: KeyWish,
        request: EnrollmentRequest,
        endpoint: Endpoint,
        profile: Profile,
        applicant: Applicant,
    ) -> GeneratedKey:
        """Return a new key; Fault(FORBIDDEN) or BAD_ALGORITHM where there may be none."""
        check_allowed(endpoint)
        algorithm = choose(wish, profile.document.keys)
        key = GeneratedKey(await self._workers.run(lambda: generate(algorithm)), algorithm)
        spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        await self._journal.write(
            Event(
                kind="key.generated",
                tenant=endpoint.tenant,
                actor=str(endpoint.id),
                object=f"endpoint/{endpoint.id}",
                data={
                    "applicant": applicant.name,
                    "method": applicant.method,
                    "peer": request.peer,
                    "algorithm": algorithm.value,
                    "spki_sha256": hashlib.sha256(spki).hexdigest(),
                },
            )
        )
        return key


def check_allowed(endpoint: Endpoint) -> None:
    """Raise Fault(FORBIDDEN) where the appliance makes no keys for others."""
    if not endpoint.document.server_keys:
        raise Fault(
            FaultCode.FORBIDDEN,
            "key pairs are not made here; make one on the device",
            rule="keys.server",
            values={"endpoint": str(endpoint.id), "server_keys": "false"},
        )


def choose(wish: KeyWish, rules: KeyRules) -> KeyAlgorithm:
    """Return the first wish that a profile allows, or without one the first it allows."""
    allowed = list(_allowed(rules))
    found = [each for each in wish.algorithms or allowed if each in allowed]
    if not found:
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            "the profile does not allow this kind of key",
            rule="keys.algorithm",
            values={
                "asked": ", ".join(each.value for each in wish.algorithms),
                "allowed": ", ".join(each.value for each in allowed),
            },
        )
    return found[0]


def _allowed(rules: KeyRules) -> Iterator[KeyAlgorithm]:
    """Yield what can be made here of what a profile certifies, in the profile's order."""
    for name in rules.algorithms:
        if name == "rsa":
            for algorithm, bits in RSA_BITS.items():
                if rules.rsa_min <= bits <= rules.rsa_max:
                    yield algorithm
        elif name in _MAKEABLE:
            yield KeyAlgorithm(name)
