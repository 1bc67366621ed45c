"""What an agent reads from servers, and what the appliance reads from agents."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tests.unit.agent_server import Server
from tmad.agent import acme, acmeclient, est, scep
from tmad.agent.answering import is_token
from tmad.agent.identity import make_key, read_certificates
from tmad.agent.source import Window
from tmad.agent.store import State, decode_state
from tmad.agent.transport import Answer
from tmad.errors import Fault, FaultCode
from tmad.wire import cms, reports
from tmad.wire.reports import Advice, Report

SERVER = Server()
ROOT_DER = SERVER.root.public_bytes(Encoding.DER)
ROOT_PEM = SERVER.root.public_bytes(Encoding.PEM)
CHAIN = cms.degenerate((ROOT_DER, ROOT_DER))
AT = datetime(2027, 1, 1, tzinfo=UTC)
KEY = make_key("rsa-2048")

REPORT = Report(
    id="0123456789abcdef", host="h", label="l", version="1", source="est", state="good",
    served="", error="no", renew_at=AT,
)  # fmt: skip
ADVICE = Advice(status="good", window=(AT, AT.replace(month=2)))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)


def overwritten(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return the document with any values in some of its members."""
    return st.dictionaries(st.sampled_from(sorted(document)), JSON, max_size=3).map(
        lambda changes: {**document, **changes}
    )


@given(mutated(st.sampled_from([reports.encode_report(REPORT)])) | st.binary(max_size=200))
def test_reports(body: bytes) -> None:
    found = judge(reports.decode_report, body)
    if isinstance(found, Fault):
        assert found.code is FaultCode.MALFORMED
    else:
        assert reports.decode_report(reports.encode_report(found)) == found


@settings(max_examples=120)
@given(overwritten(json.loads(reports.encode_report(REPORT))))
def test_reports_with_any_values(document: dict[str, Any]) -> None:
    found = judge(reports.decode_report, json.dumps(document).encode())
    assert isinstance(found, Fault | Report)


@settings(max_examples=120)
@given(overwritten(json.loads(reports.encode_advice(ADVICE))) | JSON)
def test_answers_to_reports(document: Any) -> None:
    found = judge(reports.decode_advice, json.dumps(document).encode())
    if isinstance(found, Advice):
        assert 60.0 <= found.again_seconds <= 30 * 86_400
        assert found.window is None or found.window[0] < found.window[1]


def test_what_is_written_is_read() -> None:
    assert reports.decode_report(reports.encode_report(REPORT)) == REPORT
    assert reports.decode_advice(reports.encode_advice(ADVICE)) == ADVICE
    assert reports.decode_report(b" " + reports.encode_report(REPORT)) == REPORT
    nested = b"[" * 4000 + b"]" * 4000
    assert isinstance(judge(reports.decode_report, nested), Fault)


@settings(max_examples=150)
@given(mutated(st.sampled_from([CHAIN, base64.encodebytes(CHAIN), ROOT_DER])))
def test_certificates_of_a_server(body: bytes) -> None:
    for decode in (est.decode_certificates, scep.decode_authorities):
        found = judge(decode, body)
        if isinstance(found, Fault):
            assert found.code is FaultCode.MALFORMED
        else:
            judge(scep.believed, found, [SERVER.root])


@settings(max_examples=150)
@given(mutated(st.sampled_from([ROOT_PEM, ROOT_PEM * 3, b"text\n" + ROOT_PEM])))
def test_pem(body: bytes) -> None:
    found = judge(read_certificates, body)
    assert isinstance(found, list) or found.code is FaultCode.MALFORMED


@settings(max_examples=150)
@given(mutated(st.sampled_from([CHAIN, ROOT_DER])))
def test_scep_answers(body: bytes) -> None:
    found = judge(
        lambda octets: scep.open_reply(
            octets, [SERVER.root], KEY, transaction="x", nonce=b"n" * 16, random=bytes
        ),
        body,
    )
    assert isinstance(found, Fault)


ORDER = {
    "status": "valid",
    "authorizations": ["https://x/1"],
    "finalize": "https://x/2",
    "certificate": "https://x/3",
    "error": {"detail": "no", "subproblems": [{"detail": "why"}]},
}
AUTHORISATION = {
    "status": "invalid",
    "identifier": {"type": "dns", "value": "x"},
    "challenges": [{"type": "http-01", "token": "t" * 20, "url": "https://x/4", "error": {}}],
}


@settings(max_examples=120)
@given(overwritten(ORDER) | overwritten(AUTHORISATION) | JSON, st.integers(200, 599))
def test_acme_objects(document: Any, status: int) -> None:
    answer = Answer(status, {"retry-after": "5"}, json.dumps(document).encode())
    found = judge(acmeclient.decode_object, answer)
    if isinstance(found, Fault):
        assert found.detail.isprintable()
        return
    for name in ("finalize", "certificate", "authorizations"):
        url = judge(acmeclient.https_of, found, name)
        assert isinstance(url, Fault) or url.startswith("https://")
    domain = judge(acme._domain, found)
    if isinstance(domain, str):
        # It becomes an argument of a program.
        assert not domain.startswith("-")
        assert set(domain) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    challenge = judge(acme._challenge, found, "dns-01" if domain else "http-01")
    assert isinstance(challenge, Fault) or is_token(challenge["token"])
    assert judge(acme._why, found).isprintable()


@settings(max_examples=120)
@given(overwritten({"suggestedWindow": {"start": AT.isoformat(), "end": "x"}}) | JSON)
def test_renewal_information(document: Any) -> None:
    found = judge(acme.decode_window, Answer(200, {}, json.dumps(document).encode()))
    assert isinstance(found, Fault | Window)


def test_renewal_information_as_the_rfc_has_it() -> None:
    """RFC 9773, 4.2."""
    body = b'{"suggestedWindow":{"start":"2025-01-02T04:00:00Z","end":"2025-01-03T04:00:00Z"}}'
    found = acme.decode_window(Answer(200, {"retry-after": "21600"}, body))
    assert (found.start, found.seconds) == (datetime(2025, 1, 2, 4, tzinfo=UTC), 21600.0)


@given(st.text(max_size=60))
def test_a_token_is_never_a_path(text: str) -> None:
    if is_token(text):
        assert "/" not in text
        assert "." not in text


@settings(max_examples=120)
@given(overwritten(json.loads(State().model_dump_json())) | JSON)
def test_states(document: Any) -> None:
    found = judge(decode_state, json.dumps(document).encode())
    if isinstance(found, Fault):
        assert found.rule == "agent.state"
    else:
        assert decode_state(found.model_dump_json().encode()) == found
