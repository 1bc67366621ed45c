"""Why somebody may not join, in words: for the journal and for `tmad explain` (E-45).

Whoever is refused learns none of it: an EAP-Failure has no text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from tmad.errors import Fault, FaultCode


class Reason(NamedTuple):
    """A reason code of E-45, and what to do about it."""

    code: str
    advice: str


_POLICY = "tmad radius-policy test shows what each rule says to this login"

# By the rule of the fault. A rule that is not here has its own words.
REASONS: Final[Mapping[str, Reason]] = {
    "network.unknown-certificate": Reason(
        "UNKNOWN_CERT",
        "it names one of our authorities and is in no record of theirs: find out where the device "
        "has it from; a forged one means that the authority's key is lost",
    ),
    "network.wrong-authority": Reason(
        "WRONG_CA",
        "enrol the device here, or make its CA a trust anchor: tmad trust-anchor add",
    ),
    "network.wrong-tenant": Reason(
        "WRONG_CA", "the certificate belongs to another tenant than the RADIUS client does"
    ),
    "network.malformed-certificate": Reason("UNKNOWN_CERT", "enrol the device anew"),
    "network.revoked": Reason("REVOKED", "enrol the device anew if it may still join"),
    "network.held": Reason("HOLD", "tmad cert release takes the hold back"),
    "network.changed": Reason("POLICY_CHANGED", "nothing to do: the device tries again"),
    "network.void": Reason(
        "REVOKED", "it was signed and never delivered here: enrol the device anew"
    ),
    "network.expired": Reason("EXPIRED", "renew or enrol the device's certificate"),
    "network.not-yet-valid": Reason("NOT_YET_VALID", "compare the clocks of this node and the CA"),
    "network.compromised-key": Reason(
        "REVOKED", "the private key is known to others: make a new one on the device"
    ),
    "network.issuer-compromised": Reason("REVOKED", "enrol under another authority"),
    "network.issuer-revoked": Reason(
        "REVOKED", "the issuing CA's own certificate is not good: enrol under another authority"
    ),
    "network.issuer-expired": Reason("EXPIRED", "renew the authority: tmad ca renew"),
    "network.crl-missing": Reason(
        "WRONG_CA", "tmad trust-anchor refresh fetches it and says what fails"
    ),
    "network.crl-stale": Reason(
        "WRONG_CA", "tmad trust-anchor refresh; its CA may have stopped to publish"
    ),
    "network.anchor-path": Reason("WRONG_CA", "tmad trust-anchor show; an intermediate may lack"),
    "network.purpose": Reason(
        "EKU", "issue it under a profile for client authentication, or set any_purpose on the rule"
    ),
    "network.profile": Reason("NO_POLICY", _POLICY),
    "network.time": Reason("NO_POLICY", _POLICY),
    "network.policy": Reason("NO_POLICY", _POLICY),
    "network.rejected": Reason("NO_POLICY", _POLICY),
    "network.simultaneous": Reason("NO_POLICY", "tmad session list shows where the person is"),
    "network.template": Reason(
        "NO_POLICY", "the certificate lacks what the policy's reply puts into an attribute"
    ),
    "network.unlisted": Reason(
        "UNKNOWN_DEVICE", "tmad device create NAME --mac ADDRESS, or a rule with unlisted = true"
    ),
    "radius.mac.password": Reason(
        "WRONG_SECRET",
        "compare the shared secret; let the client send the address itself as password",
    ),
    "network.owner-absent": Reason(
        "OWNER_DISABLED", "its owner was deleted: revoke it, or make the person again"
    ),
    "network.owner-disabled": Reason("OWNER_DISABLED", "tmad user enable"),
    "network.owner-expired": Reason("OWNER_DISABLED", "tmad user set NAME valid_until"),
    "network.device-blocked": Reason("OWNER_DISABLED", "tmad device unblock"),
}

# What a client may send about *our* server certificate (RFC 8446, 6.2). The first two are the
# most common trouble in the field (E-45).
_UNTRUSTED: Final = (
    "the client does not trust our server certificate: install the root certificate of the CA that "
    "issued it on the device and choose it in the network's profile, together with the server's "
    "name (Android: CA certificate and domain; iOS and macOS: trusted certificates of the profile; "
    "Windows: trusted root and server names; wpa_supplicant: ca_cert and domain_suffix_match)"
)
ALERTS: Final[Mapping[str, str]] = {
    "unknown_ca": _UNTRUSTED,
    "certificate_unknown": f"{_UNTRUSTED}; or its user declined the certificate",
    "bad_certificate": "the client cannot use our server certificate, often because its name is "
    "not the one that the network's profile expects",
    "unsupported_certificate": "the client does not support our server certificate's kind of key: "
    "offer an RSA certificate beside the elliptic curve",
    "certificate_expired": "our server certificate is not valid by the client's clock: compare "
    "the clocks first; tmad renews the certificate by itself",
    "certificate_revoked": "the client holds our server certificate to be revoked",
    "access_denied": "the client, or its user, does not want this server",
    "handshake_failure": "the client and tmad have no algorithms in common, or the client has no "
    "certificate that fits",
    "protocol_version": "the client speaks only TLS versions that are switched off here",
    "insufficient_security": "the client wants stronger algorithms than ours",
    "decrypt_error": "the client could not verify our signature: its TLS is faulty, or somebody "
    "is between it and us",
    "internal_error": "the client's TLS failed for a reason of its own",
    "user_canceled": "the user stopped it",
    "no_certificate": "the client has no certificate to show",
}
_NUMBERS: Final = {
    40: "handshake_failure", 41: "no_certificate", 42: "bad_certificate",
    43: "unsupported_certificate", 44: "certificate_revoked", 45: "certificate_expired",
    46: "certificate_unknown", 48: "unknown_ca", 49: "access_denied", 51: "decrypt_error",
    70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    90: "user_canceled",
}  # fmt: skip

# OpenSSL's X509_V_ERR_… of a client's chain (x509_vfy.h), as far as there is a word for them.
_VERIFICATION: Final[Mapping[int, tuple[str, str]]] = {
    2: ("network.wrong-authority", "nobody that is trusted here issued the certificate"),
    7: ("network.unknown-certificate", "the certificate's signature is wrong"),
    9: ("network.not-yet-valid", "the certificate is not valid yet"),
    10: ("network.expired", "the certificate has expired"),
    18: ("network.wrong-authority", "the certificate is self-signed"),
    19: ("network.wrong-authority", "the certificate's root is not trusted here"),
    20: ("network.wrong-authority", "nobody that is trusted here issued the certificate"),
    21: ("network.wrong-authority", "nobody that is trusted here issued the certificate"),
    23: ("network.revoked", "the certificate is revoked"),
    24: ("network.wrong-authority", "a certificate in the chain is no CA's"),
    25: ("network.wrong-authority", "the chain is longer than a CA in it allows"),
    26: ("network.purpose", "the certificate is not for client authentication"),
    27: ("network.wrong-authority", "the certificate's CA is not trusted here"),
    28: ("network.wrong-authority", "the certificate's CA is not trusted here"),
    47: ("network.wrong-authority", "a name is outside what a CA in the chain may certify"),
    48: ("network.wrong-authority", "a name is outside what a CA in the chain may certify"),
    66: ("network.compromised-key", "the key is too weak"),
    67: ("network.compromised-key", "a CA's key in the chain is too weak"),
    68: ("network.compromised-key", "a signature in the chain is too weak"),
}  # fmt: skip


def alert_name(text: str | int) -> str:
    """Return an alert by its name in RFC 8446, of a number or of OpenSSL's words for it."""
    if isinstance(text, int):
        return _NUMBERS.get(text, f"alert_{text}")
    words = re.sub(r"[^a-z]+", "_", text.lower()).strip("_")
    return re.sub(r"^(?:tlsv?|sslv?)_", "", words.rpartition("alert_")[2]) or "unknown"


