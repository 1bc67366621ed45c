"""CMP on a whole core: revocation, questions, registration authorities, keys made here."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc9810

from tests import cmp_client as client
from tests.cmp_client import (
    CP,
    CR,
    ERROR,
    GENP,
    IP,
    IR,
    KUP,
    KUR,
    NESTED,
    PKICONF,
    RP,
    Holder,
    Reply,
    name,
)  # fmt: skip
from tests.support import drive
from tests.unit.ca_bench import ADMIN
from tests.unit.cmp_world import (
    World,
    encrypting,
    infos,
    new_key,
    refusal,
    registered,
    self_signed,
    sequence,
    world,
)
from tests.unit.test_enrolment_credentials import Maker
from tmad.errors import Fault, FaultCode
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage.issuers import IssuerState
from tmad.wire import cms, der
from tmad.wire.signatures import Policy

DEV = name("dev1")
KEY = new_key()


# -- rr ------------------------------------------------------------------------------------


def test_revocations_that_are_refused() -> None:
    w = world()
    holder, other = w.enroll(), w.enroll("dev2")
    asking = w.client(holder)
    own = holder.certificate
    both = der.sequence(
        *[
            der.sequence(der.oid("2.5.29.21"), der.octets(der.tlv(0x0A, bytes((n,)))))
            for n in (1, 4)
        ]
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"serial": None}, "addInfoNotAvailable"),
        ({"issuer": None}, "addInfoNotAvailable"),
        ({"serial": 12345}, "badCertId"),
        ({"serial": -5}, "badCertId"),
        ({"issuer": name("another CA")}, "badCertId"),
        ({"serial": other.certificate.serial_number}, "badCertId"),
        ({"subject": name("dev2")}, "badCertId"),
        ({"public_key": client.spki(new_key().public_key())}, "badCertId"),
        ({"reason": 7}, "badDataFormat"),
        ({"reason": 11}, "badDataFormat"),
        ({"reason": 2}, "badDataFormat"),
        ({"reason": 8}, "notAuthorized"),
        ({"reasons": both}, "badRequest"),
    ]
    for fields, bit in cases:
        asking.begin()
        reply = asking.revoke(own, **fields)
        refusal(reply, RP, bit)
        reply.check(holder, w.ca)
    asking.begin()
    assert (
        asking.revoke(own, subject=DEV, public_key=client.spki(holder.key.public_key())).status == 0
    )
    assert w.status_of(other.certificate) == "good"
    refusal(w.client(w.shared()).revoke(other.certificate), ERROR, "wrongIntegrity")
    refusal(w.client(None).revoke(other.certificate), ERROR, "badMessageCheck")


def test_a_repeated_revocation_is_answered_alike() -> None:
    w = world()
    holder = w.enroll()
    asking = w.client(holder)
    first = asking.revoke(holder.certificate)
    assert first.status == 0
    assert asking.send_raw(asking.sent[-1]).der == first.der
    assert len(w.events("certificate.revoked")) == 1


def test_revocations_without_a_reason() -> None:
    w = world()
    holder = w.enroll()
    assert w.client(holder).revoke(holder.certificate, None).status == 0


# -- genm ----------------------------------------------------------------------------------


def test_questions() -> None:
    w = world()
    holder = w.enroll()
    asking = w.client(holder)
    found = infos(asking.ask(*[(number, b"") for number in (1, 2, 3, 4, 5, 6, 16, 17, 19, 20, 99)]))
    assert list(found) == [1, 2, 3, 4, 5, 6, 16, 17, 19, 18, 7]
    assert found[1] is found[5] is found[18] is None
    assert sequence(found[3]) == [der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL_DER)]
    crl = x509.load_der_x509_crl(found[6] or b"")
    assert crl.is_signature_valid(w.ca.public_key())  # type: ignore[arg-type]
    (ca,) = sequence(found[17])
    assert x509.load_der_x509_certificate(ca) == w.ca
    assert der.oid("1.3.6.1.5.5.7.4.99") in (found[7] or b"")
    template, keys = sequence(found[19])
    assert der.oid("1.3.6.1.5.5.7.5.1.12") in keys
    oracle, rest = decoder.decode(found[19], asn1Spec=rfc9810.CertReqTemplateContent())
    assert not rest
    assert oracle["certTemplate"].hasValue()
    assert template


def test_kinds_of_keys_that_are_certified() -> None:
    w = encrypting()
    asking = w.client(w.enroll())
    found = infos(asking.ask((2, b""), (3, b"")))
    named: dict[int, list[str]] = {}
    for number in (2, 3):
        content, rest = decoder.decode(found[number], asn1Spec=rfc9810.SignKeyPairTypesValue())
        assert not rest
        named[number] = [str(each["algorithm"]) for each in content]
    rsa_ec = ["1.2.840.113549.1.1.1", "1.2.840.10045.2.1", "1.2.840.10045.2.1"]
    ml_kem = ["2.16.840.1.101.3.4.4.2", "2.16.840.1.101.3.4.4.3"]
    assert named == {2: [*rsa_ec, "1.3.101.112"], 3: [*rsa_ec, "1.3.101.110", *ml_kem]}


def test_questions_by_whoever_knows_a_secret_that_is_not_used_up() -> None:
    w = world()
    shared = w.shared()
    assert infos(w.client(shared).ask((17, b"")))[17]
    w.enroll(shared=shared)
    refusal(w.client(shared).ask((17, b"")), ERROR, "badMessageCheck")


def test_questions_with_a_value_where_none_belongs() -> None:
    w = world()
    asking = w.client(w.enroll())
    for number in (1, 2, 4, 5, 6, 17, 19):
        asking.begin()
        refusal(asking.ask((number, der.integer(1))), ERROR, "badRequest")
    asking.begin()
    refusal(asking.ask((20, der.integer(1))), ERROR, "badRequest")
    asking.begin()
    refusal(asking.send(client.GENM, der.sequence()), ERROR, "badRequest")
    asking.begin()
    refusal(asking.ask(*[(17, b"")] * 31), ERROR, "badRequest")


def test_the_next_root() -> None:
    w = world()
    asking = w.client(w.enroll())
    old = w.ca.public_bytes(Encoding.DER)
    assert infos(asking.ask((20, old))) == {18: None}
    drive(w.root("devices", KeyAlgorithm.P256, generation=2, state=IssuerState.NEXT))
    following = drive(w.hierarchy.next("default", "devices"))
    assert following is not None
    for value in (old, b""):
        asking.begin()
        found = infos(asking.ask((20, value)))[18]
        oracle, rest = decoder.decode(found, asn1Spec=rfc9810.RootCaKeyUpdateContent())
        assert not rest
        new = x509.load_der_x509_certificate(encoder.encode(oracle["newWithNew"]))
        assert new == following.certificate
    # Of a root that is not ours nothing is said.
    asking.begin()
    foreign = self_signed(new_key()).certificate.public_bytes(Encoding.DER)
    assert infos(asking.ask((20, foreign))) == {18: None}


def test_parameters_of_keys() -> None:
    w = world()
    asking = w.client(w.enroll())
    assert infos(asking.ask((10, der.oid("1.2.840.10045.2.1"))))[11] == der.sequence(
        der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")
    )
    asking.begin()
    assert infos(asking.ask((10, der.oid("1.2.840.113549.1.1.1"))))[11] is None


def test_crls_that_are_newer() -> None:
    w = world()
    asking = w.client(w.enroll())
    issuer = client.directory_name(w.ca.subject)
    by_name = der.explicit(1, der.sequence(issuer))
    by_url = der.explicit(0, der.explicit(0, der.tlv(0x86, b"http://10.0.0.1/evil.crl")))
    own = drive(w.hierarchy.active("default", "devices"))
    by_our_url = der.explicit(0, der.explicit(0, der.tlv(0x86, w.hierarchy.urls(own).crl.encode())))

    def crls(*sources: bytes) -> bytes | None:
        asking.begin()
        value = der.sequence(*[der.sequence(source) for source in sources])
        return infos(asking.ask((22, value)))[23]

    def since(at: datetime) -> bytes:
        return der.tlv(der.GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").encode())

    assert len(sequence(crls(by_name))) == 1
    assert len(sequence(crls(by_name, by_our_url))) == 1
    assert crls(by_url) is None  # and nothing was fetched: there is nobody who could
    assert crls(by_name + since(w.clock() + timedelta(hours=1))) is None
    assert len(sequence(crls(by_name + since(w.clock() - timedelta(days=2))))) == 1
    asking.begin()
    refusal(asking.ask((22, der.sequence(*[der.sequence(by_url)] * 11))), ERROR, "badRequest")


# -- registration authorities --------------------------------------------------------------


@pytest.fixture
def with_ra() -> tuple[World, Holder]:
    ra = {"registration_authorities": ["tls-client"], "renewal": {"profiles": ["device"]}}
    return registered(world(**ra))


def test_an_ra_asks_and_revokes_for_others(with_ra: tuple[World, Holder]) -> None:
    w, ra = with_ra
    asking = w.client(ra)
    key = new_key()
    reply = asking.request(IR, key, DEV, proof=b"\x80\0")
    assert reply.status == 0, reply.text
    assert asking.confirm(reply.certificate).body == PKICONF
    asking.begin()
    assert asking.revoke(reply.certificate).status == 0
    assert w.status_of(reply.certificate) == "revoked"
    # But not what came to be elsewhere, its own certificate's neighbour.
    asking.begin()
    w.url = "/p/ras"
    neighbour = w.enroll("other.example.test", shared=w.shared(endpoint="cmp/ras"))
    w.url = "/p/iot"
    refusal(asking.revoke(neighbour.certificate), RP, "badCertId")


def test_cmp_45_added_protection(with_ra: tuple[World, Holder]) -> None:
    w, ra = with_ra
    shared = w.shared()
    wanted = client.template(subject=DEV, public_key=client.spki(KEY.public_key()))
    content = der.sequence(client.crmf(wanted, KEY))
    inner = client.message(IR, content, shared, transaction=b"T" * 16, nonce=b"N" * 16)
    wrapping = w.client(ra)
    same = {"transaction": b"T" * 16, "nonce": b"N" * 16}
    refusal(wrapping.send(NESTED, der.sequence(inner)), ERROR, "badRequest")
    wrapping.nonce = None
    refusal(
        wrapping.send(NESTED, der.sequence(inner), **{**same, "nonce": b"M" * 16}),
        ERROR,
        "badSenderNonce",
    )
    wrapping.nonce = None
    refusal(wrapping.send(NESTED, der.sequence(), **same), ERROR, "badRequest")
    wrapping.nonce = None
    reply = wrapping.send(NESTED, der.sequence(inner), **same)
    assert (reply.body, reply.status) == (IP, 0), reply.text
    reply.check(shared, w.ca)  # as the inner message wants it
    # An inner message without protection stays refused.
    bare = client.message(IR, content, None, transaction=b"U" * 16, nonce=b"N" * 16)
    wrapping.nonce = None
    reply = wrapping.send(NESTED, der.sequence(bare), transaction=b"U" * 16, nonce=b"N" * 16)
    refusal(reply, ERROR, "badMessageCheck")
    # One wrapping is enough.
    twice = client.message(NESTED, der.sequence(inner), ra, transaction=b"V" * 16, nonce=b"N" * 16)
    wrapping.nonce = None
    reply = wrapping.send(NESTED, der.sequence(twice), transaction=b"V" * 16, nonce=b"N" * 16)
    refusal(reply, ERROR, "badRequest")


def test_cmp_45_batches(with_ra: tuple[World, Holder]) -> None:
    w, ra = with_ra
    inner = []
    for number in range(3):
        key = new_key()
        wanted = client.template(
            subject=name(f"dev{number}"), public_key=client.spki(key.public_key())
        )
        shared = w.shared() if number != 1 else replace(w.shared(), secret="C" * 32)
        inner.append(
            client.message(
                IR, der.sequence(client.crmf(wanted, key)), shared,
                transaction=bytes((number,)) * 16,
            )
        )  # fmt: skip
    wrapping = w.client(ra)
    reply = wrapping.send(NESTED, der.sequence(*inner))
    reply.check(ra, w.ca)
    assert reply.body == NESTED
    answers = [client.read(octets) for octets in sequence(body_of(reply))]
    assert [a.status for a in answers] == [0, 2, 0]
    assert [bytes(a.header["transactionID"])[:1] for a in answers] == [b"\0", b"\x01", b"\x02"]
    wrapping.begin()
    refusal(wrapping.send(NESTED, der.sequence(inner[0], inner[0])), ERROR, "badRequest")


def body_of(reply: Reply) -> bytes:
    reader = der.read(reply.protected, der.SEQUENCE)
    reader.raw()
    return reader.content(0xA0 + reply.body)


def test_others_do_not_wrap(with_ra: tuple[World, Holder]) -> None:
    w, _ = with_ra
    holder = w.enroll()
    inner = client.message(client.GENM, der.sequence(), holder, transaction=b"T" * 16)
    refusal(w.client(holder).send(NESTED, der.sequence(inner)), ERROR, "notAuthorized")
    refusal(w.client(w.shared()).send(NESTED, der.sequence(inner)), ERROR, "wrongIntegrity")


# -- tenants, profiles, HTTP ---------------------------------------------------------------


def test_an_endpoint_that_cannot_sign_still_answers() -> None:
    w = world()
    holder = w.enroll()
    put = w.objects.put
    drive(put(ADMIN, "*", "tenant", "acme", {}))
    for preset in ("device", "cmp-signer", "root-ca"):
        found = drive(w.objects.load("default", "profile", preset)).document
        drive(put(ADMIN, "acme", "profile", preset, found.model_dump(mode="json")))
    drive(put(ADMIN, "acme", "authority", "devices", {}))
    row = {"protocol": "cmp", "label": "acme", "authority": "devices", "profile": "device"}
    drive(put(ADMIN, "acme", "endpoint", "cmp-acme", row))
    # Its authority has no key yet: what leaves is an error all the same, though unprotected.
    w.url = "/p/acme"
    reply = w.client(holder).request(KUR, new_key(), DEV)
    refusal(reply, ERROR, "badRequest")
    assert not reply.asn1["protection"].hasValue()
    before = w.issued()
    assert w.client(w.shared()).ask((17, b"")).body == ERROR
    assert w.issued() == before


def test_cert_profile_turns_to_another_endpoint() -> None:
    w = world(options={"certificate_profiles": {"tls": "tls", "gone": "gone"}})
    drive(w.open("cmp", "tls", profile="tls-client", challenge={"recoverable": True}))

    def ask(profile: str, endpoint: str) -> Reply:
        wish = der.sequence(
            der.oid("1.3.6.1.5.5.7.4.21"), der.sequence(der.tlv(12, profile.encode()))
        )
        asking = w.client(w.shared(endpoint=endpoint))
        wanted = client.template(
            subject=name("c.example.test"), public_key=client.spki(KEY.public_key())
        )
        return asking.send(IR, der.sequence(client.crmf(wanted, KEY)), infos=(wish,))

    reply = ask("tls", "cmp/tls")
    assert reply.status in (0, 1), reply.text
    refusal(ask("tls", "cmp/iot"), ERROR, "badMessageCheck")
    assert ask("device", "cmp/iot").body == IP
    refusal(ask("gone", "cmp/iot"), ERROR, "badRequest")


def test_http() -> None:
    w = world()
    message = client.message(client.GENM, der.sequence(), None, transaction=b"t" * 16)
    assert w.post(message, method="GET").status == 405
    assert w.post(message, media_type="text/plain").status == 415
    assert w.post(message, media_type="application/pkixcmp; charset=x").status == 200
    assert w.post(message, media_type="application/pkixcmp-poll").status == 200
    assert w.post(b"garbage").status == 400
    assert w.post(message, tail="/p/nosuch").status == 404
    assert w.post(message, tail="/p").status == 404
    assert w.post(message, tail="").status == 404  # there is no cmp/default here
    assert w.post(message, tail="/p/iot/nosuch").status == 404
    assert w.post(message, tail="/p/iot/getcacerts/more").status == 404


def test_an_outage_before_there_is_a_message_is_left_to_the_edge() -> None:
    w = world()

    async def by_id(endpoint: object) -> Any:
        raise Fault(FaultCode.UNAVAILABLE, "the database is away", rule="database.lost")

    w.endpoints.by_id = by_id  # type: ignore[method-assign,assignment]
    with pytest.raises(Fault):  # 503 and Retry-After: tmad/edge/http.py
        w.post(client.message(client.GENM, der.sequence(), None, transaction=b"t" * 16))


def test_operations_in_the_path() -> None:
    w = world()
    w.url = "/p/iot/initialization"
    asking = w.client(w.shared())
    reply = asking.request(IR, new_key(), DEV)
    assert asking.confirm(reply.certificate).body == PKICONF
    w.url = "/p/iot/keyupdate"
    refusal(w.client(w.shared()).request(IR, new_key(), DEV), ERROR, "badRequest")
    w.url = "/p/iot/getcacerts"
    assert w.client(w.shared()).ask((17, b"")).body == GENP


def test_strict_endpoints_keep_to_the_lightweight_profile() -> None:
    w = world(options={"strict": True})
    shared = w.shared()
    refusal(w.client(shared).request(IR, new_key(), DEV), ERROR, "badMessageCheck")
    how = {"sender": client.directory_name(name(shared.reference))}
    assert w.client(shared).request(IR, new_key(), DEV, how=how).status == 0
    short = replace(w.shared(), salt=b"s" * 8)
    how = {"sender": client.directory_name(name(short.reference))}
    refusal(w.client(short).request(IR, new_key(), DEV, how=how), ERROR, "badAlg")


def test_an_outage_is_told_and_forgotten() -> None:
    w = world()
    asking = w.client(w.shared())
    key = new_key()
    real = w.authority.enroll

    async def enroll(request: object) -> Any:
        raise Fault(FaultCode.UNAVAILABLE, "the token is away", rule="signer.lost")

    w.authority.enroll = enroll  # type: ignore[method-assign]
    refusal(asking.request(IR, key, DEV), ERROR, "systemUnavail")
    w.authority.enroll = real  # type: ignore[method-assign]
    reply = asking.send_raw(asking.sent[0])
    assert (reply.body, reply.status) == (IP, 0), reply.text


def test_under_a_shared_secret_nothing_waits_for_a_key_of_ours() -> None:
    """RFC 9810, 5.1.3: what can be protected is, also while what signs cannot be had."""
    w = world()
    shared = w.shared()
    real = w.service_certificates.current

    async def current(purpose: object, scope: object) -> Any:
        raise Fault(FaultCode.UNAVAILABLE, "the token is away", rule="signer.lost")

    w.service_certificates.current = current  # type: ignore[method-assign,assignment]
    asking = w.client(shared)
    reply = asking.request(IR, KEY, DEV)
    assert (reply.body, reply.status) == (IP, 0), reply.text
    reply.check(shared, w.ca)
    assert reply.header["sender"]["directoryName"]["rdnSequence"] == []
    refused = w.client(shared).request(IR, new_key(), DEV)  # the secret is used up
    refusal(refused, IP, "badMessageCheck")
    refused.check(shared, w.ca)
    # Who signs himself can be told by a signature only, and there is none.
    refused = w.client(Holder(reply.certificate, KEY)).request(KUR, new_key(), DEV)
    refusal(refused, ERROR, "systemUnavail")
    assert not refused.asn1["protection"].hasValue()
    w.service_certificates.current = real  # type: ignore[method-assign]
    # A later message of the transaction may have the signer's name again.
    confirmed = asking.confirm(reply.certificate)
    assert confirmed.body == PKICONF
    confirmed.check(shared, w.ca)


# -- key pairs that are made here ----------------------------------------------------------


def test_key_pairs_are_made_where_the_endpoint_allows_it() -> None:
    w = world()
    wanted = client.template(subject=DEV)
    reply = w.client(w.shared()).send(IR, der.sequence(client.crmf(wanted)), version=3)
    refusal(reply, IP, "notAuthorized")
    w = world(server_keys=True)
    asking = w.client(w.shared())
    refusal(asking.send(IR, der.sequence(client.crmf(wanted))), ERROR, "unsupportedVersion")
    asking = w.client(w.shared())
    reply = asking.send(IR, der.sequence(client.crmf(wanted)), version=3)
    assert (reply.status, reply.version) == (0, 3), reply.text
    package = reply.response["certifiedKeyPair"]["privateKey"]["envelopedData"]
    assert package["encryptedContentInfo"]["contentType"] == rfc9810.rfc5652.id_signedData
    assert asking.confirm(reply.certificate).body == PKICONF


def key_of(reply: Reply, *options: str, folder: Path) -> tuple[Any, x509.Certificate]:
    """Open an EnvelopedData with `openssl cms`; return the private key and who signed it."""
    enveloped = encoder.encode(reply.response["certifiedKeyPair"]["privateKey"]["envelopedData"])
    content = b"\x30" + enveloped[1:]
    oid = der.oid("1.2.840.113549.1.7.3")
    (folder / "enveloped.der").write_bytes(der.sequence(oid, der.explicit(0, content)))
    done = subprocess.run(
        ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", "enveloped.der",
         "-out", "signed.der", *options],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    inner = (folder / "signed.der").read_bytes()
    signed = cms.decode_signed_data(
        der.sequence(der.oid("1.2.840.113549.1.7.2"), der.explicit(0, inner))
    )
    (package,) = sequence(signed.content)
    signer = x509.load_der_x509_certificate(signed.certificates[0])
    cms.verify(signed, signed.signers[0], signer.public_key(), Policy())
    return load_der_private_key(package, None), signer


@pytest.mark.parametrize("kind", ["secret", "rsa", "ec"])
def test_cmp_46_the_key_is_for_its_owner_alone(kind: str, tmp_path: Path) -> None:
    w = world(server_keys=True)
    options: tuple[str, ...]
    if kind == "secret":
        shared = w.shared()
        asking, body = w.client(shared), IR
        options = ("-pwri_password", shared.secret)
    else:
        asking, options = w.client(receiver(w, kind, tmp_path)), ("-inkey", "own.pem")
        body = CR
    wanted = client.template(subject=DEV)
    reply = asking.send(body, der.sequence(client.crmf(wanted)), version=3)
    assert reply.status == 0, reply.text
    key, signer = key_of(reply, *options, folder=tmp_path)
    assert key.public_key() == reply.certificate.public_key()
    usages = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert "1.3.6.1.5.5.7.3.32" in [usage.dotted_string for usage in usages]  # id-kp-cmKGA
    assert asking.confirm(reply.certificate).body == PKICONF
    # Nothing of the key stays here but what was encrypted.
    kept = drive(w.exchanges.find("cmp/iot" if kind != "ec" else "cmp/ec", asking.transaction))
    assert kept is not None
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert secret[-40:] not in (kept.answer or b"")


def receiver(w: World, kind: str, folder: Path) -> Holder:
    """Return a holder of a certificate to which a key can be sent; its key is own.pem."""
    key: Any = rsa.generate_private_key(65537, 2048)
    label = "iot"
    if kind == "ec":
        key, label = new_key(), "ec"
        document = drive(w.objects.load("default", "profile", "device")).document
        found = document.model_dump(mode="json")
        found["extensions"]["key_usage"] = ["digital_signature", "key_agreement"]
        drive(w.objects.put(ADMIN, "default", "profile", "agreeing", found))
        rules = {"recoverable": True}
        drive(w.open("cmp", "ec", profile="agreeing", challenge=rules, server_keys=True))
        w.url = "/p/ec"
    holder = w.enroll(key=key, shared=w.shared(endpoint=f"cmp/{label}"))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "own.pem").write_bytes(pem)
    return holder


def test_cmp_46_to_a_key_that_can_only_sign_nothing_is_sent() -> None:
    w = world(server_keys=True)
    wanted = client.template(subject=DEV)
    asking = w.client(w.enroll())  # an elliptic curve, and no keyAgreement
    reply = asking.send(CR, der.sequence(client.crmf(wanted)), version=3)
    refusal(reply, CP, "notAuthorized")


def test_cmp_46_kinds_of_keys_that_are_made() -> None:
    w = world(server_keys=True)
    p384 = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.3.132.0.34"))
    rsa_key = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL_DER)
    length = der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.5.1.12"), der.integer(3072)))
    for algorithm, controls, size in ((p384, b"", 384), (rsa_key, length, 3072)):
        wish = der.sequence(algorithm, der.tlv(der.BIT_STRING, b"\0"))
        wanted = client.template(subject=DEV, public_key=wish)
        asking = w.client(w.shared())
        content = der.sequence(client.crmf(wanted, controls=controls))
        reply = asking.send(IR, content, version=3, infos=(client.IMPLICIT,))
        assert reply.status == 0, reply.text
        assert reply.certificate.public_key().key_size == size  # type: ignore[union-attr]
    for unknown in (
        der.sequence(der.oid("1.2.840.10040.4.1")),  # DSA
        der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.3.132.0.10")),  # secp256k1
    ):
        wish = der.sequence(unknown, der.tlv(der.BIT_STRING, b"\0"))
        wanted = client.template(subject=DEV, public_key=wish)
        reply = w.client(w.shared()).send(IR, der.sequence(client.crmf(wanted)), version=3)
        refusal(reply, IP, "badAlg")


# -- devices with a manufacturer's certificate ----------------------------------------------


def test_devices_enrol_with_what_they_were_made_with() -> None:
    """TS 33.310: ir signed by the vendor's certificate; the operator's root comes along."""
    w = world()
    maker = Maker(w)
    maker.anchor(revocation="off")
    rules = {
        "authenticate": ["manufacturer"],
        "manufacturers": ["maker"],
        "options": {"ca_pubs": "always"},
    }
    drive(w.open("cmp", "made", **rules))
    w.url = "/p/made"
    device, other = (made_by(maker, f"SN-{number}") for number in (1, 2))
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, "SN-1"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "dev1"),
        ]
    )
    # openssl cmp names the vendor as issuer in the template.
    asking = w.client(device)
    key = new_key()
    reply = asking.request(IR, key, subject, issuer=maker.name)
    assert (reply.body, reply.status) == (IP, 0), reply.text
    assert reply.ca_pubs == [w.ca]
    assert asking.confirm(reply.certificate).body == PKICONF
    # As another device, as a stranger's, or to update what is not ours: no.
    refusal(w.client(other).request(IR, new_key(), subject), IP, "signerNotTrusted")
    stranger = made_by(Maker(w, "Another Root"), "SN-1")
    refusal(w.client(stranger).request(IR, new_key(), subject), ERROR, "signerNotTrusted")
    refusal(w.client(device).request(KUR, new_key(), subject), KUP, "signerNotTrusted")
    refusal(w.client(device).revoke(device.certificate), RP, "signerNotTrusted")
    # With its new certificate it goes on by itself.
    new = Holder(reply.certificate, key)
    assert w.client(new).request(KUR, new_key(), subject).status == 0


def made_by(maker: Maker, serial: str) -> Holder:
    key = new_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, serial)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(maker.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(maker.b.clock() - timedelta(days=10))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .sign(maker.key, hashes.SHA256())
    )
    return Holder(certificate, key, (maker.certificate,))
