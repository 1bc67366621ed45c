"""What the OCSP responder decides, signs, keeps and drops."""

from __future__ import annotations

import base64
import copy
import hashlib
import random
from datetime import timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred, ensureDeferred

from tests.support import drive
from tests.world import World
from tmad.ca import signature
from tmad.ca.authority import AuthorityDocument, OCSPPolicy
from tmad.ca.hierarchy import Issuer
from tmad.ca.scheme import SignaturePolicy, scheme_for
from tmad.ca.trust import key_bits
from tmad.errors import Fault, FaultCode
from tmad.protocols.ocsp import codec
from tmad.protocols.ocsp.answers import Answer, Answers, Window
from tmad.protocols.ocsp.responder import OCSPResponder
from tmad.signer.algorithms import KeyAlgorithm
from tmad.storage.status import change_key, serial_octets
from tmad.wire import der
from tmad.wire.http import Request, Response

STATUS = ocsp.OCSPCertStatus
OUTCOME = ocsp.OCSPResponseStatus
NONCE = der.oid("1.3.6.1.5.5.7.48.1.2")


class Signing:
    """The keyring, counting and, where a test wants it, holding signatures back."""

    def __init__(self, keyring) -> None:
        self._keyring = keyring
        self.count = 0
        self.fault: Exception | None = None
        self.gate: Deferred[None] | None = None

    async def use(self, key_id, operation):
        self.count += 1
        if self.fault is not None:
            raise self.fault
        if self.gate is not None:
            await self.gate
        return await self._keyring.use(key_id, operation)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ca(world: World) -> Issuer:
    issuer = world.authority()
    world.issue_many(issuer, [1, 2, 3])
    return issuer


def make(world: World, octets: int = 1 << 20) -> OCSPResponder:
    services = copy.copy(world)
    services.keyring = Signing(world.keyring)
    responder = OCSPResponder(services, cache_octets=octets)
    responder.signing = services.keyring
    return responder


@pytest.fixture
def responder(world: World, ca: Issuer) -> OCSPResponder:
    return make(world)


def cert_id(issuer: Issuer, serial: int, name: str = "sha1") -> bytes:
    oid = {"sha1": "1.3.14.3.2.26", "md5": "1.2.840.113549.2.5"}.get(name)
    if oid is None:
        oid = f"2.16.840.1.101.3.4.2.{('sha256', 'sha384', 'sha512').index(name) + 1}"
    return der.sequence(
        der.sequence(der.oid(oid), der.NULL_DER),
        der.octets(hashlib.new(name, issuer.subject_der).digest()),
        der.octets(hashlib.new(name, key_bits(issuer.public_key)).digest()),
        der.integer(serial),
    )


def ask(*cert_ids: bytes, nonce: bytes | None = None, preferred: bytes = b"") -> bytes:
    entries = der.sequence(*(der.sequence(one) for one in cert_ids))
    extensions = b""
    if nonce is not None:
        extensions += der.sequence(NONCE, der.octets(der.octets(nonce)))
    if preferred:
        value = der.sequence(der.sequence(preferred))
        extensions += der.sequence(der.oid("1.3.6.1.5.5.7.48.1.8"), der.octets(value))
    tail = der.explicit(2, der.sequence(extensions)) if extensions else b""
    return der.sequence(der.sequence(entries, tail))


