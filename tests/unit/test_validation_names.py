"""dns-01, CAA, and the resolver under both, against name servers good and bad (T-LIB-01)."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import LoopingCall
from twisted.names import dns

from tests.contract.conftest import Loop
from tests.name_server import NameServer, add, reply_to
from tests.unit.validation_world import ACCOUNT, TXT, question
from tmad.ca.validation import caa, resolver, validators
from tmad.ca.validation.contract import Question, Validated, name_server
from tmad.ca.validation.dns01 import record_name
from tmad.ca.validation.resolver import Resolver, system_servers
from tmad.ca.validation.validators import Validators
from tmad.errors import Fault

NAME = "_acme-challenge.www.example.test"


@pytest.fixture(scope="module")
def loop() -> Loop:
    return Loop()


@pytest.fixture
def names() -> Iterator[NameServer]:
    found = NameServer({(NAME, "TXT"): [TXT]})
    yield found
    found.close()


def validated(loop: Loop, asked: Question) -> Validated:
    return loop.run(Validators(loop.reactor).validate(asked))


def refused(loop: Loop, asked: Question) -> tuple[str, str]:
    with pytest.raises(Fault) as caught:
        validated(loop, asked)
    assert caught.value.rule == "acme.validation"
    return caught.value.values["problem"], caught.value.detail


def dns01(names: NameServer, **more: Any) -> Question:
    return question("dns-01", resolvers=[names.address], **more)


# -- dns-01 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [[TXT], [b"another", TXT, b"v=spf1 -all"], [b"x" * 700, TXT], [TXT + b" "]],
    ids=["one", "several", "long", "space"],
)
def test_good_records(loop: Loop, names: NameServer, texts: list[bytes]) -> None:
    names.records[NAME, "TXT"] = texts
    found = validated(loop, dns01(names))
    assert found.record == {"challenge": "dns-01", "name": NAME, "records": len(texts)}


def test_a_wildcard_is_asked_for_at_the_same_name(loop: Loop, names: NameServer) -> None:
    validated(loop, dns01(names, is_wildcard=True))
    assert {each[0] for each in names.asked} == {NAME}


def test_aliases_are_followed(loop: Loop, names: NameServer) -> None:
    names.records = {
        (NAME, "CNAME"): ["a.acme.test"],
        ("a.acme.test", "CNAME"): ["b.acme.test"],
        ("b.acme.test", "TXT"): [TXT],
    }
    validated(loop, dns01(names))


def test_aliases_that_the_server_does_not_follow(loop: Loop, names: NameServer) -> None:
    """As one that knows only its own zone."""

    def one_step(asked: dns.Message, is_tcp: bool) -> bytes:
        name = asked.queries[0].name.name.decode().lower()
        answer = reply_to(asked)
        if name == NAME:
            add(answer, name, "CNAME", "a.acme.test")
        else:
            add(answer, name, "TXT", TXT)
        octets: bytes = answer.toStr()
        return octets

    names.answer = one_step
    validated(loop, dns01(names))
    assert [each[0] for each in names.asked] == [NAME, "a.acme.test"]


@pytest.mark.parametrize("target", [NAME, "a.acme.test"])
def test_aliases_without_end(loop: Loop, names: NameServer, target: str) -> None:
    names.records = {(NAME, "CNAME"): [target], ("a.acme.test", "CNAME"): [NAME]}
    assert refused(loop, dns01(names))[0] == "dns"


def test_the_account_has_a_label_of_its_own(loop: Loop, names: NameServer) -> None:
    asked = question("dns-account-01", resolvers=[names.address])
    name = record_name(asked)
    assert name == f"_{name[1:17]}.{NAME}"
    assert name[1:17].isalnum()
    assert refused(loop, asked)[0] == "dns"
    names.records[name, "TXT"] = [TXT]
    validated(loop, asked)


def test_the_label_of_an_account_as_the_draft_computes_it() -> None:
    """draft-ietf-acme-dns-account-label, 3.2, has this example."""
    asked = question("dns-account-01", "example.org")
    object.__setattr__(asked, "account_url", "https://example.com/acme/acct/ExampleAccount")
    assert record_name(asked) == "_ujmmovf2vn55tgye._acme-challenge.example.org"


@pytest.mark.parametrize(
    ("texts", "problem", "detail"),
    [
        ([b"another"], "incorrectResponse", "none of the 1 TXT records"),
        ([TXT + b"="], "incorrectResponse", "none of the 1"),
        ([TXT[:-1]], "incorrectResponse", "none of the 1"),
        ([], "dns", "has no TXT record"),
    ],
)
def test_bad_records(
    loop: Loop, names: NameServer, texts: list[bytes], problem: str, detail: str
) -> None:
    names.records[NAME, "TXT"] = texts
    found = refused(loop, dns01(names))
    assert found[0] == problem
    assert detail in found[1]


def test_a_name_that_does_not_exist(loop: Loop, names: NameServer) -> None:
    names.records = {}
    assert refused(loop, dns01(names)) == ("dns", f"{NAME} is not in the DNS")


def test_a_name_that_is_too_long_with_its_label(loop: Loop, names: NameServer) -> None:
    found = refused(loop, dns01(names, value=".".join(["a" * 59] * 4)))
    assert found[0] == "dns"
    assert "longer than the DNS allows" in found[1]


def test_many_records_come_over_tcp(loop: Loop, names: NameServer) -> None:
    names.records[NAME, "TXT"] = [b"%d" % number * 40 for number in range(40)] + [TXT]
    validated(loop, dns01(names))
    assert [each[2] for each in names.asked] == [False, True]


def test_the_next_server_is_asked(loop: Loop, names: NameServer) -> None:
    bad = NameServer()
    bad.answer = lambda asked, is_tcp: coded(asked, 5)
    asked = question("dns-01", resolvers=[bad.address, names.address])
    validated(loop, asked)
    bad.close()


def coded(asked: dns.Message, code: int) -> bytes:
    answer = reply_to(asked)
    answer.rCode = code
    octets: bytes = answer.toStr()
    return octets


@pytest.mark.parametrize(("code", "word"), [(2, "SERVFAIL"), (5, "REFUSED"), (9, "code 9")])
def test_servers_that_do_not_want(loop: Loop, names: NameServer, code: int, word: str) -> None:
    names.answer = lambda asked, is_tcp: coded(asked, code)
    found = refused(loop, dns01(names))
    assert found[0] == "dns"
    assert word in found[1]


def test_a_server_that_knows_no_edns(loop: Loop, names: NameServer) -> None:
    def old(asked: dns.Message, is_tcp: bool) -> bytes:
        if asked.additional:
            return coded(asked, 1)
        answer = reply_to(asked)
        add(answer, NAME, "TXT", TXT)
        octets: bytes = answer.toStr()
        return octets

    names.answer = old
    validated(loop, dns01(names))


def forged(asked: dns.Message, **changed: Any) -> bytes:
    answer = reply_to(asked)
    if "id" in changed:
        answer.id = (asked.id + 1) % 65_536
    if "name" in changed:
        answer.queries = [dns.Query("other.test", dns.TXT)]
    if "type" in changed:
        answer.queries = [dns.Query(NAME, dns.A)]
    add(answer, NAME, "TXT", TXT)
    octets: bytes = answer.toStr()
    return octets


@pytest.mark.parametrize("what", ["id", "name", "type"])
def test_answers_to_other_questions_count_for_nothing(
    loop: Loop, names: NameServer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_PATIENCE", 0.2)
    names.answer = lambda asked, is_tcp: forged(asked, **{what: True})
    found = refused(loop, dns01(names))
    assert found[0] == "dns"
    assert "no answer in time" in found[1]


def test_answers_from_elsewhere_are_not_heard(
    loop: Loop, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_PATIENCE", 0.3)
    elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elsewhere.bind(("127.0.0.1", 0))
    ports: list[int] = []

    def note(asked: dns.Message, is_tcp: bool) -> None:
        # The client's port is not in the message, but the kernel tells who is connected.
        with open("/proc/net/udp", encoding="ascii") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        with contextlib.suppress(OSError):
            for row in rows:
                if int(row[2].partition(":")[2], 16) == names.port:
                    ports.append(int(row[1].partition(":")[2], 16))
                    elsewhere.sendto(forged(asked), ("127.0.0.1", ports[-1]))

    names.answer = note  # type: ignore[assignment]
    assert refused(loop, dns01(names))[0] == "dns"
    assert ports
    elsewhere.close()


# -- hostile servers: T-LIB-01 --------------------------------------------------------------


def pointers(asked: dns.Message, is_tcp: bool) -> bytes:
    """Each name points to the one before it."""
    head = reply_to(asked).toStr()
    chain = b"".join(
        struct.pack(">HHHIH", 0xC000 | max(12, len(head) + 16 * n - 16), 16, 1, 0, 4) + b"\3abc"
        for n in range(4_000)
    )
    return head[:6] + struct.pack(">H", 4_000) + head[8:] + chain


def long_names(asked: dns.Message, is_tcp: bool) -> bytes:
    """Two hundred records with names of 127 labels."""
    head = reply_to(asked).toStr()
    record = b"\1a" * 126 + b"\0" + struct.pack(">HHIH", 16, 1, 0, 4) + b"\3abc"
    return head[:6] + struct.pack(">H", 200) + head[8:] + record * 200


def self_pointing(asked: dns.Message, is_tcp: bool) -> bytes:
    head: bytes = reply_to(asked).toStr()
    return head[:12] + b"\xc0\x0c" + head[14:]


def huge(asked: dns.Message, is_tcp: bool) -> bytes:
    if not is_tcp:
        answer = reply_to(asked)
        answer.trunc = 1
        octets: bytes = answer.toStr()
        return octets
    return pointers(asked, is_tcp)[:65_535]


def noise(asked: dns.Message, is_tcp: bool) -> bytes:
    return b"\xff" * 1_400


@pytest.mark.parametrize("answerer", [pointers, long_names, self_pointing, huge, noise])
def test_t_lib_01_hostile_servers_do_not_stop_the_reactor(
    loop: Loop, names: NameServer, answerer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_PATIENCE", 0.3)
    names.answer = lambda asked, is_tcp: (
        answerer(asked, is_tcp) if is_tcp else answerer(asked, is_tcp)[:65_000]
    )
    ticks: list[float] = []
    ticking: Any = LoopingCall(lambda: ticks.append(time.thread_time()))
    ticking.clock = loop.reactor
    ticking.start(0.01)
    assert refused(loop, dns01(names))[0] == "dns"
    ticking.stop()
    # CPU of this thread between two ticks: other work on the machine does not count.
    assert max(b - a for a, b in itertools.pairwise(ticks)) < 0.05


def test_silence_is_given_up(
    loop: Loop, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validators, "TIMEOUT", 0.5)
    names.answer = lambda asked, is_tcp: None
    begin = time.monotonic()
    assert "no answer in time" in refused(loop, dns01(names))[1]
    assert time.monotonic() - begin < 8


# -- CAA ------------------------------------------------------------------------------------


def caa_question(names: NameServer, **more: Any) -> Question:
    return dns01(names, caa_identities=["ca.test", "CA.example"], **more)


OURS = (False, "issue", "ca.test")


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"www.example.test": [OURS]},
        {"www.example.test": [(False, "ISSUE", "CA.TEST")]},
        {"www.example.test": [(False, "issue", "other.test"), (False, "issue", "ca.example")]},
        {"example.test": [OURS]},
        {"test": [OURS]},
        {"www.example.test": [OURS], "example.test": [(False, "issue", ";")]},
        {"www.example.test": [(False, "iodef", "mailto:a@b.test")],
         "example.test": [(False, "issue", ";")]},
        {"www.example.test": [(False, "future", "x"), OURS]},
        {"www.example.test": [OURS, (False, "issuewild", ";")]},
        {"www.example.test": [(False, "issue", f" ca.test ; accounturi={ACCOUNT} ")]},
        {"www.example.test": [(False, "issue", "ca.test; validationmethods=http-01,dns-01")]},
    ],
    ids=str,
)  # fmt: skip
def test_caa_that_allows(loop: Loop, names: NameServer, records: dict[str, Any]) -> None:
    names.records |= {(owner, "CAA"): each for owner, each in records.items()}
    validated(loop, caa_question(names))
    loop.run(Validators(loop.reactor).check_caa(caa_question(names)))


@pytest.mark.parametrize(
    "records",
    [
        {"www.example.test": [(False, "issue", ";")]},
        {"www.example.test": [(False, "issue", "")]},
        {"www.example.test": [(False, "issue", "other.test")]},
        {"test": [(False, "issue", "other.test")]},
        {"www.example.test": [(True, "future", "x"), OURS]},
        {"www.example.test": [(False, "issue", "ca.test; accounturi=https://ca.test/acme/2")]},
        {"www.example.test": [(False, "issue", "ca.test; validationmethods=http-01")]},
        {"www.example.test": [(False, "issue", f"ca.test; accounturi={ACCOUNT}; accounturi=x")]},
        {"www.example.test": [(False, "issue", "ca.test; x")]},
        {"www.example.test": [(False, "issue", "ca.test.")]},
        {"www.example.test": [(False, "issue", "cä.test")]},
    ],
    ids=str,
)
def test_caa_that_forbids(loop: Loop, names: NameServer, records: dict[str, Any]) -> None:
    names.records |= {(owner, "CAA"): each for owner, each in records.items()}
    assert refused(loop, caa_question(names))[0] == "caa"
    with pytest.raises(Fault):
        loop.run(Validators(loop.reactor).check_caa(caa_question(names)))


def test_caa_of_wildcards(loop: Loop, names: NameServer) -> None:
    wild = caa_question(names, is_wildcard=True)
    names.records["www.example.test", "CAA"] = [OURS, (False, "issuewild", ";")]
    assert refused(loop, wild)[0] == "caa"
    names.records["www.example.test", "CAA"] = [(False, "issue", ";"),
                                                (False, "issuewild", "ca.test")]  # fmt: skip
    validated(loop, wild)
    assert refused(loop, caa_question(names))[0] == "caa"
    names.records["www.example.test", "CAA"] = [OURS]
    validated(loop, wild)


def test_caa_that_cannot_be_looked_up_forbids(loop: Loop, names: NameServer) -> None:
    def failing(asked: dns.Message, is_tcp: bool) -> bytes:
        answer = reply_to(asked)
        if asked.queries[0].type == 257:
            return coded(asked, 2)
        add(answer, NAME, "TXT", TXT)
        octets: bytes = answer.toStr()
        return octets

    names.answer = failing
    assert refused(loop, caa_question(names))[0] == "caa"


def test_caa_is_not_read_unless_an_identity_is_told(loop: Loop, names: NameServer) -> None:
    names.records["www.example.test", "CAA"] = [(False, "issue", ";")]
    validated(loop, dns01(names))
    assert "CAA" not in {each[1] for each in names.asked}


@pytest.mark.parametrize(
    ("value", "domain", "parameters"),
    [
        (b"", "", {}),
        (b" ; ", "", {}),
        (b"CA.test;a=b; C = d ", "ca.test", {"a": "b", "c": "d"}),
        (b"ca.test;a=", "ca.test", {"a": ""}),
    ],
)
def test_caa_values(value: bytes, domain: str, parameters: dict[str, str]) -> None:
    assert caa.parse(value) == caa.Property(domain, parameters)


# -- the system's servers -------------------------------------------------------------------


def test_the_systems_servers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch test\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\n"
                    "nameserver 192.0.2.3\nnameserver 192.0.2.4\n")  # fmt: skip
    assert system_servers(file) == (("192.0.2.1", 53), ("fe80::1", 53), ("192.0.2.3", 53))
    assert system_servers(tmp_path / "none") == (("127.0.0.1", 53),)


def test_the_hosts_file_goes_first(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "192.0.2.7 www.example.test WWW # other\n2001:db8::7 www.example.test\nx y www\n"
    )
    monkeypatch.setattr(resolver, "_HOSTS", file)
    asked = Resolver(loop.reactor, (), loop.reactor.seconds() + 5)
    found = loop.run(asked.addresses("www.example.test"))
    assert [str(each) for each in found] == ["2001:db8::7", "192.0.2.7"]
    assert len(loop.run(asked.addresses("www"))) == 1


def test_name_servers_of_a_setting() -> None:
    assert name_server("192.0.2.1") == ("192.0.2.1", 53)
    assert name_server("192.0.2.1:5353") == ("192.0.2.1", 5353)
    assert name_server("[2001:db8::1]:5353") == ("2001:db8::1", 5353)
    for wrong in ("", "ns.test", "192.0.2.1:0", "192.0.2.1:65536", "1.2.3", "[::1", ":53"):
        with pytest.raises(ValueError, match=r"."):
            name_server(wrong)
