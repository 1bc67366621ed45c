"""Kerberos tickets for an HTTP service: Negotiate, accepted with a keytab (RFC 4559, RFC 4178).

The system's MIT library does the work and keeps the cache that stops replays; nothing has to be
compiled for it. One message decides: whoever needs a second one has not begun with Kerberos.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tmad.errors import Fault, FaultCode
from tmad.identity.active_directory import Principal
from tmad.signer.workers import Reactor, Workers
from tmad.wire import ldap

LIBRARY: Final = "libgssapi_krb5.so.2"  # Debian: libgssapi-krb5-2

_LARGEST: Final = 65_536  # octets of a token
_ACCEPT: Final = 2
_INDEFINITE: Final = 0xFFFFFFFF
_CONTINUE_NEEDED: Final = 1
_CHANNEL_BOUND: Final = 2_048
_ERRORS: Final = 0xFFFF0000
_GSS_CODE, _MECHANISM_CODE = 1, 2
# MS-PAC 2.4 and 2.10, by their numbers: the SID as such, and beside the principal's names.
_REQUESTOR_SID: Final = b"urn:mspac:18"
_UPN_AND_DNS: Final = b"urn:mspac:upn-dns-info"
_HAS_SID: Final = 0x2


class _Buffer(Structure):
    _fields_ = [("length", c_size_t), ("value", c_void_p)]


class _Bindings(Structure):
    _fields_ = [
        ("initiator_type", c_uint32),
        ("initiator", _Buffer),
        ("acceptor_type", c_uint32),
        ("acceptor", _Buffer),
        ("application", _Buffer),
    ]


class _Element(Structure):
    _fields_ = [("key", c_char_p), ("value", c_char_p)]


class _Store(Structure):
    _fields_ = [("count", c_uint32), ("elements", POINTER(_Element))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Who has shown a ticket; ``answer`` goes back to prove that it reached the right service.

    ``is_bound`` tells that the client has tied it to its TLS connection.
    """

    principal: Principal
    answer: bytes
    is_bound: bool


class KerberosService:
    """Accepts tickets for the services of one keytab, in a thread of its own."""

    def __init__(self, keytab: Path | None, reactor: Reactor | None) -> None:
        self._keytab = keytab
        self._library: Any = None
        self._workers = Workers("Kerberos", threads=1, queue=64, reactor=reactor)

    @property
    def is_set_up(self) -> bool:
        """Whether there is a keytab to accept with."""
        return self._keytab is not None

    async def accept(self, token: bytes, channel: bytes) -> Accepted:
        """Return who sent this token; ``channel`` is RFC 5929's tls-server-end-point, or nothing.

        Raise Fault(UNAUTHENTICATED) for a ticket that does not hold, Fault(UNAVAILABLE) where
        keytab or library are missing.
        """
        if not token or len(token) > _LARGEST:
            raise _refused("kerberos.token", "the Negotiate token has no possible length")
        return await self._workers.run(lambda: self._accept(token, channel))

    def close(self) -> None:
        """Refuse what waits."""
        self._workers.stop()

    def _accept(self, token: bytes, channel: bytes) -> Accepted:
        gss = self._load()
        with _credential(gss, self._keytab) as credential, _released(gss) as held:
            bindings = _bindings(channel)
            answer, minor, flags = _Buffer(), c_uint32(), c_uint32()
            sent, data = _buffer(token)
            major = gss.gss_accept_sec_context(
                byref(minor),
                byref(held.context),
                credential,
                byref(sent),
                None if bindings is None else byref(bindings[0]),
                byref(held.name),
                None,
                byref(answer),
                byref(flags),
                None,
                None,
            )
            del data  # the library has had what it points to
            reply = _taken(gss, answer)
            if major & _ERRORS:
                raise _refused(
                    "kerberos.ticket", "the ticket was not accepted", _words(gss, major, minor)
                )
            if major & _CONTINUE_NEEDED:
                raise _refused(
                    "kerberos.mechanism", "the first Negotiate message must hold a Kerberos ticket"
                )
            return Accepted(
                principal=Principal(name=_display(gss, held.name), sid=_sid(gss, held.name)),
                answer=reply,
                is_bound=bool(flags.value & _CHANNEL_BOUND),
            )

    def _load(self) -> Any:
        if self._library is None:
            try:
                self._library = _declared(ctypes.CDLL(LIBRARY))
            except (OSError, AttributeError) as error:
                raise _missing(f"{LIBRARY} is not there or too old", str(error)) from None
        return self._library


def _declared(gss: Any) -> Any:
    """Say which arguments the functions take, once."""
    for name in (
        "gss_acquire_cred_from", "gss_accept_sec_context", "gss_display_name",
        "gss_get_name_attribute", "gss_display_status", "gss_release_buffer", "gss_release_name",
        "gss_release_cred", "gss_delete_sec_context",
    ):  # fmt: skip
        getattr(gss, name).restype = c_uint32
    return gss


class _Held:
    """What the library has given out and wants back."""

    def __init__(self) -> None:
        self.context = c_void_p()
        self.name = c_void_p()