def http(
    responder: OCSPResponder,
    body: bytes = b"",
    *,
    tail: bytes = b"",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> Response:
    request = Request(
        method=method, path=b"/ocsp" + tail, tail=tail, body=body, headers=headers or {}
    )
    answer = drive(responder.respond(request))
    assert answer.content_type == "application/ocsp-response"
    return answer


def get(responder: OCSPResponder, data: bytes, prefix: bytes = b"/", **more) -> Response:
    tail = prefix + quote(base64.b64encode(data), safe="").encode()
    return http(responder, tail=tail, method="GET", **more)


def read(response: Response) -> ocsp.OCSPResponse:
    assert response.status == 200
    return ocsp.load_der_ocsp_response(response.body)


def outcome(response: Response) -> ocsp.OCSPResponseStatus:
    return read(response).response_status


def statuses(response: Response) -> list[str]:
    names = {STATUS.GOOD: "good", STATUS.REVOKED: "revoked", STATUS.UNKNOWN: "unknown"}
    return [names[single.certificate_status] for single in read(response).responses]


def say(responder: OCSPResponder, issuer: Issuer, serial: int, **more) -> str:
    (found,) = statuses(http(responder, ask(cert_id(issuer, serial)), **more))
    return found


def test_ocsp_20_good_then_revoked_at_the_very_next_query(world, ca, responder) -> None:
    assert say(responder, ca, 1) == "good"
    world.revoke(ca, 1, 1)
    single = read(http(responder, ask(cert_id(ca, 1))))
    assert single.certificate_status is STATUS.REVOKED
    assert single.revocation_reason is x509.ReasonFlags.key_compromise
    assert single.revocation_time_utc == world.clock()
    assert say(responder, ca, 2) == "good"


def test_ocsp_20_another_process_revokes(world, ca, responder) -> None:
    # The responder only shares the database with whoever revokes: nobody tells it anything.
    assert say(responder, ca, 3) == "good"
    world.hold(ca, 3)
    held = read(http(responder, ask(cert_id(ca, 3))))
    assert held.revocation_reason is x509.ReasonFlags.certificate_hold
    world.release(ca, 3)
    assert say(responder, ca, 3) == "good"


def test_ocsp_20_what_is_signed_anew_is_never_what_was_true_before(world, ca, responder) -> None:
    # With a nonce the signature is new each time; what it says must be so, too.
    def state(serial: int) -> STATUS:
        return read(http(responder, ask(cert_id(ca, serial), nonce=b"n" * 16))).certificate_status

    assert [state(3), state(3)] == [STATUS.GOOD, STATUS.GOOD]
    world.hold(ca, 3)
    assert [state(3), state(3)] == [STATUS.REVOKED, STATUS.REVOKED]
    world.release(ca, 3)
    assert state(3) is STATUS.GOOD
    assert state(99) is STATUS.UNKNOWN
    world.issue(ca, 99)
    assert state(99) is STATUS.GOOD  # nobody announces an issue


def test_ocsp_27_an_answer_is_signed_once(world, ca, responder) -> None:
    first = http(responder, ask(cert_id(ca, 1)))
    assert http(responder, ask(cert_id(ca, 1))).body == first.body
    assert get(responder, ask(cert_id(ca, 1))).body == first.body
    # The same question, longer: by another client, that names itself.
    named = der.sequence(
        der.sequence(
            der.explicit(1, der.tlv(0x82, b"client.example")),
            der.sequence(der.sequence(cert_id(ca, 1))),
        )
    )
    assert http(responder, named).body == first.body
    assert responder.signing.count == 1
    world.revoke(ca, 2, 1)
    assert http(responder, ask(cert_id(ca, 1))).body == first.body
    assert responder.signing.count == 1


def test_ocsp_22_an_answer_is_signed_anew_at_half_life(world, ca, responder) -> None:
    first = read(http(responder, ask(cert_id(ca, 1))))
    life = first.next_update_utc - first.this_update_utc
    assert life == timedelta(hours=12)
    assert world.clock() - timedelta(minutes=5) == first.this_update_utc
    world.clock.advance(hours=5)
    assert read(http(responder, ask(cert_id(ca, 1)))).signature == first.signature
    world.clock.advance(hours=2)
    assert read(http(responder, ask(cert_id(ca, 1)))).signature != first.signature


def test_ocsp_28_unknown_is_never_kept(world, ca, responder) -> None:
    assert say(responder, ca, 77) == "unknown"
    world.issue(ca, 77)  # announces no status change, and need not
    assert say(responder, ca, 77) == "good"


def test_t_ocsp_01_never_good_for_what_was_not_issued(world, ca, responder) -> None:
    chance = random.Random(1)
    real = [chance.getrandbits(64) | 1 << 63 for _ in range(20)]
    world.issue_many(ca, real)
    serials = [chance.getrandbits(chance.choice((8, 63, 64, 127, 159))) for _ in range(2000)]
    serials += [serial + step for serial in real for step in (-1, 1)]
    serials = [serial for serial in serials if serial not in {1, 2, 3, *real}]
    for start in range(0, len(serials), 100):
        batch = serials[start : start + 100]
        found = statuses(http(responder, ask(*(cert_id(ca, s) for s in batch))))
        assert found == ["unknown"] * len(batch)
    assert statuses(http(responder, ask(*(cert_id(ca, s) for s in real)))) == ["good"] * 20


@pytest.mark.parametrize("name", codec.HASHES)
def test_ocsp_13_every_hash_and_the_cert_id_is_repeated(name, world, ca, responder) -> None:
    wanted = cert_id(ca, 1, name)
    body = http(responder, ask(wanted)).body
    assert wanted in body
    assert read(Response(body=body)).certificate_status is STATUS.GOOD


def test_ocsp_12_mixed_requests_keep_their_order(world, ca, responder) -> None:
    stranger = World().authority("stranger")
    world.revoke(ca, 2, 4)
    entries = [
        cert_id(ca, 1, "sha256"),
        cert_id(stranger, 1),
        cert_id(ca, 2),
        cert_id(ca, 99),
        cert_id(ca, 3, "md5"),
    ]
    response = http(responder, ask(*entries))
    assert statuses(response) == ["good", "unknown", "revoked", "unknown", "unknown"]
    body = response.body
    positions = [body.index(entry) for entry in entries]
    assert positions == sorted(positions)


def test_ocsp_20_an_issuer_that_is_not_ours(world, ca, responder) -> None:
    stranger = World().authority("stranger")
    assert outcome(http(responder, ask(cert_id(stranger, 1)))) is OUTCOME.UNAUTHORIZED
    assert outcome(http(responder, ask(cert_id(ca, 1, "md5")))) is OUTCOME.UNAUTHORIZED


def test_t_ocsp_02_a_responder_speaks_for_its_own_issuer_only(world, ca, responder) -> None:
    # Another authority with the same name, in another tenant, with the same serial numbers.
    twin = world.authority("twin", tenant="other", subject="CN=ca")
    world.issue(twin, 1)
    world.revoke(ca, 1, 1)
    mine, theirs = (http(responder, ask(cert_id(i, 1))) for i in (ca, twin))
    assert (statuses(mine), statuses(theirs)) == (["revoked"], ["good"])
    assert read(mine).certificates != read(theirs).certificates
    mixed = statuses(http(responder, ask(cert_id(twin, 1), cert_id(ca, 1))))
    assert mixed == ["good", "unknown"]


@pytest.mark.parametrize("tail", [b"/ca", b"/ca/", b"//ca"])
def test_ocsp_01_a_path_can_name_the_authority(tail, world, ca, responder) -> None:
    other = world.authority("other")
    world.issue(other, 1)
    assert say(responder, ca, 1, tail=tail) == "good"
    for _ in range(2):
        wrong = http(responder, ask(cert_id(other, 1)), tail=tail)
        assert outcome(wrong) is OUTCOME.UNAUTHORIZED
        assert say(responder, other, 1) == "good"  # now it is cached, and still not here


def test_ocsp_02_get_with_and_without_a_name(world, ca, responder) -> None:
    for prefix in (b"/", b"//", b"/ca/", b"/ca//", b""):
        assert statuses(get(responder, ask(cert_id(ca, 1)), prefix)) == ["good"]
    assert outcome(http(responder, method="GET", tail=b"")) is OUTCOME.MALFORMED_REQUEST
    assert outcome(http(responder, method="GET", tail=b"/ca")) is OUTCOME.MALFORMED_REQUEST
    assert outcome(http(responder, method="GET", tail=b"/M!!")) is OUTCOME.MALFORMED_REQUEST
    assert outcome(http(responder, b"")) is OUTCOME.MALFORMED_REQUEST


def test_ocsp_04_headers_of_a_get_answer(world, ca, responder) -> None:
    response = get(responder, ask(cert_id(ca, 1)))
    single = read(response)
    headers = dict(response.headers)
    assert headers["ETag"] == f'"{hashlib.sha256(response.body).hexdigest()}"'
    assert parsedate_to_datetime(headers["Last-Modified"]) == single.this_update_utc
    assert single.produced_at_utc == single.this_update_utc
    assert parsedate_to_datetime(headers["Expires"]) == single.next_update_utc
    first, *others = headers["Cache-Control"].split(", ")
    left = (single.next_update_utc - world.clock()).total_seconds()
    assert 0 < int(first.removeprefix("max-age=")) < left
    assert others == ["public", "no-transform", "must-revalidate"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (lambda h: {"if-none-match": h["ETag"]}, 304),
        (lambda h: {"if-none-match": f'"x", W/{h["ETag"]}'}, 304),
        (lambda h: {"if-none-match": "*"}, 304),
        (lambda h: {"if-none-match": '"x"'}, 200),
        (lambda h: {"if-none-match": '"x"', "if-modified-since": h["Last-Modified"]}, 200),
        (lambda h: {"if-modified-since": h["Last-Modified"]}, 304),
        (lambda h: {"if-modified-since": "Mon, 23 Nov 2020 12:00:00 GMT"}, 200),
        (lambda h: {"if-modified-since": "yesterday"}, 200),
    ],
)
def test_ocsp_04_a_client_that_has_it_already(headers, status, world, ca, responder) -> None:
    first = get(responder, ask(cert_id(ca, 1)))
    again = get(responder, ask(cert_id(ca, 1)), headers=headers(dict(first.headers)))
    assert again.status == status
    assert again.body == (first.body if status == 200 else b"")
    assert dict(again.headers)["ETag"] == dict(first.headers)["ETag"]


