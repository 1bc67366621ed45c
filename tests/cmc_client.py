"""A CMC client for tests that can do everything wrong, too.

Messages are written and read by pyasn1 and its modules for RFC 6402, 5652 and 4211, and nothing of
them by the code under test.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa, x25519
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import char, tag, univ, useful
from pyasn1_alt_modules import rfc4211, rfc5280, rfc5652, rfc6402, rfc9629

CMC = "1.3.6.1.5.5.7.7."
PKI_DATA, PKI_RESPONSE = "1.3.6.1.5.5.7.12.2", "1.3.6.1.5.5.7.12.3"
SIGNED_DATA, DATA = "1.2.840.113549.1.7.2", "1.2.840.113549.1.7.1"
SHA256, HMAC_SHA256 = "2.16.840.1.101.3.4.2.1", "1.2.840.113549.2.9"
SHA1, HMAC_SHA1 = "1.3.14.3.2.26", "1.2.840.113549.2.7"
SHA512 = "2.16.840.1.101.3.4.2.3"
NO_SIGNATURE = "1.3.6.1.5.5.7.6.2"

# Arcs of controls below id-cmc (RFC 10002, 6).
STATUS, IDENTIFICATION, PROOF, DATA_RETURN, TRANSACTION = 1, 2, 3, 4, 5
SENDER_NONCE, RECIPIENT_NONCE, ADD_EXTENSIONS, ENCRYPTED, DECRYPTED, LRA_WITNESS = (
    6,
    7,
    8,
    9,
    10,
    11,
)
GET_CERT, GET_CRL, REVOKE, REG_INFO, QUERY, LINK_RANDOM, LINK_WITNESS = 15, 16, 17, 18, 21, 22, 23
CONFIRM, STATUS_V2, ANCHORS, AUTH_DATA, BATCH, BATCH_RESPONSES, PUBLISH = 24, 25, 26, 27, 28, 29, 30
MOD_TEMPLATE, PROCESSED, LINK_WITNESS_V2, PROOF_V2, RA_IDENTITY, NEW_NAME = 31, 32, 33, 34, 35, 36

SUCCESS, FAILED, PENDING, NO_SUPPORT, CONFIRM_REQUIRED, POP_REQUIRED = 0, 2, 3, 4, 5, 6
BAD_ALG, BAD_MESSAGE_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID, UNSUPPORTED_EXT = 0, 1, 2, 3, 4, 5
BAD_IDENTITY, FAIL_POP_REQUIRED, POP_FAILED, NO_KEY_REUSE, INTERNAL, TRY_LATER = 7, 8, 9, 10, 11, 12
AUTH_DATA_FAIL = 13


def encode(value: Any) -> bytes:
    octets: bytes = encoder.encode(value)
    return octets


def decode(octets: bytes, spec: Any = None) -> Any:
    value, rest = decoder.decode(octets, asn1Spec=spec)
    assert not rest
    return value


def integer(value: int) -> bytes:
    return encode(univ.Integer(value))


def octets(value: bytes) -> bytes:
    return encode(univ.OctetString(value))


def utf8(text: str) -> bytes:
    return encode(char.UTF8String(text))


def numbers(*values: int) -> bytes:
    """Return a BodyPartList, or a BodyPartPath."""
    found = rfc6402.BodyPartPath()
    found.extend(values)
    return encode(found)


def algorithm(oid: str, parameters: bytes | None = None) -> Any:
    found = rfc5280.AlgorithmIdentifier()
    found["algorithm"] = oid
    if parameters is not None:
        found["parameters"] = univ.Any(parameters)
    return found


def name_der(name: x509.Name) -> bytes:
    return name.public_bytes()


def spki(key: Any) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


# -- requests -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A certificate, its key and what stands above it."""

    certificate: x509.Certificate
    key: Any
    chain: tuple[x509.Certificate, ...] = ()


