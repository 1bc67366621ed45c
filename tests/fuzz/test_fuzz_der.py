"""The DER scan and reader against strangers' bytes; asn1crypto's parser is the oracle."""

from __future__ import annotations

from asn1crypto import parser
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.mutations import judge, mutated
from tmad.errors import Fault, FaultCode
from tmad.wire import der

_leaf = st.builds(
    der.tlv,
    st.sampled_from([1, 2, 3, 4, 5, 6, 0x0C, 0x13, 0x17, 0x80, 0x82, 0x86]),
    st.binary(max_size=300),
)
trees = st.recursive(
    _leaf,
    lambda inner: st.builds(
        lambda tag, parts: der.tlv(tag, *parts),
        st.sampled_from([0x30, 0x31, 0xA0, 0xA3]),
        st.lists(inner, max_size=5),
    ),
    max_leaves=20,
)


def scan(data: bytes) -> None:
    der.scan(data, elements=200, depth=10)


def is_der(data: bytes) -> bool:
    """Tell by asn1crypto whether this is one element of DER framing."""
    try:
        class_, method, tag, _, content, trailer = parser.parse(data, strict=True)
    except ValueError:
        return False
    if trailer or parser.emit(class_, method, tag, content) != data:
        return False
    if class_ == 0 and (method == 1) != (tag in (16, 17)):
        return False
    if (class_, tag) == (0, 0) or tag >= 31:
        return False
    if not method:
        return True
    while content:
        try:
            size = parser.peek(content)
        except ValueError:
            return False
        if not is_der(content[:size]):
            return False
        content = content[size:]
    return True


@given(trees)
def test_every_tree_is_accepted(data: bytes) -> None:
    result = judge(scan, data)
    assert result is None or result.rule in ("wire.der.depth", "wire.der.elements")


@given(st.binary(max_size=200) | mutated(trees))
@example(b"\x30\x80\x00\x00")
@example(b"\x24\x02\x04\x00")
@example(b"\x04\x84\xff\xff\xff\xff")
@example(b"\x30\x84\x00\x00\x00\x00")
def test_scan_agrees_with_asn1crypto(data: bytes) -> None:
    result = judge(scan, data)
    if isinstance(result, Fault):
        assert result.code is FaultCode.MALFORMED
        if result.rule not in ("wire.der.depth", "wire.der.elements"):
            assert not is_der(data)
    else:
        assert is_der(data)


def read_everything(data: bytes) -> bytes:
    """Walk with the Reader and write it all again."""
    written = []
    reader = der.Reader(data)
    for tag in reader.each():
        if tag & 0x20:
            inside = reader.enter(tag)
            written.append(der.tlv(tag, read_everything(inside.rest())))
        else:
            written.append(der.tlv(tag, reader.content(tag)))
    reader.finish()
    return b"".join(written)


@given(st.binary(max_size=200) | mutated(trees))
def test_what_the_scan_accepts_reads_and_writes_alike(data: bytes) -> None:
    if not isinstance(judge(scan, data), Fault):
        assert read_everything(data) == data


@given(st.binary(max_size=300) | mutated(trees))
def test_reader_alone_gives_a_value_or_a_fault(data: bytes) -> None:
    def walk() -> None:
        reader = der.Reader(data)
        for tag in reader.each():
            {2: reader.integer, 0x30: lambda: reader.enter(0x30).raw()}.get(tag, reader.raw)()
        reader.finish()

    judge(walk)


@given(st.binary(max_size=40) | mutated(st.just(der.tlv(0x17, b"261123120000Z"))))
def test_texts_times_and_oids(data: bytes) -> None:
    judge(der.text, data)
    judge(der.instant, data)
    assert isinstance(judge(der.dotted, data), str)


@given(st.integers(-(2**300), 2**300))
def test_integers_come_back(value: int) -> None:
    assert der.Reader(der.integer(value)).integer() == value