def test_ocsp_05_what_caches_may_not_keep(world, ca, responder) -> None:
    for data in (ask(cert_id(ca, 1), nonce=b"n" * 16), ask(cert_id(ca, 99)), b"\x30\x00"):
        assert dict(get(responder, data).headers) == {"Cache-Control": "no-store"}
        assert dict(http(responder, data).headers) == {"Cache-Control": "no-store"}
    assert http(responder, ask(cert_id(ca, 1))).headers == ()


def test_ocsp_14_a_nonce_is_answered_and_signed_anew(world, ca, responder) -> None:
    http(responder, ask(cert_id(ca, 1)))
    for count, nonce in enumerate((b"a" * 16, b"a" * 16, b"b" * 32), 2):
        single = read(http(responder, ask(cert_id(ca, 1), nonce=nonce)))
        assert single.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
        assert responder.signing.count == count


def test_ocsp_14_nonces_can_be_switched_off(world) -> None:
    document = AuthorityDocument(ocsp=OCSPPolicy(nonce=False))
    issuer = world.authority(document=document)
    world.issue(issuer, 1)
    responder = make(world)
    body = http(responder, ask(cert_id(issuer, 1))).body
    assert http(responder, ask(cert_id(issuer, 1), nonce=b"n" * 16)).body == body