def identifier(key: Any) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def csr(
    key: Any,
    subject: x509.Name,
    *,
    names: Sequence[x509.GeneralName] = (),
    attributes: Sequence[tuple[str, bytes]] = (),
    has_identifier: bool = True,
    digest: Any = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> bytes:
    """Return a PKCS#10; ``attributes`` are pairs of an OID and one value in DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if has_identifier:
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(ski, critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if attributes:
        return _with_attributes(key, builder, attributes)
    if digest is None and isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        digest = hashes.SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def _with_attributes(key: Any, builder: Any, attributes: Sequence[tuple[str, bytes]]) -> bytes:
    """Sign again by hand: the builder takes attributes of ASCII only."""
    digest = hashes.SHA256() if not isinstance(key, ed25519.Ed25519PrivateKey) else None
    made = builder.sign(key, digest).public_bytes(Encoding.DER)
    request = decode(made, rfc6402.CertificationRequest())
    for oid, value in attributes:
        attribute = rfc5652.Attribute()
        attribute["attrType"] = oid
        attribute["attrValues"].append(univ.Any(value))
        request["certificationRequestInfo"]["attributes"].append(attribute)
    info = encode(request["certificationRequestInfo"])
    request["signature"] = univ.BitString.fromOctetString(_sign(key, info))
    return encode(request)


def no_signature_csr(key: Any, subject: x509.Name) -> bytes:
    """Return a PKCS#10 with a digest in the place of a signature (RFC 10002, C.1)."""
    other = ec.generate_private_key(ec.SECP256R1())
    request = decode(csr(other, subject, has_identifier=False), rfc6402.CertificationRequest())
    info = request["certificationRequestInfo"]
    info["subjectPublicKeyInfo"] = decode(
        spki(key.public_key()),
        rfc6402.CertificationRequest()["certificationRequestInfo"]["subjectPublicKeyInfo"],
    )
    digest = hashlib.sha256(encode(info)).digest()
    request["signatureAlgorithm"]["algorithm"] = NO_SIGNATURE
    request["signatureAlgorithm"]["parameters"] = univ.Any(b"\x05\x00")
    request["signature"] = univ.BitString.fromOctetString(octets(digest))
    return encode(request)


def tcr(number: int, csr_der: bytes) -> Any:
    tagged = rfc6402.TaggedRequest()
    tagged["tcr"]["bodyPartID"] = number
    tagged["tcr"]["certificationRequest"] = decode(csr_der, rfc6402.CertificationRequest())
    return tagged


def crm(
    number: int,
    key: Any,
    subject: x509.Name,
    *,
    proof: str = "signature",
    controls: Sequence[tuple[str, bytes]] = (),
    extensions: Sequence[tuple[str, bytes]] = (),
    public_key: Any = None,
) -> Any:
    """Return a CertReqMsg; ``proof`` is signature, raVerified, keyEncipherment or none."""
    request = rfc4211.CertRequest()
    request["certReqId"] = number
    template = request["certTemplate"]
    template["subject"]["rdnSequence"] = decode(name_der(subject), rfc5280.RDNSequence())
    key_info = template["publicKey"].clone()
    plain = decode(spki(public_key or key.public_key()), rfc5280.SubjectPublicKeyInfo())
    key_info["algorithm"] = plain["algorithm"]
    key_info["subjectPublicKey"] = plain["subjectPublicKey"]
    template["publicKey"] = key_info
    for oid, value in extensions:
        extension = rfc5280.Extension()
        extension["extnID"], extension["extnValue"] = oid, value
        template["extensions"].append(extension)
    for oid, value in controls:
        control = rfc4211.AttributeTypeAndValue()
        control["type"], control["value"] = oid, univ.Any(value)
        request["controls"].append(control)
    tagged = rfc6402.TaggedRequest()
    tagged["crm"]["certReq"] = request
    popo = tagged["crm"]["popo"]
    if proof == "signature":
        algorithm_oid, value = _sign_named(key, encode(request))
        popo["signature"]["algorithmIdentifier"]["algorithm"] = algorithm_oid
        popo["signature"]["signature"] = univ.BitString.fromOctetString(value)
    elif proof == "raVerified":
        popo["raVerified"] = ""
    elif proof == "keyEncipherment":
        popo["keyEncipherment"]["subsequentMessage"] = 1  # challengeResp
    return tagged


def orm(number: int) -> Any:
    tagged = rfc6402.TaggedRequest()
    tagged["orm"]["bodyPartID"] = number
    tagged["orm"]["requestMessageType"] = "1.2.3.4"
    tagged["orm"]["requestMessageValue"] = univ.Any(b"\x05\x00")
    return tagged


def sequence_of(requests: Sequence[Any]) -> bytes:
    """Return reqSequence, which identity proofs cover."""
    data = rfc6402.PKIData()
    data["reqSequence"].clear()
    data["reqSequence"].extend(requests)
    return encode(data["reqSequence"])


# -- controls -------------------------------------------------------------------------------


def witness(
    secret: str,
    data: bytes,
    *,
    identification: str = "",
    digest: str = "sha256",
    kind: Any = rfc6402.IdentifyProofV2,
) -> bytes:
    """Return IdentityProofV2 over reqSequence, or PopLinkWitnessV2 over a random value."""
    key = hashlib.new(digest, (secret + identification).encode()).digest()
    found = kind()
    oids = {"sha256": (SHA256, HMAC_SHA256), "sha1": (SHA1, HMAC_SHA1)}[digest]
    names = list(found)
    found[names[0]] = algorithm(oids[0])
    found[names[1]] = algorithm(oids[1])
    found["witness"] = hmac.digest(key, data, digest)
    return encode(found)


def proof(reference: str, secret: str, requests: Sequence[Any], **options: Any) -> list[Any]:
    """Return the two controls that prove an identity (RFC 10002, 6.2)."""
    made = witness(secret, sequence_of(requests), identification=reference, **options)
    return [(IDENTIFICATION, utf8(reference)), (PROOF_V2, made)]


def link(secret: str, random: bytes, **options: Any) -> tuple[str, bytes]:
    """Return the attribute, or the control of a template, that links (RFC 10002, 6.3)."""
    made = witness(secret, random, kind=rfc6402.PopLinkWitnessV2, **options)
    return CMC + str(LINK_WITNESS_V2), made


def link_by_pbkdf2(secret: str, random: bytes, *, rounds: int) -> tuple[str, bytes]:
    """Return the same with a key by PBKDF2 and HMAC-SHA-256."""
    salt = b"s" * 16
    parameters = univ.Sequence()
    for position, each in enumerate(
        (
            univ.OctetString(salt),
            univ.Integer(rounds),
            univ.Integer(32),
            algorithm(HMAC_SHA256, b"\x05\x00"),
        )
    ):
        parameters.setComponentByPosition(position, each)
    found = rfc6402.PopLinkWitnessV2()
    found["keyGenAlgorithm"] = algorithm("1.2.840.113549.1.5.12", encode(parameters))
    found["macAlgorithm"] = algorithm(HMAC_SHA256)
    key = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, rounds, 32)
    found["witness"] = hmac.digest(key, random, "sha256")
    return CMC + str(LINK_WITNESS_V2), encode(found)


