"""What is fuzzed: one entry for each decoder that meets a stranger's octets (security.md, 5.2).

A target takes any octets. A value or a Fault is right, and so is a call that asserts more than
that; every other exception is a finding. Nothing here knows of atheris: tests/fuzz/test_corpus.py
replays the corpus through the same functions in every CI run.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel

from tests import scep_client as client
from tests import snmp_world
from tests.fuzz.coverage import keys, seeds, validation
from tests.unit.ca_bench import PRESETS
from tests.unit.scep_core import SmallCore, key_usage, make_certificate
from tests.unit.test_edge_http import Edge
from tests.unit.test_profile import ISSUER, NOW
from tmad import documents
from tmad.agent import acme as agent_acme
from tmad.agent import acmeclient, revocation
from tmad.agent import est as agent_est
from tmad.agent import scep as agent_scep
from tmad.agent.identity import read_certificates
from tmad.agent.store import decode_state
from tmad.agent.transport import Answer
from tmad.ca import importing, keycheck, names
from tmad.ca.authority import AuthorityDocument
from tmad.ca.endpoint import EndpointDocument
from tmad.ca.profile import ProfileDocument
from tmad.ca.shape import Profile
from tmad.config import NodeSettings
from tmad.edge import http1
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import tokenfiles
from tmad.identity.delivery import smpp_codec
from tmad.identity.tokenfiles import Format, Wishes
from tmad.protocols.acme import codec as acme
from tmad.protocols.acme import jws
from tmad.protocols.acme.strictjson import encode, pack, parse_object
from tmad.protocols.cmc import codec as cmc_codec
from tmad.protocols.cmc import controls as cmc_controls
from tmad.protocols.cmc import layers as cmc_layers
from tmad.protocols.cmc import requests as cmc_requests
from tmad.protocols.cmp import bodies as cmp_bodies
from tmad.protocols.cmp import codec as cmp_codec
from tmad.protocols.cmp import protection as cmp_protection
from tmad.protocols.ldap import codec as ldap
from tmad.protocols.ldap import evaluation
from tmad.protocols.ldap import names as ldap_names
from tmad.protocols.ldap import schema as ldap_schema
from tmad.protocols.ldap.tree import Entry
from tmad.protocols.ocsp import codec as ocsp
from tmad.protocols.radius.eap import codec as eap
from tmad.protocols.scep import codec as scep
from tmad.protocols.scep import plugin as scep_plugin
from tmad.protocols.scep.responder import EndpointOptions
from tmad.protocols.snmp.engine import OUTCOMES
from tmad.protocols.tsa import codec as tsa
from tmad.protocols.wstep import codec as wstep
from tmad.protocols.wstep import policies
from tmad.wire import ber, chain, cms, crmf, csr, der, envelopes, reports, soap
from tmad.wire import ldap as ldap_answers
from tmad.wire.evidence import verify_export
from tmad.wire.http import Request
from tmad.wire.signatures import Age, Policy

T = TypeVar("T")
Run: TypeAlias = Callable[[bytes], object]

ELEMENTS, DEPTH = 1_500, 32
POLICY = Policy(Age.INSECURE)
_DER = serialization.Encoding.DER


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. ``prepare`` makes what it needs once and returns the function to call."""

    prepare: Callable[[], Run]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 8_192  # octets that the fuzzer tries
    words: tuple[str, ...] = ()  # what the format spells out


def refusal(function: Callable[[], object]) -> Fault | None:
    """Call; return the Fault, or None where there was none."""
    try:
        function()
    except Fault as fault:
        return fault
    return None


def malformed_only(function: Callable[[], T]) -> T | None:
    """Call a decoder of structure, which has but one kind of Fault to tell; None for that."""
    try:
        return function()
    except Fault as fault:
        if fault.code is not FaultCode.MALFORMED:
            raise AssertionError(fault) from fault
    return None


# -- encodings ------------------------------------------------------------------------------


