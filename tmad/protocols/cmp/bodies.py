"""The bodies of CMP messages: bytes to values and back (RFC 9810, 5.2 and 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tmad.protocols.cmp import codec
from tmad.protocols.cmp.codec import Body, FailInfo, Info, Status
from tmad.wire import crmf, der
from tmad.wire.crmf import CertRequest, Template
from tmad.wire.signatures import Algorithm

_REASON: Final = der.oid("2.5.29.21")
_ENUMERATED: Final = 0x0A
P10_ID: Final = -1  # certReqId of what a PKCS#10 asked for (RFC 9483, 4.1.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInfo:
    """A PKIStatusInfo; ``text`` as the first of its PKIFreeText."""

    status: int
    text: str = ""
    fail_info: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return it as DER."""
        parts = [der.integer(self.status)]
        if self.text:
            parts.append(codec.free_text([self.text]))
        if self.fail_info:
            parts.append(_bits(self.fail_info))
        return der.sequence(*parts)


def _bits(bits: Sequence[int]) -> bytes:
    """Return a named BIT STRING: no trailing zero bits (X.690, 11.2.2)."""
    last = max(bits)
    number = sum(1 << (last - bit) for bit in bits)
    unused = -(last + 1) % 8
    octets = (number << unused).to_bytes(last // 8 + 1)
    return der.tlv(der.BIT_STRING, bytes((unused,)), octets)


def read_status_info(reader: der.Reader) -> StatusInfo:
    """Read a PKIStatusInfo from where the reader stands."""
    inside = reader.enter(der.SEQUENCE)
    status = inside.integer()
    text = ""
    if inside.peek() == der.SEQUENCE:
        texts = inside.enter(der.SEQUENCE)
        text = der.text(texts.raw()) if texts.peek() >= 0 else ""
    fail_info: tuple[int, ...] = ()
    if inside.peek() == der.BIT_STRING:
        content = inside.content(der.BIT_STRING)
        if not content or len(content) > 9 or content[0] > 7:
            raise der.malformed("failInfo is no BIT STRING", "cmp.status")
        octets = content[1:]
        fail_info = tuple(
            bit for bit in range(8 * len(octets)) if octets[bit // 8] & (0x80 >> bit % 8)
        )
    inside.finish()
    return StatusInfo(status=status, text=text[:500], fail_info=fail_info)


# -- what clients send ----------------------------------------------------------------------


def read_requests(content: bytes) -> tuple[CertRequest, ...]:
    """Read ir, cr and kur."""
    reader = der.Reader(content)
    found = crmf.decode(reader)
    reader.finish()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationWish:
    """One RevDetails; ``reasons`` are the values of every reasonCode in it."""

    template: Template
    reasons: tuple[int, ...]


def read_revocations(content: bytes) -> tuple[RevocationWish, ...]:
    """Read rr."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    wishes = []
    for _ in reader.each():
        details = reader.enter(der.SEQUENCE)
        template = crmf.read_template(details)
        reasons: list[int] = []
        if details.peek() >= 0:
            extensions = details.enter(der.SEQUENCE)
            for _ in extensions.each():
                reasons += _read_reason(extensions.enter(der.SEQUENCE))
        details.finish()
        wishes.append(RevocationWish(template=template, reasons=tuple(reasons)))
    if not wishes:
        raise der.malformed("rr names no certificate", "cmp.revocation")
    return tuple(wishes)


def _read_reason(extension: der.Reader) -> list[int]:
    oid = extension.raw(der.OBJECT_IDENTIFIER)
    if extension.peek() == der.BOOLEAN:
        extension.raw()
    value = extension.content(der.OCTET_STRING)
    extension.finish()
    if oid != _REASON:
        return []
    code = der.content(value, _ENUMERATED)
    if len(code) != 1:
        raise der.malformed("a reasonCode is no reason", "cmp.revocation.reason")
    return [code[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertStatus:
    """What a client says about the certificate that it got."""

    hash: bytes
    id: int
    info: StatusInfo | None
    hash_algorithm: Algorithm | None


def read_confirmation(content: bytes) -> tuple[CertStatus, ...]:
    """Read certConf; empty means that everything is rejected (RFC 9810, 5.3.18)."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    found = []
    for _ in reader.each():
        inside = reader.enter(der.SEQUENCE)
        digest, number = inside.content(der.OCTET_STRING), inside.integer()
        info = read_status_info(inside) if inside.peek() == der.SEQUENCE else None
        algorithm = None
        if inside.peek() == 0xA0:
            tagged = inside.enter(0xA0)
            algorithm = Algorithm.read(tagged)
            tagged.finish()
        inside.finish()
        found.append(CertStatus(hash=digest, id=number, info=info, hash_algorithm=algorithm))
    return tuple(found)


def read_poll(content: bytes) -> tuple[int, ...]:
    """Read pollReq: the certReqIds that are asked about."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    found = []
    for _ in reader.each():
        inside = reader.enter(der.SEQUENCE)
        found.append(inside.integer())
        inside.finish()
    return tuple(found)


def read_numbers(content: bytes) -> tuple[int, ...]:
    """Read popdecr: what the client has decrypted, in the order of the challenges."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    return tuple([reader.integer() for _ in reader.each()])


def read_questions(content: bytes) -> tuple[Info, ...]:
    """Read genm."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    return codec.read_infos(reader)


def read_error(content: bytes) -> StatusInfo:
    """Read error; its details for people are left out."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    return read_status_info(reader)


def read_nested(content: bytes) -> tuple[bytes, ...]:
    """Read nested: the messages in it, as received."""
    outer = der.Reader(content)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    return tuple([reader.raw(der.SEQUENCE) for _ in reader.each()])


# -- what is answered -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A body on its way out, and what its header has to say besides.

    ``extra`` are certificates that help to check what is in the body. ``needs_2021``: the body
    can only be read by pvno 3.
    """

    body: Body
    content: bytes = field(repr=False)
    info: tuple[Info, ...] = ()
    extra: tuple[bytes, ...] = field(default=(), repr=False)
    needs_2021: bool = False

    def encode(self) -> bytes:
        """Return the PKIBody."""
        return codec.body(self.body, self.content)


ANSWERS: Final = {
    Body.IR: Body.IP,
    Body.CR: Body.CP,
    Body.P10CR: Body.CP,
    Body.KUR: Body.KUP,
    Body.RR: Body.RP,
}


def cert_response(
    number: int,
    status: StatusInfo,
    certificate: bytes | None = None,
    private_key: bytes | None = None,
    *,
    encrypted: bytes | None = None,
) -> bytes:
    """Return one CertResponse; ``private_key`` is the content of an EnvelopedData SEQUENCE.

    ``encrypted`` is an EncryptedKey with a certificate, in the place of ``certificate``.
    """
    parts = [der.integer(number), status.encode()]
    if encrypted is not None:
        parts.append(der.sequence(der.explicit(1, encrypted)))
    elif certificate is not None:
        pair = [der.explicit(0, certificate)]
        if private_key is not None:
            # privateKey [0] EncryptedKey, whose envelopedData is [0] IMPLICIT
            pair.append(der.explicit(0, der.explicit(0, private_key)))
        parts.append(der.sequence(*pair))
    return der.sequence(*parts)


def cert_rep(responses: Sequence[bytes], ca_pubs: Sequence[bytes] = ()) -> bytes:
    """Return a CertRepMessage: ip, cp and kup."""
    pubs = [der.explicit(1, der.sequence(*ca_pubs))] if ca_pubs else []
    return der.sequence(*pubs, der.sequence(*responses))


def challenge(
    one_way: Algorithm, witness: bytes, *, encrypted: bytes = b"", envelope: bytes | None = None
) -> bytes:
    """Return a POPODecKeyChallContent about one request: popdecc.

    Rand is ``encrypted`` for pvno 2; later it is in ``envelope``, the EnvelopedData.
    """
    parts = [one_way.encode(), der.octets(witness), der.octets(encrypted)]
    if envelope is not None:
        parts.append(der.explicit(0, envelope))
    return der.sequence(der.sequence(*parts))


def rev_rep(statuses: Sequence[StatusInfo], cert_ids: Sequence[bytes] = ()) -> bytes:
    """Return a RevRepContent: rp."""
    parts = [der.sequence(*[status.encode() for status in statuses])]
    if cert_ids:
        parts.append(der.explicit(0, der.sequence(*cert_ids)))
    return der.sequence(*parts)


def poll_rep(number: int, check_after: int, reason: str) -> bytes:
    """Return a PollRepContent about one request; ``check_after`` in seconds."""
    parts = [der.integer(number), der.integer(check_after), codec.free_text([reason])]
    return der.sequence(der.sequence(*parts))


def error(status: StatusInfo) -> bytes:
    """Return an ErrorMsgContent."""
    return der.sequence(status.encode())


def infos(answers: Sequence[Info]) -> bytes:
    """Return a GenRepContent: genp."""
    return der.sequence(*[answer.encode() for answer in answers])


PKI_CONFIRM: Final = Reply(body=Body.PKICONF, content=der.NULL_DER)


def rejection(bit: FailInfo, text: str) -> StatusInfo:
    """Return the status of a refusal; statusString is for people, and short."""
    return StatusInfo(status=Status.REJECTION, text=text[:500], fail_info=(bit,))