def test_ocsp_15_a_preferred_algorithm_is_used_if_it_is_not_weaker(world, ca, responder) -> None:
    sha384 = bytes.fromhex("300a06082a8648ce3d040303")
    sha1 = bytes.fromhex("300906072a8648ce3d0401")
    read_ = read(http(responder, ask(cert_id(ca, 1), preferred=sha384)))
    assert isinstance(read_.signature_hash_algorithm, hashes.SHA384)
    read_ = read(http(responder, ask(cert_id(ca, 1), preferred=sha1)))
    assert isinstance(read_.signature_hash_algorithm, hashes.SHA256)
    read_ = read(http(responder, ask(cert_id(ca, 1))))
    assert isinstance(read_.signature_hash_algorithm, hashes.SHA256)


def test_ocsp_20_extended_revoke_by_policy(world) -> None:
    document = AuthorityDocument(ocsp=OCSPPolicy(unknown="revoked"))
    issuer = world.authority(document=document)
    world.issue(issuer, 1)
    responder = make(world)
    body = http(responder, ask(cert_id(issuer, 5))).body
    single = ocsp.load_der_ocsp_response(body)
    assert single.certificate_status is STATUS.REVOKED
    assert single.revocation_time_utc.isoformat() == "1970-01-01T00:00:00+00:00"
    assert single.revocation_reason is x509.ReasonFlags.certificate_hold
    extended = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.9"), der.octets(der.NULL_DER))
    assert extended in body
    good = http(responder, ask(cert_id(issuer, 1))).body
    assert extended not in good


def test_ocsp_21_responder_id_by_key_or_by_name(world) -> None:
    by_key = world.authority("a")
    document = AuthorityDocument(ocsp=OCSPPolicy(responder_id="name"))
    by_name = world.authority("b", document=document)
    responder = make(world)
    single = read(http(responder, ask(cert_id(by_key, 1))))
    bits = key_bits(single.certificates[0].public_key())
    assert single.responder_key_hash == hashlib.sha1(bits).digest()
    single = read(http(responder, ask(cert_id(by_name, 1))))
    assert single.responder_name == single.certificates[0].subject