def peer_alert(alert: str | int) -> Fault:
    """Return the refusal of a login that the client broke off with a TLS alert."""
    name = alert_name(alert)
    return Fault(
        FaultCode.UNAUTHENTICATED,
        f"the client broke the handshake off: {name}",
        rule="network.peer-alert",
        values={"alert": name, "help": ALERTS.get(name, "look into the client's own log")},
    )


def verification(error: int, text: str) -> Fault:
    """Return the refusal of a certificate that OpenSSL did not believe (X509_V_ERR_…)."""
    rule, detail = _VERIFICATION.get(
        error, ("network.wrong-authority", "the certificate could not be verified")
    )
    return refusal(rule, detail, openssl=f"{error} {text}"[:200])


def refusal(rule: str, detail: str, **values: str) -> Fault:
    """Make the Fault for a certificate or its holder."""
    return Fault(FaultCode.UNAUTHENTICATED, detail, rule=rule, values=values)


def describe(fault: Fault) -> tuple[str, str]:
    """Return the reason code and the advice for a refusal."""
    if fault.rule == "network.peer-alert":
        return f"TLS_ALERT_FROM_PEER({fault.values['alert']})", fault.values["help"]
    found = REASONS.get(fault.rule)
    if found is not None:
        return found
    return fault.rule.rpartition(".")[2].replace("-", "_").upper(), ""
