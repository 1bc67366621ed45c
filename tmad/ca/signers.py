"""How issuers sign: which key, which algorithm, and what of the issuer enters a certificate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from tmad.ca import signature
from tmad.ca.keycheck import Key
from tmad.ca.scheme import SignaturePolicy, SignatureScheme, scheme_for
from tmad.ca.shape import Profile
from tmad.ca.trust import spki_der
from tmad.ca.writing import IssuerFacts
from tmad.errors import Fault, FaultCode

if TYPE_CHECKING:
    from tmad.ca.hierarchy import Hierarchy, Issuer

# What bounds a certificate that signs itself: nothing.
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """The issuer of one certificate, and how it signs; ``chain`` is empty for a root's own."""

    issuer: Issuer
    scheme: SignatureScheme
    algorithm_der: bytes
    facts: IssuerFacts
    chain: tuple[x509.Certificate, ...]
    must_be_active: bool

    @property
    def public_key(self) -> CertificateIssuerPublicKeyTypes:
        """The key that must verify what was signed."""
        return self.issuer.public_key


class Signers:
    """Finds out how an issuer signs; remembers it as long as the issuer stays the same."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._known: dict[int, tuple[Issuer, Signer]] = {}

    def active(self, issuer: Issuer, profile: Profile) -> Signer:
        """Return how an active issuer signs certificates of this profile."""
        if not issuer.is_able or issuer.certificate is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the authority cannot issue",
                rule="issuer.state",
                values={
                    "authority": issuer.authority,
                    "state": issuer.state.value,
                    "compromised_at": str(issuer.compromised_at),
                },
            )
        return self._usable(issuer, profile, must_be_active=True)

    def internal(self, issuer: Issuer, profile: Profile, key: Key) -> Signer:
        """Return how an issuer in any state signs for the appliance itself.

        With its own key as the subject's it signs itself: a root's certificate.
        """
        if key.spki_der == spki_der(issuer.public_key) and profile.is_ca:
            scheme = _scheme(issuer, profile)
            return Signer(
                issuer=issuer,
                scheme=scheme,
                algorithm_der=signature.algorithm_der(issuer.public_key, scheme),
                facts=IssuerFacts(
                    not_before=_BEGINNING,
                    not_after=_END,
                    key_identifier=b"",
                    path_length=None,
                ),
                chain=(),
                must_be_active=False,
            )
        if not issuer.signs or issuer.certificate is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the authority cannot sign",
                rule="issuer.state",
                values={"authority": issuer.authority, "state": issuer.state.value},
            )
        return self._usable(issuer, profile, must_be_active=False)

    def _usable(self, issuer: Issuer, profile: Profile, *, must_be_active: bool) -> Signer:
        known = self._known.get(issuer.id)
        if known is None or known[0] is not issuer:
            scheme = issuer.scheme
            known = self._known[issuer.id] = (
                issuer,
                Signer(
                    issuer=issuer,
                    scheme=scheme,
                    algorithm_der=signature.algorithm_der(issuer.public_key, scheme),
                    facts=self._facts(issuer),
                    chain=issuer.chain,
                    must_be_active=True,
                ),
            )
        signer = known[1]
        if profile.document.signature_hash:
            scheme = _scheme(issuer, profile)
            algorithm_der = signature.algorithm_der(issuer.public_key, scheme)
            signer = replace(signer, scheme=scheme, algorithm_der=algorithm_der)
        if not must_be_active:
            signer = replace(signer, must_be_active=False)
        return signer

    def _facts(self, issuer: Issuer) -> IssuerFacts:
        certificate = issuer.certificate
        assert certificate is not None
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        urls = self._hierarchy.urls(issuer)
        return IssuerFacts(
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            key_identifier=identifier.digest,
            path_length=basic.path_length,
            crl_url=urls.crl,
            ocsp_url=urls.ocsp,
            ca_issuers_url=urls.ca_issuers,
        )


def _scheme(issuer: Issuer, profile: Profile) -> SignatureScheme:
    chosen = profile.document.signature_hash
    if not chosen or issuer.scheme.hash is None:
        return issuer.scheme
    policy = SignaturePolicy(hash=chosen, pss=issuer.document.signature.pss)
    return scheme_for(issuer.public_key, policy)