def issuer_and_serial(certificate: x509.Certificate) -> Any:
    found = rfc5652.IssuerAndSerialNumber()
    found["issuer"]["rdnSequence"] = decode(name_der(certificate.issuer), rfc5280.RDNSequence())
    found["serialNumber"] = certificate.serial_number
    return found


def _general_name(name: x509.Name) -> Any:
    found = rfc5280.GeneralName()
    found["directoryName"]["rdnSequence"] = decode(name_der(name), rfc5280.RDNSequence())
    return found


def get_cert(issuer: x509.Name, serial: int) -> bytes:
    found = rfc6402.GetCert()
    found["issuerName"] = _general_name(issuer)
    found["serialNumber"] = serial
    return encode(found)


def get_crl(issuer: x509.Name, at: datetime | None = None) -> bytes:
    found = rfc6402.GetCRL()
    found["issuerName"]["rdnSequence"] = decode(name_der(issuer), rfc5280.RDNSequence())
    if at is not None:
        found["time"] = at.strftime("%Y%m%d%H%M%SZ")
    return encode(found)


def revoke(
    certificate: x509.Certificate,
    reason: int = 1,
    *,
    passphrase: str | None = None,
    since: datetime | None = None,
    comment: str | None = None,
) -> bytes:
    found = rfc6402.RevokeRequest()
    found["issuerName"]["rdnSequence"] = decode(name_der(certificate.issuer), rfc5280.RDNSequence())
    found["serialNumber"] = certificate.serial_number
    found["reason"] = reason
    if since is not None:
        found["invalidityDate"] = since.strftime("%Y%m%d%H%M%SZ")
    if passphrase is not None:
        found["passphrase"] = passphrase.encode()
    if comment is not None:
        found["comment"] = comment
    return encode(found)


def modify(
    path: Sequence[int],
    requests: Sequence[int],
    *,
    subject: x509.Name | None = None,
    extensions: Sequence[tuple[str, bytes]] = (),
    replace: bool = True,
) -> bytes:
    found = rfc6402.ModCertTemplate()
    found["pkiDataReference"].extend(path)
    found["certReferences"].extend(requests)
    if not replace:
        found["replace"] = False
    template = found["certTemplate"]
    template["version"] = 2
    if subject is not None:
        template["subject"]["rdnSequence"] = decode(name_der(subject), rfc5280.RDNSequence())
    for oid, value in extensions:
        extension = rfc5280.Extension()
        extension["extnID"], extension["extnValue"] = oid, value
        template["extensions"].append(extension)
    return encode(found)