@contextmanager
def _released(gss: Any) -> Iterator[_Held]:
    held, minor = _Held(), c_uint32()
    try:
        yield held
    finally:
        if held.name:
            gss.gss_release_name(byref(minor), byref(held.name))
        if held.context:
            gss.gss_delete_sec_context(byref(minor), byref(held.context), None)


@contextmanager
def _credential(gss: Any, keytab: Path | None) -> Iterator[c_void_p]:
    """Read the keytab anew: a key that was added or withdrawn counts at once."""
    if keytab is None:
        raise _missing("no keytab is set; see keytab_file of [protocols.wstep]")
    elements = (_Element * 1)(_Element(b"keytab", b"FILE:" + str(keytab).encode()))
    store, credential, minor = _Store(1, elements), c_void_p(), c_uint32()
    major = gss.gss_acquire_cred_from(
        byref(minor),
        None,
        c_uint32(_INDEFINITE),
        None,
        c_int(_ACCEPT),
        byref(store),
        byref(credential),
        None,
        None,
    )
    if major & _ERRORS:
        raise _missing("the keytab cannot be used", _words(gss, major, minor))
    try:
        yield credential
    finally:
        gss.gss_release_cred(byref(minor), byref(credential))


def _buffer(data: bytes) -> tuple[_Buffer, Any]:
    """Return a buffer and what keeps its octets alive."""
    octets = ctypes.create_string_buffer(data, len(data))
    return _Buffer(len(data), ctypes.cast(octets, c_void_p)), octets


def _bindings(channel: bytes) -> tuple[_Bindings, Any] | None:
    if not channel:
        return None
    buffer, octets = _buffer(b"tls-server-end-point:" + channel)
    bindings = _Bindings()
    bindings.application = buffer
    return bindings, octets


def _taken(gss: Any, buffer: _Buffer) -> bytes:
    """Return what the library put into a buffer, and give the buffer back."""
    data = ctypes.string_at(buffer.value, buffer.length) if buffer.value else b""
    gss.gss_release_buffer(byref(c_uint32()), byref(buffer))
    return data


def _display(gss: Any, name: c_void_p) -> str:
    buffer, minor = _Buffer(), c_uint32()
    major = gss.gss_display_name(byref(minor), name, byref(buffer), None)
    text = _taken(gss, buffer).decode("utf-8", "replace")
    if major & _ERRORS or not text.rpartition("@")[2]:
        raise _refused("kerberos.principal", "the ticket names nobody")
    return text


def _sid(gss: Any, name: c_void_p) -> str:
    """Return the SID of the account that the ticket was made for, from its PAC (MS-PAC)."""
    raw = _attribute(gss, name, _REQUESTOR_SID)
    if not raw:
        raw = sid_in_upn_info(_attribute(gss, name, _UPN_AND_DNS))
    return ldap.sid_text(raw) if raw else ""


def sid_in_upn_info(info: bytes) -> bytes:
    """Return the SID in UPN_DNS_INFO (MS-PAC 2.10), nothing where it has none."""
    if len(info) < 20 or not int.from_bytes(info[8:12], "little") & _HAS_SID:
        return b""
    length, offset = (int.from_bytes(info[at : at + 2], "little") for at in (16, 18))
    return info[offset : offset + length]


def _attribute(gss: Any, name: c_void_p, attribute: bytes) -> bytes:
    """Return a part of the ticket that the library has checked, or nothing."""
    wanted, data = _buffer(attribute)
    authenticated, complete, more = c_int(), c_int(), c_int(-1)
    value, shown, minor = _Buffer(), _Buffer(), c_uint32()
    major = gss.gss_get_name_attribute(
        byref(minor), name, byref(wanted), byref(authenticated), byref(complete), byref(value),
        byref(shown), byref(more),
    )  # fmt: skip
    del data
    found = _taken(gss, value)
    _taken(gss, shown)
    return found if not major & _ERRORS and authenticated.value else b""


def _words(gss: Any, major: int, minor: c_uint32) -> str:
    """Return what the library says of a failure, for the log and the journal."""
    said = []
    for status, kind in ((major, _GSS_CODE), (minor.value, _MECHANISM_CODE)):
        buffer, code, context = _Buffer(), c_uint32(), c_uint32()
        gss.gss_display_status(
            byref(code), c_uint32(status), c_int(kind), None, byref(context), byref(buffer)
        )
        said.append(_taken(gss, buffer).decode("utf-8", "replace"))
    return ": ".join(each for each in said if each)[:300]


def _refused(rule: str, detail: str, why: str = "") -> Fault:
    values = {"failure": why} if why else {}
    return Fault(FaultCode.UNAUTHENTICATED, detail, private=why, rule=rule, values=values)


def _missing(why: str, more: str = "") -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        "Kerberos tickets cannot be checked at the moment",
        private=f"{why}: {more}",
        retry_after=60,
        rule="kerberos.unavailable",
        values={"failure": f"{why}: {more}"[:300]},
    )
