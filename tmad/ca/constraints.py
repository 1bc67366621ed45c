"""Name constraints: which names the certificates above an issuer leave to it.

RFC 5280, section 4.2.1.10. Checked before every issue, so that a certificate that every client
would refuse is never made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from tmad.ca.names import looks_like_host, refuse, text_of


def check(
    chain: Sequence[x509.Certificate], subject: x509.Name, names: Sequence[x509.GeneralName]
) -> None:
    """Refuse names that the constraints of any certificate in ``chain`` would make invalid.

    ``chain`` is the issuer and everything above it, the trust anchor too, since common
    verifiers apply its constraints as well (RFC 5280, 4.2.1.10).
    """
    for certificate in chain:
        constraints = _of(certificate)
        if constraints is None:
            continue
        for name in (*names, *_names_in_subject(subject)):
            _check_constrained(name, constraints, certificate)


@lru_cache(maxsize=256)
def _of(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def _names_in_subject(subject: x509.Name) -> list[x509.GeneralName]:
    # Constraints bind the subject itself, an e-mail address in it (RFC 5280, 4.2.1.10), and a
    # common name that clients would take for a host.
    found: list[x509.GeneralName] = []
    if list(subject):
        found.append(x509.DirectoryName(subject))
    for attribute in subject:
        text = str(attribute.value)
        if attribute.oid == NameOID.EMAIL_ADDRESS and text.isascii():
            found.append(x509.RFC822Name(text))
        elif attribute.oid == NameOID.COMMON_NAME and looks_like_host(text):
            found.append(x509.DNSName(text))
    return found


def _check_constrained(
    name: x509.GeneralName, constraints: x509.NameConstraints, certificate: x509.Certificate
) -> None:
    issuer = certificate.subject.rfc4514_string()
    for subtree in constraints.excluded_subtrees or ():
        if type(subtree) is type(name) and _inside(name, subtree, excluded=True):
            raise refuse(
                "name.constraints.excluded",
                "the issuer's certificate excludes this name",
                name=text_of(name),
                constraint=str(subtree.value),
                issuer=issuer,
            )
    permitted = [s for s in constraints.permitted_subtrees or () if type(s) is type(name)]
    if isinstance(name, x509.OtherName):
        permitted = [
            s for s in permitted if isinstance(s, x509.OtherName) and s.type_id == name.type_id
        ]
    # A list for one type says nothing about other types.
    if permitted and not any(_inside(name, s, excluded=False) for s in permitted):
        raise refuse(
            "name.constraints.permitted",
            "the issuer's certificate does not permit this name",
            name=text_of(name),
            issuer=issuer,
            constraint=", ".join(str(s.value) for s in permitted),
        )


def _inside(name: x509.GeneralName, subtree: x509.GeneralName, *, excluded: bool) -> bool:
    match name, subtree:
        case x509.DNSName(), x509.DNSName():
            return _dns_inside(name.value.lower(), subtree.value.lower(), excluded=excluded)
        case x509.RFC822Name(), x509.RFC822Name():
            return _email_inside(name.value.lower(), subtree.value.lower())
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            host = urlsplit(name.value).hostname or ""
            if not host:
                # RFC 5280, 4.2.1.10: a URI without a host must be rejected.
                return excluded
            return _host_inside(host, subtree.value.lower())
        case x509.IPAddress(), x509.IPAddress():
            return _address_inside(name, subtree)
        case x509.DirectoryName(), x509.DirectoryName():
            return _directory_inside(name.value, subtree.value)
    # A constraint of a type that we cannot evaluate admits nothing and excludes everything.
    return excluded


def _dns_inside(host: str, subtree: str, *, excluded: bool) -> bool:
    base = subtree.removeprefix(".")
    if not base or host.endswith("." + base):
        return True
    if host == base:
        return not subtree.startswith(".")
    if excluded and host.startswith("*."):
        # A wildcard would also be valid for a name below the excluded subtree.
        return base.endswith(host[1:])
    return False


def _host_inside(host: str, subtree: str) -> bool:
    if subtree.startswith("."):
        return host.endswith(subtree)
    return not subtree or host == subtree


def _email_inside(address: str, subtree: str) -> bool:
    if "@" in subtree:
        return address == subtree
    return _host_inside(address.rpartition("@")[2], subtree)


def _address_inside(name: x509.IPAddress, subtree: x509.IPAddress) -> bool:
    address, network = name.value, subtree.value
    if not isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return address == network
    return isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address) and address in network


def _directory_inside(name: x509.Name, subtree: x509.Name) -> bool:
    prefix = subtree.rdns
    if len(prefix) > len(name.rdns):
        return False
    return all(_rdn_text(a) == _rdn_text(b) for a, b in zip(name.rdns, prefix, strict=False))


def _rdn_text(rdn: x509.RelativeDistinguishedName) -> frozenset[tuple[str, str]]:
    # RFC 5280, 7.1: compare without case and with white space folded.
    return frozenset((a.oid.dotted_string, " ".join(str(a.value).casefold().split())) for a in rdn)
