"""What the certificate for each of tmad's own doors should be: issuer, key, names, profile."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from cryptography import x509
from cryptography.x509.oid import NameOID

from tmad.ca.endpoint import Endpoint, Endpoints
from tmad.ca.hierarchy import Hierarchy, Issuer
from tmad.ca.requests import EndpointID
from tmad.ca.scheme import STRENGTH, fitting_algorithm
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm, of
from tmad.signer.keyring import Keyring

Purpose: TypeAlias = Literal[
    "ocsp", "scep-ra", "cmp", "cmc", "tsa", "tls", "tls-client", "eap", "profile"
]

_RA_PROFILES = {"scep-ra": "scep-ra", "cmp": "cmp-signer", "profile": "profile-signer"}
_LIFETIME = timedelta(days=30)
# Supplicants without a configured name ask their user whenever the EAP server's certificate
# changes; Apple's accept no more than 825 days.
_EAP_LIFETIME = timedelta(days=365)
_COMMON_NAME = 64  # RFC 5280, appendix A: ub-common-name
# Keys that an EAP server's certificate may have, by the last part of its scope. RSA is for
# supplicants that know nothing else; P-256 costs half the time and a round trip less.
EAP_ALGORITHMS: Mapping[str, KeyAlgorithm] = {
    algorithm.value: algorithm
    for algorithm in (
        KeyAlgorithm.P256,
        KeyAlgorithm.P384,
        KeyAlgorithm.RSA_2048,
        KeyAlgorithm.RSA_3072,
        KeyAlgorithm.RSA_4096,
    )
}


def eap_scope(tenant: str, host: str, algorithm: KeyAlgorithm = KeyAlgorithm.P256) -> str:
    """Return the scope of the certificate that an EAP server shows its clients."""
    scope = f"{tenant}/{host}"
    return scope if algorithm is KeyAlgorithm.P256 else f"{scope}/{algorithm.value}"


@runtime_checkable
class RAOptions(Protocol):
    """What a protocol's EndpointOptions may say about its RA's key."""

    @property
    def ra_algorithm(self) -> KeyAlgorithm | None:
        """Return the algorithm; None: as fits the authority."""

    ra_store: str | None


@runtime_checkable
class SignerOptions(Protocol):
    """What a protocol's EndpointOptions may say about the key that signs what it hands out."""

    @property
    def signer_algorithm(self) -> KeyAlgorithm | None:
        """Return the algorithm; None: as fits the authority."""

    signer_store: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the certificate for one purpose and scope should be at present."""

    issuer: Issuer
    algorithm: KeyAlgorithm
    store: str | None  # None: the keyring's default
    subject: x509.Name
    profile: str
    names: tuple[x509.GeneralName, ...] = ()
    lifetime: timedelta | None = _LIFETIME  # None: as the profile says


class Wishes:
    """Knows what is wanted, by what authorities, endpoints and settings say at present."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        endpoints: Endpoints,
        keyring: Keyring,
        *,
        tls_tenant: str,
        tls_authority: str | None,
    ) -> None:
        """``tls_authority`` signs the TLS certificates.

        Without it, the first one of ``tls_tenant`` that can, below a root if there is one.
        """
        self._hierarchy = hierarchy
        self._endpoints = endpoints
        self._keyring = keyring
        self._tls_tenant = tls_tenant
        self._tls_authority = tls_authority

    async def find(self, purpose: Purpose, scope: str) -> Wish:
        """Return what is wanted for one purpose and scope.

        Fault(NOT_FOUND) for a scope that does not exist, UNAVAILABLE when its authority cannot
        sign now.
        """
        if purpose == "ocsp":
            return await self._ocsp(scope)
        if purpose in ("scep-ra", "cmp", "profile"):
            return await self._ra(purpose, scope)
        if purpose == "tsa":
            return await self._tsa(scope)
        if purpose == "cmc":
            return await self._cmc(scope)
        if purpose == "eap":
            return await self._eap(scope)
        return await self._tls(purpose, scope)

    async def _ocsp(self, scope: str) -> Wish:
        issuer = await self._hierarchy.by_id(int(scope) if scope.isdecimal() else 0)
        if not issuer.signs:
            raise Fault(
                FaultCode.UNAVAILABLE, "the authority's key is not here", rule="authority.state"
            )
        rules = issuer.document.ocsp
        own = of(issuer.public_key)
        algorithm = rules.responder_algorithm or fitting_algorithm(own)
        if STRENGTH[algorithm] < STRENGTH[own]:
            raise Fault(
                FaultCode.REJECTED,
                "ocsp.responder_algorithm is weaker than the authority's key",
                rule="ocsp.responder-algorithm",
                values={"responder": algorithm.value, "authority": own.value},
            )
        store = rules.responder_store or (await self._keyring.handle(issuer.key_id)).store
        return Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"OCSP responder of {issuer.slug}"),
            profile="ocsp-responder",
        )

    async def _endpoint(self, scope: str) -> tuple[Endpoint, Issuer]:
        try:
            endpoint_id = EndpointID.parse(scope)
        except ValueError as error:
            raise Fault(FaultCode.NOT_FOUND, str(error), rule="service.scope") from None
        endpoint = await self._endpoints.by_id(endpoint_id)
        issuer = await self._hierarchy.active(endpoint.tenant, endpoint.document.authority)
        return endpoint, issuer

    async def _tsa(self, scope: str) -> Wish:
        endpoint, issuer = await self._endpoint(scope)
        algorithm, store = _cms_signer(endpoint, issuer)
        return Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"Time-stamping authority {scope}"),
            profile=endpoint.document.profile,
            lifetime=None,
        )

    async def _cmc(self, scope: str) -> Wish:
        endpoint, issuer = await self._endpoint(scope)
        algorithm, store = _cms_signer(endpoint, issuer)
        return Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"CMC server {scope}"),
            profile="cmp-signer",
        )

    async def _ra(self, purpose: Purpose, scope: str) -> Wish:
        endpoint, issuer = await self._endpoint(scope)
        options = endpoint.options
        algorithm, store = KeyAlgorithm.RSA_2048, None
        if purpose == "cmp":
            # Who can check what the authority issues can check what it says.
            algorithm = fitting_algorithm(of(issuer.public_key))
        if purpose != "profile" and isinstance(options, RAOptions):
            algorithm, store = options.ra_algorithm or algorithm, options.ra_store
        return Wish(
            issuer=issuer,
            algorithm=algorithm,
            store=store,
            subject=_subject(issuer, f"{'Profiles' if purpose == 'profile' else 'RA'} of {scope}"),
            profile=_RA_PROFILES[purpose],
        )

    async def _tls(self, purpose: Purpose, scope: str) -> Wish:
        issuer = await self._tls_issuer()
        return Wish(
            issuer=issuer,
            algorithm=KeyAlgorithm.P256,
            store="soft",  # OpenSSL in the wheel cannot reach a key in an HSM
            subject=_subject(issuer, scope),
            profile="tls-client-self" if purpose == "tls-client" else "tls-self",
            names=(_host(scope),),
        )

    async def _eap(self, scope: str) -> Wish:
        tenant, _, rest = scope.partition("/")
        host, _, algorithm = rest.partition("/")
        if not tenant or not host or (algorithm and algorithm not in EAP_ALGORITHMS):
            raise Fault(
                FaultCode.NOT_FOUND, f"{scope!r} is no EAP server's scope", rule="service.scope"
            )
        issuer = await self._tls_issuer_of(tenant)
        return Wish(
            issuer=issuer,
            algorithm=EAP_ALGORITHMS[algorithm or "p256"],
            store="soft",  # as for TLS
            subject=_subject(issuer, host),
            profile="eap-self",
            names=(_host(host),),
            lifetime=_EAP_LIFETIME,
        )

    async def _tls_issuer(self) -> Issuer:
        if self._tls_authority is not None:
            return await self._hierarchy.active(self._tls_tenant, self._tls_authority)
        return await self._tls_issuer_of(self._tls_tenant)

    async def _tls_issuer_of(self, tenant: str) -> Issuer:
        able = [i for i in await self._hierarchy.of_tenant(tenant) if i.is_able]
        if not able:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "there is no authority that could sign a TLS certificate",
                rule="service.tls-authority",
                values={"tenant": tenant},
            )
        # Whatever a root signs cannot be taken back by anybody above it.
        return min(able, key=lambda issuer: (issuer.is_self_signed, issuer.id))


def _cms_signer(endpoint: Endpoint, issuer: Issuer) -> tuple[KeyAlgorithm, str | None]:
    """Return the kind and the store of a key that signs CMS messages."""
    algorithm, store = fitting_algorithm(of(issuer.public_key)), None
    if algorithm is KeyAlgorithm.ED448:
        algorithm = KeyAlgorithm.P521  # CMS wants SHAKE256 beside Ed448 (RFC 8419, 2.3)
    if isinstance(endpoint.options, SignerOptions):
        algorithm = endpoint.options.signer_algorithm or algorithm
        store = endpoint.options.signer_store
    return algorithm, store


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _subject(issuer: Issuer, common_name: str) -> x509.Name:
    name = x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_COMMON_NAME])
    return x509.Name([*_directory(issuer), x509.RelativeDistinguishedName([name])])


def _directory(issuer: Issuer) -> list[x509.RelativeDistinguishedName]:
    """Return how subjects must begin that the issuer may certify (RFC 5280, 4.2.1.10)."""
    for certificate in issuer.chain:
        try:
            found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        except x509.ExtensionNotFound:
            continue
        for subtree in found.value.permitted_subtrees or ():
            if isinstance(subtree, x509.DirectoryName):
                return subtree.value.rdns
    return []