def add_extensions(
    number: int, requests: Sequence[int], extensions: Sequence[tuple[str, bytes]]
) -> bytes:
    found = rfc6402.AddExtensions()
    found["pkiDataReference"] = number
    found["certReferences"].extend(requests)
    for oid, value in extensions:
        extension = rfc5280.Extension()
        extension["extnID"], extension["extnValue"] = oid, value
        found["extensions"].append(extension)
    return encode(found)


def vouch(number: int, requests: Sequence[int]) -> bytes:
    found = rfc6402.LraPopWitness()
    found["pkiDataBodyid"] = number
    found["bodyIds"].extend(requests)
    return encode(found)


def processed(*paths: Sequence[int]) -> bytes:
    found = rfc6402.ControlsProcessed()
    for path in paths:
        reference = rfc6402.BodyPartReference()
        if len(path) == 1:
            reference["bodyPartID"] = path[0]
        else:
            reference["bodyPartPath"].extend(path)
        found["bodyList"].append(reference)
    return encode(found)


def new_name(subject: x509.Name | None, names: Sequence[x509.GeneralName] = ()) -> bytes:
    found = rfc6402.ChangeSubjectName()
    if subject is not None:
        found["subject"]["rdnSequence"] = decode(name_der(subject), rfc5280.RDNSequence())
    if names:
        value = x509.SubjectAlternativeName(names).public_bytes()
        for each in decode(value, rfc5280.GeneralNames()):
            found["subjectAlt"].append(each)
    return encode(found)


def status_v2(status: int, *parts: int, text: str = "") -> bytes:
    found = rfc6402.CMCStatusInfoV2()
    found["cMCStatus"] = status
    for number in parts:
        reference = rfc6402.BodyPartReference()
        reference["bodyPartID"] = number
        found["bodyList"].append(reference)
    if text:
        found["statusString"] = text
    return encode(found)


# -- messages -------------------------------------------------------------------------------