def test_ocsp_23_ca_signed_answers_omit_the_certificate(world) -> None:
    document = AuthorityDocument(ocsp=OCSPPolicy(signer="ca"))
    issuer = world.authority(document=document)
    world.issue(issuer, 1)
    single = read(http(make(world), ask(cert_id(issuer, 1))))
    assert single.certificates == []
    scheme = issuer.scheme
    signature.check(
        issuer.public_key, scheme, single.signature, single.tbs_response_bytes, digest=False
    )


def test_ocsp_23_a_renewed_responder_certificate_is_used_at_once(world, ca, responder) -> None:
    before = read(http(responder, ask(cert_id(ca, 1)))).certificates
    world.service_certificates.renew(str(ca.id))
    after = read(http(responder, ask(cert_id(ca, 1)))).certificates
    assert after != before


def test_ocsp_23_a_responder_certificate_that_is_revoked_signs_nothing_more(
    world, ca, responder
) -> None:
    before = read(http(responder, ask(cert_id(ca, 1)))).certificates
    # The real service announces its successor only when it has been asked for one.
    del world.service_certificates.made[str(ca.id)]
    octets = serial_octets(before[0].serial_number)
    world.announce("status", change_key(ca.id, octets))
    assert read(http(responder, ask(cert_id(ca, 1)))).certificates != before


def test_ocsp_23_no_answer_outlives_the_responder_certificate(world, ca, responder) -> None:
    world.service_certificates.days = 0.25
    single = read(http(responder, ask(cert_id(ca, 1))))
    end = single.certificates[0].not_valid_after_utc
    assert single.next_update_utc == end
    world.clock.advance(hours=7)
    assert outcome(http(responder, ask(cert_id(ca, 1)))) is OUTCOME.TRY_LATER
    del world.service_certificates.made[str(ca.id)]
    assert say(responder, ca, 1) == "good"


def test_ocsp_25_archive_cutoff_by_policy(world) -> None:
    document = AuthorityDocument(ocsp=OCSPPolicy(archive_cutoff_days=30))
    issuer = world.authority(document=document)
    world.issue(issuer, 1, days=1)
    responder = make(world)
    world.clock.advance(days=2)
    response = http(responder, ask(cert_id(issuer, 1)))
    assert statuses(response) == ["good"]  # expired, and still answered
    cutoff = (world.clock() - timedelta(days=30)).strftime("%Y%m%d%H%M%SZ").encode()
    assert der.tlv(der.GENERALIZED_TIME, cutoff) in response.body


def test_ocsp_29_each_key_of_an_authority_answers_for_itself(world, ca, responder) -> None:
    newer = world.authority(generation=2, subject="CN=ca")
    world.issue(newer, 1)
    world.revoke(ca, 1, 4)
    old, new = (http(responder, ask(cert_id(i, 1))) for i in (ca, newer))
    assert (statuses(old), statuses(new)) == (["revoked"], ["good"])
    assert read(old).certificates != read(new).certificates


def test_ocsp_20_a_compromised_issuer(world, ca, responder) -> None:
    assert say(responder, ca, 1) == "good"
    world.compromise(ca)
    single = read(http(responder, ask(cert_id(ca, 1))))
    assert single.revocation_reason is x509.ReasonFlags.ca_compromise
    assert say(responder, ca, 12345) == "revoked"