def _der() -> Run:
    def walk(reader: der.Reader, depth: int, *, is_scanned: bool) -> None:
        for tag in reader.each():
            element = reader.raw()
            if tag & 0x20:
                if depth:
                    walk(der.read(element, tag), depth - 1, is_scanned=is_scanned)
                assert depth or not is_scanned
            else:
                content = der.content(element, tag)
                assert der.tlv(tag, content) == element or not is_scanned
                if tag == der.INTEGER:
                    malformed_only(der.Reader(element).integer)
                elif tag == der.OBJECT_IDENTIFIER:
                    assert len(der.dotted(element)) < 512
                else:
                    malformed_only(partial(der.text, element))
                    malformed_only(partial(der.instant, element))

    def run(data: bytes) -> None:
        def whole() -> bool:
            der.scan(data, elements=ELEMENTS, depth=DEPTH)
            return True

        if malformed_only(whole):
            walk(der.Reader(data), DEPTH, is_scanned=True)
        else:
            # The reader may be given what was never scanned.
            malformed_only(lambda: walk(der.Reader(data), DEPTH, is_scanned=False))

    return run


def _ber() -> Run:
    def run(data: bytes) -> None:
        result = malformed_only(lambda: ber.normalise(data, elements=ELEMENTS, depth=DEPTH))
        if result is not None:
            der.scan(result, elements=ELEMENTS, depth=DEPTH)
            assert ber.normalise(result, elements=ELEMENTS, depth=DEPTH) is result
            assert len(result) <= len(data)

    return run


# -- CMS, CSR, SCEP -------------------------------------------------------------------------


def _cms() -> Run:
    own = keys.rsa_key("ra")

    def run(data: bytes) -> None:
        message = ber.normalise(data, elements=ELEMENTS, depth=DEPTH)
        signed = malformed_only(lambda: cms.decode_signed_data(message))
        if signed is not None:
            for signer in signed.signers[:3]:
                check(signed, signer)
        enveloped = malformed_only(lambda: envelopes.decode(message))
        if enveloped is not None:
            for recipient in enveloped.recipients[:3]:
                envelopes.open_envelope(
                    own, enveloped, recipient, policy=POLICY, random=seeds.random
                )

    def check(signed: cms.SignedData, signer: cms.SignerInfo) -> None:
        for key in (own, keys.ec_key("device")):
            with suppress(Fault):
                cms.verify(signed, signer, key.public_key(), POLICY)
        signed.certificate_of(signer)

    return run


def _cmc() -> Run:
    """A message as it is; a PKIData, its requests and each of its controls behind no signature."""
    readers = (
        cmc_controls.octets,
        cmc_controls.transaction_id,
        cmc_controls.text,
        cmc_controls.decrypted_pop,
        cmc_controls.get_crl,
        cmc_controls.get_cert,
        cmc_controls.revoke_request,
        cmc_controls.certificate_id,
        cmc_controls.ids,
        cmc_controls.references,
        cmc_controls.mod_cert_template,
        cmc_controls.add_extensions,
        cmc_controls.lra_pop_witness,
        cmc_controls.status_info,
    )

    def run(data: bytes) -> None:
        with suppress(Fault):
            layer = cmc_layers.decode(cmc_layers.normalise(data))
            if isinstance(layer, cms.SignedData):
                signer = cmc_layers.the_signer(layer)
                if signer is not None:
                    cmc_layers.certificate_of(layer, signer)
        found = malformed_only(partial(cmc_codec.decode, data))
        for control in () if found is None else found.controls:
            for reader in readers:
                malformed_only(partial(reader, control))
        for request in () if found is None else found.requests:
            with suppress(Fault):
                cmc_requests.read(request, Policy())

    return run


def _cmp() -> Run:
    """A message as it is; and as a CertTemplate, behind a signature that nobody checks."""
    readers = (
        cmp_bodies.read_requests,
        cmp_bodies.read_revocations,
        cmp_bodies.read_confirmation,
        cmp_bodies.read_poll,
        cmp_bodies.read_questions,
        cmp_bodies.read_error,
        cmp_bodies.read_nested,
    )

    def run(data: bytes) -> None:
        with suppress(Fault):
            message = cmp_codec.decode(data)
            if message.header.protection is not None:
                with suppress(Fault):
                    cmp_protection.read_mac(message.header.protection)
            for reader in readers:
                with suppress(Fault):
                    reader(message.content)
            for request in cmp_bodies.read_requests(message.content):
                if request.template.public_key and request.template.subject:
                    crmf.read(request.template, subject_der=request.template.subject)
        with suppress(Fault):
            crmf.read_template(der.Reader(data))

    return run