def pki_data(
    controls: Sequence[Any] = (),
    requests: Sequence[Any] = (),
    messages: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Return a PKIData; controls are (arc or OID, value) or (number, arc or OID, value)."""
    data = rfc6402.PKIData()
    for field in ("controlSequence", "reqSequence", "cmsSequence", "otherMsgSequence"):
        data[field].clear()
    for count, control in enumerate(controls, 1001):
        number, kind, value = control if len(control) == 3 else (count, *control)
        tagged = rfc6402.TaggedAttribute()
        tagged["bodyPartID"] = number
        tagged["attrType"] = kind if isinstance(kind, str) else CMC + str(kind)
        tagged["attrValues"].append(univ.Any(value))
        data["controlSequence"].append(tagged)
    data["reqSequence"].extend(requests)
    for number, message in messages:
        wrapped = rfc6402.TaggedContentInfo()
        wrapped["bodyPartID"] = number
        wrapped["contentInfo"] = decode(message, rfc5652.ContentInfo())
        data["cmsSequence"].append(wrapped)
    return encode(data)


def _attribute(oid: str, value: bytes) -> Any:
    attribute = rfc5652.Attribute()
    attribute["attrType"] = oid
    attribute["attrValues"].append(univ.Any(value))
    return attribute


def signed(
    content: bytes | None,
    holder: Holder | None = None,
    *,
    key: Any = None,
    no_signature: bytes | None = None,
    content_type: str = PKI_DATA,
    certificates: Sequence[x509.Certificate] | None = None,
    at: datetime | None = None,
    digest: str = "sha256",
) -> bytes:
    """Return SignedData: by a holder, by a request's ``key``, by nobody, or with a digest only.

    ``no_signature`` is the key identifier that goes with a digest (RFC 10002, C.1).
    """
    data = rfc5652.SignedData()
    data["version"] = 3
    data["digestAlgorithms"].append(algorithm({"sha256": SHA256, "sha1": SHA1}[digest]))
    data["encapContentInfo"]["eContentType"] = content_type
    if content is not None:
        data["encapContentInfo"]["eContent"] = content
    if certificates is None:
        certificates = () if holder is None else (holder.certificate, *holder.chain)
    for certificate in certificates:
        choice = rfc5652.CertificateChoices()
        choice["certificate"] = decode(
            certificate.public_bytes(Encoding.DER), rfc5280.Certificate()
        )
        data["certificates"].append(choice)
    data["signerInfos"].clear()
    if holder is not None or key is not None or no_signature is not None:
        info = _signer_info(content or b"", holder, key, no_signature, content_type, at, digest)
        data["signerInfos"].append(info)
    return content_info(SIGNED_DATA, encode(data))


def content_info(content_type: str, content: bytes) -> bytes:
    found = rfc5652.ContentInfo()
    found["contentType"] = content_type
    found["content"] = univ.Any(content)
    return encode(found)


def _signer_info(
    content: bytes,
    holder: Holder | None,
    key: Any,
    no_signature: bytes | None,
    content_type: str,
    at: datetime | None,
    digest: str,
) -> Any:
    info = rfc5652.SignerInfo()
    if holder is not None:
        info["version"] = 1
        info["sid"]["issuerAndSerialNumber"] = issuer_and_serial(holder.certificate)
        key = holder.key
    else:
        info["version"] = 3
        info["sid"]["subjectKeyIdentifier"] = no_signature or identifier(key)
    info["digestAlgorithm"] = algorithm({"sha256": SHA256, "sha1": SHA1}[digest])
    attributes = info["signedAttrs"]
    attributes.append(
        _attribute("1.2.840.113549.1.9.3", encode(univ.ObjectIdentifier(content_type)))
    )
    attributes.append(
        _attribute("1.2.840.113549.1.9.4", octets(hashlib.new(digest, content).digest()))
    )
    if at is not None:
        when = useful.UTCTime(at.strftime("%y%m%d%H%M%SZ"))
        attributes.append(_attribute("1.2.840.113549.1.9.5", encode(when)))
    plain = univ.SetOf(componentType=rfc5652.Attribute())
    plain.extend(list(attributes))
    signed_octets = encode(plain)
    if no_signature is not None:
        info["signatureAlgorithm"] = algorithm(NO_SIGNATURE, b"\x05\x00")
        info["signature"] = hashlib.new(digest, signed_octets).digest()
        return info
    oid, value = _sign_named(key, signed_octets, digest)
    info["signatureAlgorithm"] = algorithm(oid)
    info["signature"] = value
    return info


def _sign_named(key: Any, data: bytes, digest: str = "sha256") -> tuple[str, bytes]:
    chosen = hashes.SHA1() if digest == "sha1" else hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        oid = "1.2.840.10045.4.1" if digest == "sha1" else "1.2.840.10045.4.3.2"
        return oid, key.sign(data, ec.ECDSA(chosen))
    if isinstance(key, rsa.RSAPrivateKey):
        oid = "1.2.840.113549.1.1.5" if digest == "sha1" else "1.2.840.113549.1.1.11"
        return oid, key.sign(data, rsa_padding.PKCS1v15(), chosen)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "1.3.101.112", key.sign(data)
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return "2.16.840.1.101.3.4.3.18", key.sign(data)
    raise AssertionError("this key does not sign")


def _sign(key: Any, data: bytes) -> bytes:
    return _sign_named(key, data)[1]


def authenticated(
    content: bytes,
    password: bytes,
    *,
    rounds: int = 2_000,
    content_type: str = PKI_DATA,
    salt: bytes | None = None,
    mac: str = "sha256",
) -> bytes:
    """Return AuthenticatedData under a password (RFC 5652, 9; RFC 3211)."""
    salt = os.urandom(16) if salt is None else salt
    mac_key = os.urandom(32)
    wrapping = hashlib.pbkdf2_hmac("sha256", password, salt, rounds, 32)
    vector = os.urandom(16)
    block = bytes((32,)) + bytes(each ^ 0xFF for each in mac_key[:3]) + mac_key + os.urandom(12)
    once = _cbc(wrapping, vector, block)
    wrapped = _cbc(wrapping, once[-16:], once)
    derivation = univ.Sequence()
    for position, each in enumerate(
        (
            univ.OctetString(salt),
            univ.Integer(rounds),
            algorithm(HMAC_SHA256, b"\x05\x00"),
        )
    ):
        derivation.setComponentByPosition(position, each)
    inner = algorithm("2.16.840.1.101.3.4.1.42", octets(vector))
    data = rfc5652.AuthenticatedData()
    data["version"] = 0
    recipient = rfc5652.RecipientInfo()
    info = recipient["pwri"]
    info["version"] = 0
    info["keyDerivationAlgorithm"]["algorithm"] = "1.2.840.113549.1.5.12"
    info["keyDerivationAlgorithm"]["parameters"] = univ.Any(encode(derivation))
    info["keyEncryptionAlgorithm"] = algorithm("1.2.840.113549.1.9.16.3.9", encode(inner))
    info["encryptedKey"] = wrapped
    data["recipientInfos"].append(recipient)
    oid = {"sha256": HMAC_SHA256, "sha1": HMAC_SHA1}[mac]
    data["macAlgorithm"]["algorithm"] = oid
    data["digestAlgorithm"]["algorithm"] = SHA256
    data["encapContentInfo"]["eContentType"] = content_type
    data["encapContentInfo"]["eContent"] = content
    plain = univ.SetOf(componentType=rfc5652.Attribute())
    for attribute in (
        _attribute("1.2.840.113549.1.9.3", encode(univ.ObjectIdentifier(content_type))),
        _attribute("1.2.840.113549.1.9.4", octets(hashlib.sha256(content).digest())),
    ):
        data["authAttrs"].append(attribute)
        plain.append(attribute)
    data["mac"] = hmac.digest(mac_key, encode(plain), mac)
    return content_info("1.2.840.113549.1.9.16.1.2", encode(data))


def _cbc(key: bytes, vector: bytes, data: bytes) -> bytes:
    context = Cipher(AES(key), CBC(vector)).encryptor()
    return context.update(data) + context.finalize()


def enveloped(content: bytes, certificate: x509.Certificate, *, content_type: str) -> bytes:
    """Return EnvelopedData by RSA key transport."""
    public_key = certificate.public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    content_key, vector = os.urandom(32), os.urandom(16)
    padder = padding.PKCS7(128).padder()
    padded = padder.update(content) + padder.finalize()
    data = rfc5652.EnvelopedData()
    data["version"] = 0
    recipient = rfc5652.RecipientInfo()
    info = recipient["ktri"]
    info["version"] = 0
    info["rid"]["issuerAndSerialNumber"] = issuer_and_serial(certificate)
    info["keyEncryptionAlgorithm"] = algorithm("1.2.840.113549.1.1.1", b"\x05\x00")
    info["encryptedKey"] = public_key.encrypt(content_key, rsa_padding.PKCS1v15())
    data["recipientInfos"].append(recipient)
    encrypted = data["encryptedContentInfo"]
    encrypted["contentType"] = content_type
    encrypted["contentEncryptionAlgorithm"]["algorithm"] = "2.16.840.1.101.3.4.1.42"
    encrypted["contentEncryptionAlgorithm"]["parameters"] = univ.Any(octets(vector))
    encrypted["encryptedContent"] = _cbc(content_key, vector, padded)
    return content_info("1.2.840.113549.1.7.3", encode(data))


# -- answers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """One CMCStatusInfoV2."""

    status: int
    parts: tuple[int | tuple[int, ...], ...]
    text: str
    fail: int | None
    token: bytes
    again_at: datetime | None


class Answer:
    """A simple or full response, its signature checked."""

    def __init__(self, message: bytes) -> None:
        self.octets = message
        outer = decode(message, rfc5652.ContentInfo())
        assert str(outer["contentType"]) == SIGNED_DATA
        self.signed = decode(bytes(outer["content"]), rfc5652.SignedData())
        self.certificates = [
            x509.load_der_x509_certificate(encode(each["certificate"]))
            for each in self.signed["certificates"]
        ]
        self.crls = [
            x509.load_der_x509_crl(encode(each["crl"]))
            for each in (self.signed["crls"] if self.signed["crls"].hasValue() else ())
        ]
        self.is_full = bool(len(self.signed["signerInfos"]))
        self.controls: dict[int, list[bytes]] = {}
        self.messages: dict[int, bytes] = {}
        if self.is_full:
            self.signer = self._verify()
            content = bytes(self.signed["encapContentInfo"]["eContent"])
            assert str(self.signed["encapContentInfo"]["eContentType"]) == PKI_RESPONSE
            body = decode(content, rfc6402.PKIResponse())
            for control in body["controlSequence"]:
                arc = int(str(control["attrType"]).rpartition(".")[2])
                values = [bytes(value) for value in control["attrValues"]]
                self.controls.setdefault(arc, []).extend(values)
            for message_ in body["cmsSequence"]:
                self.messages[int(message_["bodyPartID"])] = encode(message_["contentInfo"])

    def _verify(self) -> x509.Certificate:
        (info,) = self.signed["signerInfos"]
        sid = info["sid"]["issuerAndSerialNumber"]
        (signer,) = [
            each for each in self.certificates if each.serial_number == int(sid["serialNumber"])
        ]
        plain = univ.SetOf(componentType=rfc5652.Attribute())
        plain.extend(list(info["signedAttrs"]))
        attributes = {str(a["attrType"]): bytes(a["attrValues"][0]) for a in info["signedAttrs"]}
        digest = {SHA256: "sha256", SHA512: "sha512", "2.16.840.1.101.3.4.2.2": "sha384"}[
            str(info["digestAlgorithm"]["algorithm"])
        ]
        content = bytes(self.signed["encapContentInfo"]["eContent"])
        assert attributes["1.2.840.113549.1.9.4"] == octets(hashlib.new(digest, content).digest())
        key: Any = signer.public_key()
        value, covered = bytes(info["signature"]), encode(plain)
        chosen = {"sha256": hashes.SHA256(), "sha512": hashes.SHA512(), "sha384": hashes.SHA384()}[
            digest
        ]
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(value, covered, ec.ECDSA(chosen))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(value, covered, rsa_padding.PKCS1v15(), chosen)
        else:
            key.verify(value, covered)
        return signer

    @property
    def told(self) -> list[Told]:
        found = []
        for value in self.controls.get(STATUS_V2, ()):
            info = decode(value, rfc6402.CMCStatusInfoV2())
            parts: list[int | tuple[int, ...]] = []
            for part in info["bodyList"]:
                if part.getName() == "bodyPartID":
                    parts.append(int(part["bodyPartID"]))
                else:
                    parts.append(tuple(int(each) for each in part["bodyPartPath"]))
            other = info["otherInfo"]
            fail, token, again = None, b"", None
            if other.hasValue() and other.getName() == "failInfo":
                fail = int(other["failInfo"])
            elif other.hasValue() and other.getName() == "pendInfo":
                token = bytes(other["pendInfo"]["pendToken"])
                again = datetime.strptime(
                    str(other["pendInfo"]["pendTime"]), "%Y%m%d%H%M%SZ"
                ).replace(tzinfo=UTC)
            text = str(info["statusString"]) if info["statusString"].hasValue() else ""
            found.append(Told(int(info["cMCStatus"]), tuple(parts), text, fail, token, again))
        return found

    @property
    def statuses(self) -> list[tuple[int, tuple[Any, ...], int | None]]:
        return [(each.status, each.parts, each.fail) for each in self.told]

    def inner(self, number: int) -> Answer:
        return Answer(self.messages[number])

    def certified(self, key: Any) -> x509.Certificate:
        """Return the certificate of a key."""
        public = key.public_key() if hasattr(key, "public_key") else key
        (found,) = [each for each in self.certificates if spki(each.public_key()) == spki(public)]
        return found


@dataclass(frozen=True)
class Challenge:
    """An EncryptedPOP."""

    request: bytes
    envelope: bytes
    witness: bytes

    @classmethod
    def of(cls, answer: Answer) -> Challenge:
        (value,) = answer.controls[ENCRYPTED]
        found = decode(value, rfc6402.EncryptedPOP())
        assert str(found["thePOPAlgID"]["algorithm"]) == HMAC_SHA256
        assert str(found["witnessAlgID"]["algorithm"]) == SHA256
        return cls(encode(found["request"]), encode(found["cms"]), bytes(found["witness"]))

    def solve(self, key: Any) -> bytes:
        """Return the proof value, checked as clients must."""
        value = open_envelope(self.envelope, key)
        assert hashlib.sha256(value).digest() == self.witness
        return value

    def answer(self, key: Any, number: int) -> tuple[int, bytes]:
        """Return the DecryptedPOP control."""
        found = rfc6402.DecryptedPOP()
        found["bodyPartID"] = number
        found["thePOPAlgID"] = algorithm(HMAC_SHA256)
        found["thePOP"] = hmac.digest(self.solve(key), self.request, "sha256")
        return DECRYPTED, encode(found)


def open_envelope(envelope: bytes, key: Any) -> bytes:
    """Decrypt EnvelopedData for one key, by what its recipient info says."""
    outer = decode(envelope, rfc5652.ContentInfo())
    data = decode(bytes(outer["content"]), rfc5652.EnvelopedData())
    (recipient,) = data["recipientInfos"]
    content_key = _content_key(recipient, key)
    encrypted = data["encryptedContentInfo"]
    vector = bytes(
        decode(bytes(encrypted["contentEncryptionAlgorithm"]["parameters"]), univ.OctetString())
    )
    context = Cipher(AES(content_key), CBC(vector)).decryptor()
    padded = context.update(bytes(encrypted["encryptedContent"])) + context.finalize()
    unpadder = padding.PKCS7(128).unpadder()
    return unpadder.update(padded) + unpadder.finalize()


def _content_key(recipient: Any, key: Any) -> bytes:
    kind = recipient.getName()
    if kind == "ktri":
        scheme = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        found: bytes = key.decrypt(bytes(recipient["ktri"]["encryptedKey"]), scheme)
        return found
    if kind == "ori":
        info = decode(bytes(recipient["ori"]["oriValue"]), rfc9629.KEMRecipientInfo())
        shared = key.decapsulate(bytes(info["kemct"]))
        other = rfc9629.CMSORIforKEMOtherInfo()
        other["wrap"]["algorithm"] = info["wrap"]["algorithm"]
        other["kekLength"] = info["kekLength"]
        wrapping = HKDF(hashes.SHA256(), int(info["kekLength"]), None, encode(other)).derive(shared)
        return aes_key_unwrap(wrapping, bytes(info["encryptedKey"]))
    info = recipient["kari"]
    originator = info["originator"]["originatorKey"]
    point = originator["publicKey"].asOctets()
    shared_info = univ.Sequence()
    wrap = decode(
        bytes(info["keyEncryptionAlgorithm"]["parameters"]), rfc5280.AlgorithmIdentifier()
    )
    bits = univ.OctetString((256).to_bytes(4, "big")).subtype(
        explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, 2)
    )
    shared_info.setComponentByPosition(0, wrap)
    shared_info.setComponentByPosition(1, bits)
    if isinstance(key, x25519.X25519PrivateKey):
        secret = key.exchange(x25519.X25519PublicKey.from_public_bytes(point))
        wrapping = HKDF(hashes.SHA256(), 32, None, encode(shared_info)).derive(secret)
    else:
        other_key = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point)
        digest = {256: hashes.SHA256(), 384: hashes.SHA384()}[key.curve.key_size]
        secret = key.exchange(ec.ECDH(), other_key)
        wrapping = X963KDF(digest, 32, encode(shared_info)).derive(secret)
    (encrypted,) = info["recipientEncryptedKeys"]
    return aes_key_unwrap(wrapping, bytes(encrypted["encryptedKey"]))


def open_authenticated(message: bytes, password: bytes) -> bytes:
    """Return the content of AuthenticatedData under a password, after checking its MAC."""
    outer = decode(message, rfc5652.ContentInfo())
    data = decode(bytes(outer["content"]), rfc5652.AuthenticatedData())
    info = data["recipientInfos"][0]["pwri"]
    derivation = decode(bytes(info["keyDerivationAlgorithm"]["parameters"]))
    wrapping = hashlib.pbkdf2_hmac("sha256", password, bytes(derivation[0]), int(derivation[1]), 32)
    inner = decode(
        bytes(info["keyEncryptionAlgorithm"]["parameters"]), rfc5280.AlgorithmIdentifier()
    )
    vector = bytes(decode(bytes(inner["parameters"])))
    wrapped = bytes(info["encryptedKey"])
    last = _uncbc(wrapping, wrapped[-32:-16], wrapped[-16:])
    once = _uncbc(wrapping, last, wrapped[:-16]) + last
    block = _uncbc(wrapping, vector, once)
    mac_key = block[4 : 4 + block[0]]
    plain = univ.SetOf(componentType=rfc5652.Attribute())
    plain.extend(list(data["authAttrs"]))
    assert hmac.digest(mac_key, encode(plain), "sha256") == bytes(data["mac"])
    content = bytes(data["encapContentInfo"]["eContent"])
    digests = [bytes(a["attrValues"][0]) for a in data["authAttrs"]]
    assert octets(hashlib.sha256(content).digest()) in digests
    return content


def _uncbc(key: bytes, vector: bytes, data: bytes) -> bytes:
    context = Cipher(AES(key), CBC(vector)).decryptor()
    return context.update(data) + context.finalize()
