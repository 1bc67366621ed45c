"""Makes the vectors of this folder with pyasn1 alone; see README.md.

Run as ``python -m tests.vectors.cmc.make`` from the project's folder. Keys and signatures are new
each time, so the files differ, and what README.md says of them stays true.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.x509.oid import NameOID
from pyasn1_alt_modules import rfc6402

from tests import cmc_client as client

HERE = Path(__file__).parent
REFERENCE, SECRET, RANDOM = "4711", "a secret of the vectors", bytes(range(64))
AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def write(title: str, octets: bytes) -> None:
    (HERE / f"{title}.der").write_bytes(octets)


def certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(name("vector client"))
        .issuer_name(name("vector CA"))
        .public_key(key.public_key())
        .serial_number(0x1234)
        .not_valid_before(AT)
        .not_valid_after(AT.replace(year=2036))
        .sign(key, hashes.SHA256())
    )


def main() -> None:
    """Write every file."""
    key = ec.generate_private_key(ec.SECP256R1())
    holder = client.Holder(certificate(key), key)
    plain = [client.tcr(201, client.csr(key, name("dev1")))]
    proved = client.pki_data(
        [
            (101, client.TRANSACTION, client.integer(10132985123483401)),
            (102, client.SENDER_NONCE, client.octets(b"sixteen octets..")),
            (103, client.DATA_RETURN, client.octets(b"slot 3")),
            *client.proof(REFERENCE, SECRET, plain),
        ],
        plain,
    )
    write("pkidata-identity-proof-v2", proved)
    write("message-no-signature", client.signed(proved, no_signature=client.identifier(key)))
    write("message-own-key", client.signed(proved, key=key))
    write("message-signed", client.signed(client.pki_data(requests=plain), holder, at=AT))
    named = client.pki_data([(101, client.IDENTIFICATION, client.utf8(REFERENCE))], plain)
    write("message-authenticated", client.authenticated(named, (REFERENCE + SECRET).encode()))
    link = client.link(SECRET, RANDOM)
    for title, request in (
        ("pkcs10", client.tcr(201, client.csr(key, name("dev1"), attributes=[link]))),
        ("crmf", client.crm(201, key, name("dev1"), controls=[link])),
    ):
        controls = [
            *client.proof(REFERENCE, SECRET, [request]),
            (client.LINK_RANDOM, client.octets(RANDOM)),
        ]
        write(f"pkidata-pop-link-{title}", client.pki_data(controls, [request]))
    agreeing = client.crm(
        201, x25519.X25519PrivateKey.generate(), name("dev1"), proof="keyEncipherment"
    )
    found = rfc6402.DecryptedPOP()
    found["bodyPartID"] = 201
    found["thePOPAlgID"] = client.algorithm(client.HMAC_SHA256)
    found["thePOP"] = hmac.digest(bytes(range(32)), client.encode(agreeing), "sha256")
    decrypted = (102, client.DECRYPTED, client.encode(found))
    write("pkidata-decrypted-pop", client.pki_data([decrypted], [agreeing]))
    revoke = client.revoke(
        holder.certificate, 1, passphrase=SECRET, since=AT, comment="lost in a taxi"
    )
    write("pkidata-revoke", client.pki_data([(101, client.REVOKE, revoke)]))
    issuer = holder.certificate.issuer
    lookups = [
        (101, client.GET_CERT, client.get_cert(issuer, 0x1234)),
        (102, client.GET_CRL, client.get_crl(issuer, AT)),
        (103, client.QUERY, client.octets(b"a token of the server")),
        (
            104,
            client.CONFIRM,
            client.encode(client.issuer_and_serial(holder.certificate)),
        ),
    ]
    write("pkidata-lookups", client.pki_data(lookups))
    san = ("2.5.29.17", x509.SubjectAlternativeName([x509.DNSName("a.example")]).public_bytes())
    modify = client.modify([1, 2], [201], subject=name("x"), extensions=[san], replace=False)
    authority = [
        (101, client.BATCH, client.numbers(1, 2)),
        (102, client.MOD_TEMPLATE, modify),
        (103, client.ADD_EXTENSIONS, client.add_extensions(1, [201], [san])),
        (104, client.LRA_WITNESS, client.vouch(0, [201, 202])),
        (105, client.PROCESSED, client.processed([7], [1, 2, 3])),
        (106, client.RA_IDENTITY, client.numbers(1)),
    ]
    messages = [(1, client.signed(proved, key=key)), (2, client.signed(proved, holder))]
    write("pkidata-authority", client.pki_data(authority, messages=messages))


if __name__ == "__main__":
    main()
