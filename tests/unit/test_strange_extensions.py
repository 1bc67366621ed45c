"""Extensions that have exceptions of their own in the library, wherever a stranger's are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from tmad.agent import acme, identity, revocation, scep
from tmad.ca import client_certificates, importing, trust
from tmad.errors import Fault
from tmad.network import anchor, facts, foreign
from tmad.protocols.cmc import layers, senders
from tmad.protocols.cmp import sender
from tmad.protocols.ldap import passports
from tmad.wire import der, parsing

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TLS_FEATURE = ExtensionOID.TLS_FEATURE
NAMES = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
STRANGE = {
    "a TLS feature without a name": [(TLS_FEATURE, der.sequence(der.integer(0)))],
    "an X.400 address": [(NAMES, der.sequence(der.tlv(0xA3, der.sequence())))],
    "a name with a mistake": [(NAMES, der.sequence(der.tlv(0x87, b"\1\2\3")))],
    "a name of bits": [
        (NAMES, der.sequence(der.tlv(0xA4, der.sequence(der.tlv(der.SET, der.sequence(
            der.oid("2.5.4.3"), der.tlv(der.BIT_STRING, b"\0x")
        ))))))
    ],
    "one extension twice": [(NAMES, der.sequence()), (NAMES, der.sequence())],
}  # fmt: skip


def certificate(extensions: list[tuple[x509.ObjectIdentifier, bytes]]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "strange")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 2**80, begin, begin.replace(year=2027)
    )
    # The builder takes none twice: another one first, whose place the second takes then.
    stand_in = x509.ObjectIdentifier("2.5.29.127")
    for place, (oid, value) in enumerate(extensions):
        wanted = x509.UnrecognizedExtension(oid if place == 0 else stand_in, value)
        builder = builder.add_extension(wanted, critical=False)
    octets = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    real = der.oid(extensions[-1][0].dotted_string)
    made = parsing.certificate(octets.replace(der.oid(stand_in.dotted_string), real))
    with pytest.raises(Exception):  # noqa: B017  each has another one: that is the point
        _ = made.extensions
    return made


LOOKS: dict[str, Callable[[x509.Certificate], object]] = {
    "agent: renewal information": acme.certificate_id,
    "agent: names": identity.names_of,
    "agent: OCSP responder": revocation.responder,
    "authority key identifier": trust.authority_key_identifier,
    "check of a CA": lambda found: trust.check_ca(found, NOW),
    "check of a path": lambda found: trust.check_path([found], NOW),
    "client certificates": client_certificates._is_for_clients,
    "search terms": importing._terms,
    "trust anchor": anchor._is_authority,
    "facts": lambda found: facts.read(found, b""),
    "signer of a CRL": foreign._may_sign,
    "LDAP": passports._mails,
    "CMC: key usage": layers.check_usage,
    "CMC: registration authority": senders._is_for_authorities,
    "CMP: key usage": sender._check_usage,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE.keys())
def test_a_value_or_a_fault(
    strange: list[tuple[x509.ObjectIdentifier, bytes]], look: Callable[[Any], object]
) -> None:
    found = certificate(strange)
    with contextlib.suppress(Fault):
        look(found)


def test_the_agent_seals_to_no_key_of_an_unknown_kind() -> None:
    known = certificate([(NAMES, der.sequence(der.tlv(0xA3, der.sequence())))])
    curve, unknown = der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.2.9")
    octets = known.public_bytes(Encoding.DER).replace(curve, unknown)
    with pytest.raises(Fault, match="no RSA certificate"):
        scep._recipient([parsing.certificate(octets), known])