ALGORITHMS = [a for a in KeyAlgorithm if a not in (KeyAlgorithm.RSA_3072, KeyAlgorithm.RSA_4096)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ocsp_24_every_kind_of_signer(algorithm, world) -> None:
    issuer = world.authority(algorithm=algorithm)
    world.issue(issuer, 1)
    check_signature(http(make(world), ask(cert_id(issuer, 1))), SignaturePolicy())


def test_ocsp_24_pss(world) -> None:
    policy = SignaturePolicy(pss=True, hash="sha384")
    document = AuthorityDocument(signature=policy)
    issuer = world.authority(algorithm=KeyAlgorithm.RSA_2048, document=document)
    world.issue(issuer, 1)
    check_signature(http(make(world), ask(cert_id(issuer, 1))), policy)


def check_signature(response: Response, policy: SignaturePolicy) -> None:
    single = read(response)
    key = single.certificates[0].public_key()
    scheme = scheme_for(key, policy)
    signature.check(key, scheme, single.signature, single.tbs_response_bytes, digest=False)


def test_ocsp_20_try_later_when_the_database_or_the_signer_is_away(world, ca, responder) -> None:
    responder.signing.fault = Fault(FaultCode.UNAVAILABLE, "the token is gone")
    assert outcome(http(responder, ask(cert_id(ca, 1)))) is OUTCOME.TRY_LATER
    responder.signing.fault = None
    assert say(responder, ca, 1) == "good"
    world.database.close()
    # Even what is cached: nobody knows whether it is still true.
    assert outcome(http(responder, ask(cert_id(ca, 1)))) is OUTCOME.TRY_LATER


def test_ocsp_20_a_bug_is_an_internal_error(world, ca, responder) -> None:
    responder.signing.fault = ZeroDivisionError()
    assert outcome(http(responder, ask(cert_id(ca, 1)))) is OUTCOME.INTERNAL_ERROR


def test_a_status_that_changes_during_the_signature_is_not_kept(world, ca, responder) -> None:
    gate = responder.signing.gate = Deferred()
    request = Request(method="POST", path=b"/ocsp", body=ask(cert_id(ca, 1)))
    results: list[Response] = []
    ensureDeferred(responder.respond(request)).addCallback(results.append)
    assert not results
    responder.signing.gate = None
    world.revoke(ca, 1, 1)
    assert say(responder, ca, 1) == "revoked"
    gate.callback(None)
    assert statuses(results[0]) == ["good"]  # it was, when the question came
    assert say(responder, ca, 1) == "revoked"


def test_ocsp_23_a_signer_that_was_replaced_while_it_was_looked_up_is_not_kept(
    world, ca, responder, monkeypatch
) -> None:
    current = world.service_certificates.current
    late: Deferred[None] = Deferred()

    async def slowly(purpose: str, scope: str):
        found = await current(purpose, scope)
        await late
        return found

    monkeypatch.setattr(world.service_certificates, "current", slowly)
    request = Request(method="POST", path=b"/ocsp", body=ask(cert_id(ca, 1)))
    results: list[Response] = []
    ensureDeferred(responder.respond(request)).addCallback(results.append)
    monkeypatch.setattr(world.service_certificates, "current", current)
    world.service_certificates.days = 0.25
    world.service_certificates.renew(str(ca.id))
    drive(world.changes.catch_up())
    late.callback(None)
    before = read(results[0])  # it was right when the question came
    after = read(http(responder, ask(cert_id(ca, 1))))
    assert after.certificates != before.certificates
    # In the same second, and yet not the times of the one before.
    assert after.next_update_utc == after.certificates[0].not_valid_after_utc


def test_ocsp_27_what_needs_no_waiting_does_not_wait(world, ca, responder) -> None:
    # The edge writes the answer in the same turn of the reactor, without a Deferred.
    for _ in range(2):
        request = Request(method="POST", path=b"/ocsp", body=ask(cert_id(ca, 1)))
        with pytest.raises(StopIteration) as done:
            responder.respond(request).send(None)
        assert statuses(done.value.value) == ["good"]


def test_t_ocsp_03_the_cache_is_bounded() -> None:
    answers = Answers(200_000)
    window = Window(None, None, None, b"", b"", "", "", None)
    for number in range(5000):
        answers.put(b"%d" % number, Answer(bytes(500), window, "ca", f"1:{number}"))
        answers.get(b"0")
    assert 100 < len(answers) < 220
    assert answers.get(b"4999") is not None
    assert answers.get(b"0") is not None, "what is asked for often stays"
    assert answers.get(b"1") is None
    answers.forget("1:4999")
    assert answers.get(b"4999") is None
    answers.forget("1:0")
    assert answers.get(b"0") is None
    answers.clear()
    assert len(answers) == 0


def test_t_ocsp_03_an_answer_asked_in_two_ways_is_forgotten_in_both() -> None:
    answers = Answers(1 << 20)
    window = Window(None, None, None, b"", b"", "", "", None)
    for key in (b"sha1", b"sha256"):
        answers.put(key, Answer(b"x", window, "ca", "1:05"))
    answers.forget("1:05")
    assert answers.get(b"sha1") is None
    assert answers.get(b"sha256") is None
