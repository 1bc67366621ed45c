"""Alternative names as people write them: a kind and a value (RFC 5280, 4.2.1.6)."""

from __future__ import annotations

import ipaddress

from cryptography import x509


def of_kind(kind: str, value: str) -> x509.GeneralName | None:
    """Return a name of the kind dns, ip, email or uri; None for any other kind.

    Raise ValueError for a value that such a name cannot have.
    """
    match kind:
        case "dns":
            return x509.DNSName(value)
        case "ip":
            return x509.IPAddress(ipaddress.ip_address(value))
        case "email":
            return x509.RFC822Name(value)
        case "uri":
            return x509.UniformResourceIdentifier(value)
    return None