def _csr() -> Run:
    """A request as it is; and as CertificationRequestInfo, signed here, or nobody comes past."""
    key = keys.ec_key("device")
    profiles = [
        Profile(path.stem, 1, documents.parse(ProfileDocument, tomllib.loads(path.read_text())))
        for path in (PRESETS / "device.toml", PRESETS / "tls-server.toml", PRESETS / "user.toml")
    ]
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))

    def signed_request(info: bytes) -> bytes:
        signature = key.sign(info, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        return der.sequence(info, algorithm, der.tlv(der.BIT_STRING, b"\0" + signature))

    def run(data: bytes) -> None:
        try:
            request = csr.decode(data, POLICY)
        except Fault:
            request = csr.decode(signed_request(data), POLICY)
        described = keycheck.check(request.public_key, keycheck.KeyRules(), evidence=request.der)
        names.search_terms(request.subject, ())
        for profile in profiles:
            fault = refusal(
                partial(
                    profile.template,
                    subject=request.subject,
                    alternative_names=request.names,
                    wanted=request.wanted,
                    key=described,
                    issuer=ISSUER,
                    now=NOW,
                )
            )
            assert fault is None or fault.rule

    return run


def _core() -> SmallCore:
    """An endpoint whose RA key is always the same; envelopes name it by its identifier."""
    core = SmallCore(manual=True, options=EndpointOptions(legacy=True, signing_time_window=600))
    key = keys.rsa_key("ra")
    core.keys["ra0"] = key
    core.ras[0].certificate = make_certificate(
        core.now,
        "ra",
        key.public_key(),
        core.ca.key,
        core.ca.certificate,
        usage=key_usage(digital_signature=True, key_encipherment=True),
    )
    return core


def _answered(core: SmallCore, body: bytes) -> None:
    answer = core.post(body)
    assert answer.status in (200, 400)
    assert len(answer.body) < 16_384
    core.requests.clear()
    core.pending.clear()
    core.journal_rows.clear()
    core.events.clear()
    core.uses.clear()


def _scep() -> Run:
    core = _core()

    def run(data: bytes) -> None:
        message = malformed_only(lambda: scep.decode(data))
        if message is not None:
            # Behind a signature that was not checked: what an attacker can sign himself.
            with suppress(Fault):
                scep.check_time(message, core.now(), seeds.HOUR)
            enveloped = scep.envelope(message)
            for recipient in enveloped.recipients[:1]:
                content = envelopes.open_envelope(
                    keys.rsa_key("ra"), enveloped, recipient, policy=POLICY, random=seeds.random
                )
                scep.decode_request(content, POLICY)
        else:
            malformed_only(lambda: scep.decode_get_message(data))
            text = data.decode("latin-1")
            assert core.get(text).status in (200, 400, 404)

    def twice(data: bytes) -> None:
        try:
            run(data)
        finally:
            _answered(core, data)

    return twice


def _scep_content() -> Run:
    """What a stranger can put into a well-signed message: first octet the kind, then content."""
    core = _core()
    key = keys.ec_key("device")
    identity = client.self_signed(key)
    kinds = ("17", "19", "20", "21", "22")

    def run(data: bytes) -> None:
        if not data:
            return
        kind, content = kinds[data[0] % len(kinds)], data[1:]
        if not data[0] & 0x80:
            content = client.make_envelope(content, core.ra, by_ski=True)
        _answered(core, client.make_message(content, identity, message_type=kind).der)

    return run


# -- LDAP -----------------------------------------------------------------------------------


def _ldap() -> Run:
    entry = Entry("cn=a,o=b", {"cn": (b"a",), "objectClass": (b"top",), "mail": (b"a@b",)})

    def run(data: bytes) -> None:
        malformed_only(lambda: ldap.length_of(data))
        malformed_only(lambda: ldap_names.key_of_text(data.decode("latin-1")))
        for read in (ldap.decode_paged, ldap.decode_sort, ldap.decode_cancel):
            malformed_only(lambda read=read: read(data))  # type: ignore[misc]  # it is bound here
        message = malformed_only(lambda: ldap.decode(data))
        if message is not None and isinstance(message.operation, ldap.Search):
            said = evaluation.tester(message.operation.filter, ldap_schema)(entry)
            assert said in (True, False, None)

    return run


# -- SNMP -----------------------------------------------------------------------------------


def _snmp() -> Run:
    """Whatever it is: as a datagram, and as what a user has signed and encrypted."""
    world = snmp_world.World(rate=1e9, burst=10**9)

    def run(data: bytes) -> None:
        signed = [world.message(data), world.message(b"", data=data)]
        for datagram in (data, *map(world.seal, signed)):
            reply = world.answer(datagram)
            assert reply.outcome in OUTCOMES

    return run


# -- OCSP, HTTP -----------------------------------------------------------------------------


def _agent() -> Run:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    [certificate] = read_certificates(seeds.agent_certificate())

    def run(data: bytes) -> None:
        answer = Answer(200, {}, data)
        for decode in (
            reports.decode_report,
            reports.decode_advice,
            agent_est.decode_certificates,
            agent_scep.decode_authorities,
            read_certificates,
            decode_state,
        ):
            malformed_only(partial(decode, data))
        malformed_only(lambda: acmeclient.decode_object(answer))
        malformed_only(lambda: agent_acme.decode_window(answer))
        assert revocation.judge(data, certificate, certificate, now) == ""

    return run


def _wstep() -> Run:
    def run(data: bytes) -> None:
        with suppress(Fault):
            message = soap.decode(data)
            assert "Secret()" in repr(message.user) or message.user is None
            for question in (wstep.decode, lambda asked, _: policies.decode(asked)):
                with suppress(Fault):
                    question(message, POLICY)

    return run


def _directory() -> Run:
    def run(data: bytes) -> None:
        malformed_only(lambda: ldap_answers.length_of(data))
        reply = malformed_only(lambda: ldap_answers.decode(data))
        if reply is not None and isinstance(reply.content, ldap_answers.Entry):
            for attribute in reply.content.attributes:
                reply.content.octets(attribute)
                malformed_only(partial(reply.content.number, attribute))
        sid = malformed_only(lambda: ldap_answers.sid_text(data))
        assert sid is None or ldap_answers.sid_octets(sid) == data

    return run


def _tsa() -> Run:
    def run(data: bytes) -> None:
        request = malformed_only(lambda: tsa.decode(data))
        if request is not None:
            assert request.imprint_der in data
            assert request.hash is None or len(request.digest) == request.hash.octets

    return run


def _acme() -> Run:
    decoders: tuple[Callable[[dict[str, Any], jws.JWS], object], ...] = (
        acme.decode_account,
        lambda payload, _: acme.decode_update(payload),
        acme.decode_key_change,
        lambda payload, _: acme.decode_order(payload),
        lambda payload, _: acme.decode_finalize(payload),
        lambda payload, _: acme.decode_revocation(payload),
    )

    outer = jws.decode(next(iter(seeds.acme_seeds())))

    def run(data: bytes) -> None:
        # As a whole message, as a protected header, and as a payload: base64 hides the insides.
        inside = {"protected": pack(data), "payload": "", "signature": "AA"}
        for body in (data, encode(inside)):
            message = acme_only(partial(jws.decode, body))
            if message is not None and message.jwk is not None:
                acme_only(partial(jws.verify, message, message.jwk.key))
        payload = acme_only(lambda: parse_object(data, "it"))
        if payload is not None:
            for decode in decoders:
                acme_only(partial(decode, payload, outer))

    return run


def acme_only(function: Callable[[], Any]) -> Any:
    """Call; a Fault must be one that ACME has a word for."""
    try:
        return function()
    except Fault as fault:
        if acme.problem_of(fault)[1] not in acme.PROBLEMS:
            raise
        return None


def _ocsp() -> Run:
    def decoded(data: bytes) -> None:
        request = malformed_only(lambda: ocsp.decode(data))
        if request is not None:
            assert 1 <= len(request.cert_ids) <= ocsp.MOST_ENTRIES
            for cert_id in request.cert_ids:
                assert ocsp.decode(ocsp.minimal(cert_id)).cert_ids == (cert_id,)

    def run(data: bytes) -> None:
        decoded(data)
        inside = malformed_only(lambda: ocsp.decode_path(data))
        if inside is not None:
            decoded(inside)

    return run


def _http() -> Run:
    edge = Edge()
    edge.mount("/x")
    edge.mount("/hot", hot=True)
    site = edge.site()

    def served(pieces: list[bytes]) -> tuple[list[Request], bool]:
        channel, transport = edge.connect(site)
        for piece in pieces:
            channel.dataReceived(piece)
            edge.clock.advance(0)
        seen = list(edge.seen)
        edge.seen.clear()
        channel.connectionLost()
        return seen, transport.is_closing

    def run(data: bytes) -> None:
        if not data:
            return
        with suppress(http1.Refused):
            end = http1.head_end(data, 0, 24_576)
            if end:
                head = http1.decode_head(data[:end])
                assert head.path.startswith(b"/")
                assert not (head.is_chunked and "content-length" in head.headers)
        with suppress(http1.Refused):
            body = http1.ChunkedBody(4_096)
            if body.take(data) is not None:
                assert len(body.octets()) <= 4_096
        size = data[-1] % 23 + 1
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        assert served([data]) == served(cut)

    return run


# -- names ----------------------------------------------------------------------------------

_TEXT_NAMES: tuple[Callable[[str], x509.GeneralName], ...] = (
    x509.DNSName._init_without_validation,
    x509.RFC822Name._init_without_validation,
    x509.UniformResourceIdentifier._init_without_validation,
    lambda text: x509.OtherName(names.UPN, der.tlv(der.UTF8_STRING, text.encode())),
)


def _names() -> Run:
    """First octet the kind of name, then its text, or for the last kinds its DER."""
    key = keys.ec_key("device")

    def run(data: bytes) -> None:
        if not data:
            return
        kind, rest = data[0] % 7, data[1:]
        found: list[x509.GeneralName] = []
        if kind < 4:
            text = rest.decode("utf-8", "replace")
            names.looks_like_host(text)
            found.append(_TEXT_NAMES[kind](text))
        elif kind == 4:
            if rest:
                found.append(x509.OtherName(names.SMTP_UTF8_MAILBOX, rest))
                found.append(x509.OtherName(names.UPN, rest))
                found.append(x509.OtherName(x509.ObjectIdentifier("1.2.3"), rest))
        else:
            subject, extension = (rest, b"") if kind == 5 else (der.sequence(), rest)
            request = csr.decode(seeds.request_about(key, subject, extension), POLICY)
            found += request.names
            found.append(x509.DirectoryName(request.subject))
            names.search_terms(request.subject, ())
        for name in found:
            check(name)
        names.unique(found)

    def check(name: x509.GeneralName) -> None:
        for wildcard in (False, True):
            fault = refusal(partial(names.normalise, name, wildcard=wildcard))
            if fault is not None:
                assert fault.code is FaultCode.REJECTED
                assert fault.rule.startswith("name.")
            else:
                canonical = names.normalise(name, wildcard=wildcard)
                assert names.normalise(canonical, wildcard=wildcard) == canonical
                assert names.text_of(canonical) == names.text_of(name)
                names.search_terms(x509.Name([]), [canonical])

    return run


# -- files ----------------------------------------------------------------------------------


def _importing() -> Run:
    def run(data: bytes) -> None:
        bundle = importing.read_bundle(data, b"secret")
        assert isinstance(bundle, importing.Bundle)

    return run


def _config() -> Run:
    path = Path(tempfile.mkdtemp(prefix="tmad-fuzz-")) / "tmad.toml"
    protocols = {"scep": scep_plugin.Settings}

    def load() -> None:
        settings = NodeSettings.load(path, protocols)
        _ = (settings.public_url, settings.database_url, settings.master_file)
        settings.protocol("scep", scep_plugin.Settings)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        fault = refusal(load)
        if fault is not None:
            assert fault.code is FaultCode.REJECTED
            assert all(line.startswith(str(path)) for line in fault.detail.splitlines())

    return run


def _documents() -> Run:
    models: tuple[type[BaseModel], ...] = (ProfileDocument, EndpointDocument, AuthorityDocument)

    def run(data: bytes) -> None:
        tree = malformed_only(lambda: documents.from_toml(data))
        if tree is None:
            return
        for model in models:
            fault = refusal(partial(documents.parse, model, tree))
            if fault is not None:
                assert fault.code is FaultCode.REJECTED
                continue
            document = documents.parse(model, tree)
            again = documents.from_toml(documents.to_toml(documents.plain(document)))
            assert documents.canonical(documents.parse(model, again)) == documents.canonical(
                document
            )
            if isinstance(document, ProfileDocument):
                Profile("any", 1, document)

    return run


def _export() -> Run:
    """An export as it is; and one whose hashes and signatures were put right after a change."""
    key = keys.ed_key("audit")
    pinned = {"audit": key.public_key()}

    def run(data: bytes) -> None:
        for text in (data, _relinked(data, key)):
            for public_keys in (None, pinned):
                report = verify_export(io.BytesIO(text), public_keys)
                assert all(str(finding) for finding in report.findings)

    return run


def _relinked(data: bytes, key: Any) -> bytes:
    lines = []
    checkpoint = chain.FIRST_CHECKPOINT
    previous: dict[str, bytes] = {}
    for line in data.splitlines(keepends=True):
        new = line
        try:
            fields = json.loads(line)
            if fields["type"] == "head":
                previous[fields["writer"]] = chain.genesis(
                    fields["writer"], fields["node"], fields["started_at"]
                )
            elif fields["type"] == "record":
                text = line[88 + 11 : -2].decode("ascii")
                writer = fields["record"]["writer"]
                previous[writer] = chain.link(previous[writer], text)
                new = line[:24] + previous[writer].hex().encode() + line[88:]
            elif fields["type"] == "checkpoint":
                hashed = chain.checkpoint_hash(
                    fields["id"], fields["at"], fields["heads"], fields["key_id"], checkpoint
                )
                fields |= {"previous": checkpoint.hex(), "hash": hashed.hex()}
                signature = chain.signer_of(hashed)(key)
                fields["signature"] = base64.b64encode(signature).decode()
                checkpoint = hashed
                new = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # a line that means nothing stays as it is
        lines.append(new)
    return b"".join(lines)


def _token_files() -> Run:
    # Without the passphrase: the file says how dear the derivation is, up to a second.
    opened = Wishes(key=Secret(bytes(range(16))), kind="totp")
    forms: tuple[Format, ...] = ("pskc", "csv", "yubico", "feitian", "safenet")
    forced = [Wishes(format=form, kind="hotp", encoding="hex") for form in forms]

    def run(data: bytes) -> None:
        for wishes in (opened, *forced):
            with suppress(Fault):
                found = tokenfiles.read(data, NOW, wishes)
                assert found.seeds or found.mistakes
                assert all(str(mistake) for mistake in found.mistakes)
                assert all(16 <= len(each.seed.reveal()) <= 128 for each in found.seeds)

    return run


def _smpp() -> Run:
    def run(data: bytes) -> None:
        malformed_only(lambda: list(smpp_codec.Stream().receive(data)))
        malformed_only(lambda: smpp_codec.decode(data))
        # With the right length, or hardly anything behind the header would be read.
        if len(data) >= 16:
            malformed_only(lambda: smpp_codec.decode(len(data).to_bytes(4) + data[4:]))

    return run


def _keys_of(*models: type[BaseModel]) -> tuple[str, ...]:
    found: set[str] = set()
    todo = list(models)
    while todo:
        model = todo.pop()
        for name, field in model.model_fields.items():
            if name not in found:
                found.add(name)
                todo += documents._models(field.annotation)
    return tuple(sorted(found))


def _eap() -> Run:
    decoders: tuple[Callable[[bytes], object], ...] = (
        eap.decode,
        eap.identity,
        eap.fragment,
        eap.avps,
        eap.extensions,
        eap.mschapv2,
        partial(eap.mschap2_response, name=b"alice"),
    )

    def run(data: bytes) -> None:
        # The first octet chooses: what is no AVP at all says nothing about AVPs.
        if data:
            malformed_only(partial(decoders[data[0] % len(decoders)], data[1:]))

    return run


TARGETS: Mapping[str, Target] = {
    "der": Target(_der, seeds.der_seeds),
    "ber": Target(_ber, seeds.ber_seeds),
    "cms": Target(_cms, seeds.cms_seeds),
    "csr": Target(_csr, seeds.csr_seeds),
    "cmc": Target(_cmc, seeds.cmc_seeds, 16_384),
    "cmp": Target(_cmp, seeds.cmp_seeds, 16_384),
    "scep": Target(
        _scep, seeds.scep_seeds, 16_384, ("operation=", "PKIOperation", "message=", "GetCACert")
    ),
    "scep-content": Target(_scep_content, seeds.scep_content_seeds, 4_096),
    "ocsp": Target(_ocsp, seeds.ocsp_seeds, 16_384),
    "acme": Target(_acme, seeds.acme_seeds, 16_384),
    "validation": Target(validation.prepare, validation.seeds),
    "agent": Target(_agent, seeds.agent_seeds, 16_384),
    "tsa": Target(_tsa, seeds.tsa_seeds, 16_384),
    "wstep": Target(
        _wstep,
        seeds.wstep_seeds,
        8_192,
        ('xmlns:a="', "<a:Action>", "</", "<![CDATA[", "]]>", "&#10;", "mustUnderstand", "i:nil"),
    ),
    "directory": Target(_directory, seeds.directory_seeds, 4_096),
    "http": Target(
        _http,
        seeds.http_seeds,
        4_096,
        (
            *("GET /x HTTP/1.1\r\n", "POST /hot HTTP/1.0\r\n", "Host: a\r\n", "\r\n\r\n"),
            *("Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            *("Connection: close\r\n", "Connection: keep-alive\r\n", "Expect: 100-continue\r\n"),
        ),
    ),
    "names": Target(
        _names, seeds.names_seeds, 1_024, ("xn--", "*.", "tag:microsoft.com,2022-09-14:sid:", "://")
    ),
    "import": Target(
        _importing,
        seeds.import_seeds,
        words=("-----BEGIN ", "-----END ", "CERTIFICATE-----", "PRIVATE KEY-----", "PKCS7-----"),
    ),
    "config": Target(_config, seeds.config_seeds, 2_048, _keys_of(NodeSettings)),
    "documents": Target(
        _documents,
        seeds.documents_seeds,
        4_096,
        _keys_of(ProfileDocument, EndpointDocument, AuthorityDocument),
    ),
    "export": Target(
        _export,
        seeds.export_seeds,
        16_384,
        ('"type":"record"', '"type":"head"', '"type":"key"', '"type":"checkpoint"', "NaN", "1e999"),
    ),
    "token-files": Target(
        _token_files,
        seeds.token_file_seeds,
        4_096,
        ("<KeyPackage>", "</Key>", "<!DOCTYPE x>", "<PlainValue>", "&#x41;", "serial,secret,type"),
    ),
    "smpp": Target(_smpp, seeds.smpp_seeds, 512),
    "snmp": Target(_snmp, seeds.snmp_seeds, 2_048),
    "eap": Target(_eap, seeds.eap_seeds, 1_024),
    "ldap": Target(
        _ldap,
        seeds.ldap_seeds,
        2_048,
        ("userCertificate", "certificateExactMatch", "serialNumber ", 'rdnSequence:"', ":dn:"),
    ),
}
