"""Any octets, cut anywhere: answers or a refusal, never another exception, never two readings."""

from __future__ import annotations

import time

from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_edge_http import GET, SMUGGLING, Edge, answers
from tmad.edge.http1 import ChunkedBody, Refused, decode_head, head_end

LINES = st.lists(
    st.sampled_from(
        [
            b"GET /x HTTP/1.1",
            b"POST /x HTTP/1.0",
            b"Host: a",
            b"Content-Length: 3",
            b"Content-Length:03",
            b"content-length: 3 ",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding : chunked",
            b"Connection: close, keep-alive",
            b"Expect: 100-continue",
            b" folded",
            b"X: \x80\xff",
            b"",
            b"3",
            b"abc",
            b"0",
        ]
    ),
    max_size=12,
)
ENDS = st.lists(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""]), min_size=12)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw octets near HTTP, or any."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=300))
    if kind == 1:
        sample = draw(st.sampled_from([GET, *SMUGGLING.values()]))
        at = draw(st.integers(0, len(sample)))
        return sample[:at] + draw(st.binary(max_size=4)) + sample[at:]
    lines, ends = draw(LINES), draw(ENDS)
    return b"".join(line + end for line, end in zip(lines, ends, strict=False))


@given(streams(), st.lists(st.integers(1, 40), max_size=30))
@example(b"POST /x HTTP/1.1\r\nHost: a\r\n*Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n\r\n", [])
def test_g_bad_1_octets_are_answered_alike_however_they_are_cut(
    octets: bytes, sizes: list[int]
) -> None:
    edge = Edge()
    edge.mount("/x")
    site = edge.site()
    whole, whole_transport = edge.connect(site)
    whole.dataReceived(octets)
    pieces, pieces_transport = edge.connect(site)
    at = 0
    for size in [*sizes, len(octets) + 1]:
        if octets[at : at + size]:
            pieces.dataReceived(octets[at : at + size])
        at += size

    def seen(answer: bytes) -> list[tuple[bytes, bytes]]:
        # Whether the client is told to go on depends on what has come by then, and so does
        # which mistake is named first; not what is served, nor that the rest is refused.
        answer = answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        return [(code, body if code == b"200" else b"") for code, body in answers(answer)]

    assert seen(pieces_transport.value()) == seen(whole_transport.value())
    assert pieces_transport.is_closing == whole_transport.is_closing


@given(streams())
def test_g_bad_1_a_head_is_a_value_or_a_refusal(octets: bytes) -> None:
    try:
        end = head_end(octets, 0, 24_576) if octets else 0
        if end:
            head = decode_head(octets[:end])
            assert head.path.startswith(b"/")
            assert not (head.is_chunked and "content-length" in head.headers)
    except Refused:
        return


def test_g_bad_3_no_head_and_no_chunks_are_slow() -> None:
    hostile = [
        b"A" * 24_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 24_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + b"a:\r\n" * 6_000 + b"\r\n",
        b"GET /x HTTP/1.1\r\n" + b"a: " + b"\t " * 12_000 + b"\x00\r\n\r\n",
        b"GET /x HTTP/1.1\r\n" + b"a: b\r\n" * 99 + b"a b\r\n\r\n",
        b"GET http://" + b"a" * 20_000 + b"\r\n\r\n",
    ]
    for octets in hostile:
        begin = time.thread_time()
        for _ in range(5):
            try:
                decode_head(octets)
            except Refused:
                continue
        assert time.thread_time() - begin < 0.25, octets[:20]
    body = ChunkedBody(1 << 20)
    begin = time.thread_time()
    assert body.take(b"1\r\nx\r\n" * 10_000) is None
    assert time.thread_time() - begin < 0.5
