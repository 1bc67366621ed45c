"""What a CA certificate shall say: name, life, depth and name space (RFC 5280, 4.2.1.9-10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509

from tmad.ca.hierarchy import Issuer
from tmad.ca.shape import Constraints
from tmad.errors import Fault, FaultCode

ROOT_PROFILE = "root-ca"
SUB_PROFILE = "sub-ca"
ROOT_LIFETIME = timedelta(days=20 * 365)
SUB_LIFETIME = timedelta(days=10 * 365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charter:
    """The wishes for one CA certificate; ``lifetime`` None: as long as usual and possible."""

    subject: x509.Name
    lifetime: timedelta | None = None
    path_length: int | None = None
    name_constraints: x509.NameConstraints | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate, lifetime: timedelta | None) -> Charter:
        """Return what a CA certificate says, for its successor."""
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        try:
            found = extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            found = None
        return cls(
            subject=certificate.subject,
            lifetime=lifetime,
            path_length=basic.path_length,
            name_constraints=found,
        )

    @property
    def constraints(self) -> Constraints:
        """Return the part that the profile does not decide."""
        names = self.name_constraints
        return Constraints(
            path_length=self.path_length,
            permitted=tuple((names and names.permitted_subtrees) or ()),
            excluded=tuple((names and names.excluded_subtrees) or ()),
        )

    def for_root(self) -> Charter:
        """Return it with what was left open filled in."""
        return replace(self, lifetime=self.lifetime or ROOT_LIFETIME)

    def below(self, above: Issuer, now: datetime) -> Charter:
        """Return it with what was left open filled in, within the limits of the signer.

        Raise UNAVAILABLE for a signer that cannot issue, REJECTED for a wish beyond its limits.
        """
        if not above.is_able or above.certificate is None:
            raise Fault(
                FaultCode.UNAVAILABLE,
                f"authority {above.authority} cannot issue",
                rule="authority.state",
                values={"state": above.state.value, "compromised": str(above.compromised_at)},
            )
        return replace(
            self,
            lifetime=_fit_lifetime(self.lifetime, above.certificate, now),
            path_length=_fit_path_length(self.path_length, above.certificate),
        )


def _fit_lifetime(wanted: timedelta | None, above: x509.Certificate, now: datetime) -> timedelta:
    left = above.not_valid_after_utc - now
    if left <= timedelta():
        raise Fault(
            FaultCode.REJECTED,
            "the parent's certificate has expired",
            rule="authority.parent-expired",
            values={"not_after": above.not_valid_after_utc.isoformat()},
        )
    if wanted is None:
        return min(SUB_LIFETIME, left)
    if wanted > left:
        raise Fault(
            FaultCode.REJECTED,
            "it would outlive its parent",
            rule="authority.lifetime",
            values={
                "wanted": (now + wanted).isoformat(),
                "parent": above.not_valid_after_utc.isoformat(),
            },
        )
    return wanted


def _fit_path_length(wanted: int | None, above: x509.Certificate) -> int | None:
    limit = above.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if limit is None:
        return wanted
    if limit == 0:
        raise Fault(
            FaultCode.REJECTED,
            "the parent may not have authorities below it",
            rule="authority.path-length",
            values={"parent": "0"},
        )
    if wanted is None:
        return limit - 1
    if wanted >= limit:
        raise Fault(
            FaultCode.REJECTED,
            "the path length must be below the parent's",
            rule="authority.path-length",
            values={"wanted": str(wanted), "parent": str(limit)},
        )
    return wanted
