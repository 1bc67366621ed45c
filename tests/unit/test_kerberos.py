"""The acceptor of tickets, where there is nothing to accept them with, or nothing to accept.

Real tickets are in tests/interop/test_wstep_samba.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import drive
from tmad.errors import Fault, FaultCode
from tmad.identity import kerberos
from tmad.identity.active_directory import Principal
from tmad.identity.kerberos import KerberosService, sid_in_upn_info
from tmad.wire import der, ldap

# A keytab (file format 5.2) with one AES-256 key of zeros for HTTP/ca.corp.test@CORP.TEST.
_NAMES = b"".join(len(part).to_bytes(2) + part for part in (b"CORP.TEST", b"HTTP", b"ca.corp.test"))
_ENTRY = (
    (2).to_bytes(2) + _NAMES + (1).to_bytes(4) + bytes(4) + b"\x01"
    + (18).to_bytes(2) + (32).to_bytes(2) + bytes(32) + (1).to_bytes(4)
)  # fmt: skip
KEYTAB = b"\x05\x02" + len(_ENTRY).to_bytes(4) + _ENTRY
# What NegTokenInit looks like for somebody who has NTLM alone (RFC 4178, 4.2.1).
_OFFERED = der.explicit(0, der.sequence(der.oid("1.3.6.1.4.1.311.2.2.10")))
_NTLM = der.sequence(_OFFERED, der.explicit(2, der.octets(b"NTLMSSP\0\1\0\0\0" + bytes(24))))
NTLM = der.tlv(0x60, der.oid("1.3.6.1.5.5.2"), der.explicit(0, _NTLM))


def fault_of(service: KerberosService, token: bytes, channel: bytes = b"") -> Fault:
    with pytest.raises(Fault) as caught:
        drive(service.accept(token, channel))
    return caught.value


@pytest.fixture
def keytab(tmp_path: Path) -> Path:
    path = tmp_path / "http.keytab"
    path.write_bytes(KEYTAB)
    return path


def test_without_a_keytab_nobody_is_accepted(tmp_path: Path) -> None:
    assert not KerberosService(None, None).is_set_up
    for service in (KerberosService(None, None), KerberosService(tmp_path / "absent", None)):
        fault = fault_of(service, b"x")
        assert (fault.code, fault.rule) == (FaultCode.UNAVAILABLE, "kerberos.unavailable")


def test_without_the_library_the_log_says_which(
    keytab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kerberos, "LIBRARY", "libabsent.so.9")
    fault = fault_of(KerberosService(keytab, None), b"x")
    assert fault.code is FaultCode.UNAVAILABLE
    assert "libabsent.so.9" in fault.private


@pytest.mark.parametrize("token", [b"x", b"\x60\x00", NTLM, NTLM[:-9], b"\xff" * 5_000])
@pytest.mark.parametrize("channel", [b"", bytes(32)])
def test_what_is_no_ticket_is_refused_by_the_library(
    keytab: Path, token: bytes, channel: bytes
) -> None:
    fault = fault_of(KerberosService(keytab, None), token, channel)
    assert fault.code is FaultCode.UNAUTHENTICATED
    assert fault.rule in ("kerberos.ticket", "kerberos.mechanism")


@pytest.mark.parametrize("token", [b"", bytes(70_000)])
def test_a_token_has_a_length(keytab: Path, token: bytes) -> None:
    assert fault_of(KerberosService(keytab, None), token).rule == "kerberos.token"


def test_the_sid_stands_in_upn_info() -> None:
    """MS-PAC 2.10: lengths and offsets, the flag S, and what they lead to."""
    sid = ldap.sid_octets("S-1-5-21-1-2-3-1104")
    head = bytes(8) + (2).to_bytes(4, "little") + bytes(4)
    info = head + len(sid).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(4) + sid
    assert ldap.sid_text(sid_in_upn_info(info)) == "S-1-5-21-1-2-3-1104"
    assert sid_in_upn_info(info[:8] + bytes(4) + info[12:]) == b""
    assert sid_in_upn_info(info[:19]) == b""


def test_a_principal_has_two_parts() -> None:
    found = Principal(name=r"HTTP/a\@b@CORP.TEST")
    assert (found.user, found.realm) == (r"HTTP/a\@b", "CORP.TEST")
