"""Files of hardware tokens: PSKC (RFC 6030), SafeNet XML, and the lists that makers send.

Reading changes nothing. What a file holds is shown first (``tmad otp import --preview``), with
every line that is wrong; one wrong line refuses the whole file, unless it is left out knowingly.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity import xmltree
from tmad.identity.pskc import MOST_TOKENS, Container, Openers
from tmad.identity.tokenseed import (
    TokenSeed as TokenSeed,
)
from tmad.identity.tokenseed import (
    decode_base32,
    decode_base64,
    decode_hex,
    token_seed,
    whole_number,
)
from tmad.identity.xmltree import Element

Format: TypeAlias = Literal["pskc", "csv", "yubico", "feitian", "safenet"]
Encoding: TypeAlias = Literal["hex", "base32", "base64"]

LARGEST: Final = 10 << 20  # octets
_LONGEST_LINE: Final = 2_000  # characters
_SHOWN: Final = 20  # mistakes in one refusal

_YUBICO: Final = re.compile(
    r"(?:LOGGING START|Yubico OTP|OATH-HOTP|Static Password|Challenge-Response)[,:]"
    r"|# ?serial,identity,"
    r"|[0-9]{1,12},[cbdefghijklnrtuv]{0,32},[0-9a-f]{0,12},[0-9a-f]{32,40},"
)
_FEITIAN: Final = re.compile(r"([0-9A-Za-z._-]{1,64})[ \t]+([0-9A-Fa-f]{32,256})")
_COLUMNS: Final = {
    "serial": ("serial", "serialnumber", "serialno", "sn", "tokenserial"),
    "secret": ("secret", "seed", "key", "secretkey", "otpkey", "hmackey"),
    "kind": ("type", "kind", "tokentype", "mode"),
    "digits": ("digits", "length", "otplen", "otplength"),
    "period": ("period", "interval", "timestep", "step", "timeinterval"),
    "counter": ("counter", "movingfactor", "count"),
    "algorithm": ("algorithm", "hash", "hashlib", "algo"),
    "person": ("person", "user", "username", "owner", "upn", "login"),
}
_POSITIONS: Final = ("serial", "secret", "kind", "digits", "period", "counter")
_IGNORED: Final = frozenset({"manufacturer", "model", "description", "comment"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the importer says about a file that does not say it itself."""

    format: Format | None = None
    kind: Literal["hotp", "totp"] | None = None
    digits: int | None = None
    period: int | None = None
    algorithm: str = ""
    encoding: Encoding | None = None
    key: Secret | None = None
    passphrase: Secret | None = None
    expired_too: bool = False


@dataclass(frozen=True, slots=True)
class Mistake:
    """Why one token of a file cannot be taken."""

    line: int
    serial: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.serial + ': ' if self.serial else ''}{self.why}"


@dataclass(slots=True)
class TokenFile:
    """What a file holds; ``seeds`` are good, ``mistakes`` name what is not."""

    format: Format
    seeds: list[TokenSeed] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def require_clean(self) -> None:
        """Raise Fault(REJECTED) that names every mistake, up to twenty."""
        if not self.mistakes:
            return
        lines = [str(mistake) for mistake in self.mistakes[:_SHOWN]]
        if len(self.mistakes) > _SHOWN:
            lines.append(f"and {len(self.mistakes) - _SHOWN} more")
        raise Fault(
            FaultCode.REJECTED,
            f"{len(self.mistakes)} tokens of the file cannot be taken; nothing was imported: "
            + "; ".join(lines),
            rule="otp.file.tokens-wrong",
            values={"format": self.format, "good": str(len(self.seeds))},
        )


def read(data: bytes, now: datetime, wishes: Wishes = Wishes()) -> TokenFile:
    """Read a token file of any known form; Fault for one that cannot be read at all.

    It takes up to seconds for the largest files: call it in a thread.
    """
    if len(data) > LARGEST:
        raise Fault(
            FaultCode.REJECTED,
            f"the file has more than {LARGEST >> 20} MiB; divide it",
            rule="otp.file.size",
            values={"octets": str(len(data))},
        )
    if not data.strip():
        raise Fault(FaultCode.MALFORMED, "the file is empty", rule="otp.file.empty")
    form = wishes.format or _recognise(data)
    reader = _READERS[form]
    found = TokenFile(form)
    reader(data, now, wishes, found)
    _refuse_repeated(found)
    if not found.seeds and not found.mistakes:
        raise Fault(
            FaultCode.MALFORMED,
            f"the file holds no token ({'; '.join(found.notes[:3]) or 'read as ' + form})",
            rule="otp.file.empty",
        )
    return found


def _recognise(data: bytes) -> Format:
    head = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:4_096]
    if head.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        plain = head.replace(b"\0", b"")  # UTF-16
        return "pskc" if b"KeyContainer" in plain or b"keyprov" in plain else "safenet"
    for _, line in _lines(data):
        if _YUBICO.match(line):
            return "yubico"
        if not line.startswith("#"):
            return "feitian" if _FEITIAN.fullmatch(line) else "csv"
    return "csv"


def _refuse_repeated(found: TokenFile) -> None:
    seen: set[str] = set()
    unique = []
    for seed in found.seeds:
        if seed.serial in seen:
            found.mistakes.append(Mistake(0, seed.serial, "its serial number is there twice"))
        else:
            unique.append(seed)
        seen.add(seed.serial)
    found.seeds = unique


def _read_pskc(data: bytes, now: datetime, wishes: Wishes, found: TokenFile) -> None:
    Container(
        Openers(key=wishes.key, passphrase=wishes.passphrase),
        now,
        found=found.seeds.append,
        wrong=lambda line, serial, why: found.mistakes.append(Mistake(line, serial, why)),
        note=lambda text: _note(found, text),
        expired_too=wishes.expired_too,
    ).read(data)


def _read_safenet(data: bytes, now: datetime, wishes: Wishes, found: TokenFile) -> None:
    """Read the XML of SafeNet's (Aladdin's) eToken PASS: Tokens, Token, Application, Seed."""

    def begin(root: Element) -> None:
        if root.name != "Tokens":
            raise Fault(
                FaultCode.MALFORMED,
                f"the XML begins with {root.name[:40]}; KeyContainer (PSKC) and Tokens (SafeNet)"
                " are known",
                rule="otp.file.xml",
            )

    def piece(token: Element) -> None:
        serial = token.attributes.get("serial", "")
        with _Row(found, token.line, serial) as row:
            application = token.find("Applications", "Application")
            if token.name != "Token" or application is None:
                raise ValueError("no token with an application")
            fields = {child.name.lower(): child.text for child in application.children}
            if not fields.get("seed"):
                raise ValueError("it has no seed")
            octets = decode_hex(fields["seed"])
            factor = fields.get("movingfactor", "")
            row.add(
                wishes,
                serial=serial,
                kind=wishes.kind or "hotp",
                seed=octets,
                # The longer seeds of this maker are for SHA-256.
                algorithm=wishes.algorithm or ("sha256" if len(octets) == 32 else "sha1"),
                counter=whole_number(factor, "MovingFactor") if factor else 0,
            )

    xmltree.read(data, begin, piece)


def _read_yubico(data: bytes, now: datetime, wishes: Wishes, found: TokenFile) -> None:
    """Read the logs of Yubico's personalisation tools: "traditional" and "Yubico" format."""
    for number, line in _lines(data):
        if line.startswith(("#", "LOGGING START")):
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if cells[0] and not re.fullmatch("[0-9]{1,12}", cells[0], re.ASCII):
            _yubico_traditional(number, cells, wishes, found)
        else:
            _yubico_serial(number, cells, wishes, found)


def _yubico_traditional(
    number: int, cells: Sequence[str], wishes: Wishes, found: TokenFile
) -> None:
    # event, time, slot, public id, private id, key, …, in column 11 the number of digits
    if cells[0] != "OATH-HOTP":
        _note(found, f"line {number}: {cells[0][:40]} is not OATH; ignored")
        return
    serial = cells[3] if len(cells) > 3 else ""
    with _Row(found, number, serial) as row:
        if len(cells) < 12:
            raise ValueError("too few columns for the log of a YubiKey")
        row.add(
            wishes,
            serial=serial,
            kind="hotp",
            seed=decode_hex(cells[5]),
            digits=whole_number(cells[11], "number of digits") if cells[11] else None,
        )


def _yubico_serial(number: int, cells: Sequence[str], wishes: Wishes, found: TokenFile) -> None:
    # serial number, public id, private id or moving factor, key, access code, time
    serial = cells[0]
    with _Row(found, number, serial) as row:
        if len(cells) < 4:
            raise ValueError("too few columns for a list of YubiKeys")
        # An OATH key has a counter where others have a private id of six octets.
        if cells[1] or not re.fullmatch("[0-9]{1,9}", cells[2], re.ASCII):
            _note(found, f"line {number}: {serial} is not OATH; ignored")
            return
        row.add(
            wishes,
            serial=serial,
            kind="hotp",
            seed=decode_hex(cells[3]),
            counter=int(cells[2]),
        )


def _read_feitian(data: bytes, now: datetime, wishes: Wishes, found: TokenFile) -> None:
    """Read lines of a serial number and a seed in hexadecimal, parted by white space."""
    kind = _needed_kind(wishes)
    for number, line in _lines(data):
        if line.startswith("#"):
            continue
        match = _FEITIAN.fullmatch(line)
        with _Row(found, number, "" if match is None else match[1]) as row:
            if match is None:
                raise ValueError("not a serial number and a seed in hexadecimal")
            row.add(wishes, serial=match[1], kind=kind, seed=decode_hex(match[2]))


def _read_csv(data: bytes, now: datetime, wishes: Wishes, found: TokenFile) -> None:
    """Read a list with a header, or with the columns serial,secret,type,digits,period,counter."""
    records = list(_records(data))
    if not records:
        return
    names = _header(records[0][1])
    if names is not None:
        records = records[1:]
    names = names or _POSITIONS
    secrets = [_cell(names, cells, "secret") for _, cells in records]
    encoding = wishes.encoding or _encoding(secrets)
    if "kind" not in names and wishes.kind is None:
        _needed_kind(wishes)
    for number, cells in records:
        serial = _cell(names, cells, "serial")
        with _Row(found, number, serial) as row:
            if len(cells) > len(names):
                raise ValueError(f"{len(cells)} columns where {len(names)} are expected")
            row.add(
                wishes,
                serial=serial,
                kind=_cell(names, cells, "kind") or wishes.kind or _missing_kind(),
                seed=_DECODERS[encoding](_cell(names, cells, "secret")),
                algorithm=_cell(names, cells, "algorithm"),
                digits=_number(names, cells, "digits"),
                period=_number(names, cells, "period"),
                counter=_number(names, cells, "counter"),
                person=_cell(names, cells, "person"),
            )


def _records(data: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is neither empty nor a comment."""
    lines = list(_lines(data))
    first = next((line for _, line in lines if not line.startswith("#")), "")
    delimiter = max(",;\t", key=first.count)
    for number, line in lines:
        if line.startswith("#"):
            continue
        try:
            # Line by line: no field of such a list may run over the end of its line.
            cells = next(csv.reader(io.StringIO(line), delimiter=delimiter, strict=True))
        except csv.Error:
            raise _not_text(f"line {number} is not CSV") from None
        yield number, [cell.strip() for cell in cells]


def _header(cells: Sequence[str]) -> tuple[str, ...] | None:
    """Return what the columns hold, or None for a first line that is a token already."""
    plain = [re.sub(r"[ _-]", "", cell.lower()) for cell in cells]
    known = {alias: name for name, aliases in _COLUMNS.items() for alias in aliases}
    if not {"serial", "secret"} <= {known.get(cell) for cell in plain}:
        return None
    names = [known.get(cell, cell if cell in _IGNORED else "") for cell in plain]
    for cell, name in zip(cells, names, strict=True):
        if not name or names.count(name) > 1:
            raise Fault(
                FaultCode.REJECTED,
                f"the column {cell[:40]!r} is {'there twice' if name else 'not known'}; known are"
                f" {', '.join(_COLUMNS)}",
                rule="otp.file.columns",
            )
    return tuple(names)


def _encoding(secrets: Sequence[str]) -> Encoding:
    """Return the encoding that fits every secret of the file.

    In this order: that a whole list of random seeds in base 32 looks like hexadecimal, or one in
    base 64 like base 32, is less likely than one in a million.
    """
    given = [secret for secret in secrets if secret]
    if all(re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", secret) for secret in given):
        return "hex"
    if all(re.fullmatch(r"[A-Z2-7 -]+=*|[a-z2-7 -]+=*", secret) for secret in given):
        return "base32"
    if all(re.fullmatch(r"[A-Za-z0-9+/]+=*", secret) for secret in given):
        return "base64"
    raise Fault(
        FaultCode.REJECTED,
        "the secrets are not all hexadecimal, all base32 or all base64; name the encoding"
        " (--encoding) to see which lines are wrong",
        rule="otp.file.encoding",
    )


def _cell(names: Sequence[str], cells: Sequence[str], name: str) -> str:
    at = names.index(name) if name in names else len(cells)
    return cells[at] if at < len(cells) else ""


def _number(names: Sequence[str], cells: Sequence[str], name: str) -> int | None:
    text = _cell(names, cells, name)
    return whole_number(text, name) if text else None


def _needed_kind(wishes: Wishes) -> Literal["hotp", "totp"]:
    if wishes.kind is None:
        raise Fault(
            FaultCode.REJECTED,
            "the file does not say whether its tokens are HOTP or TOTP; say it (--type)",
            rule="otp.file.type",
        )
    return wishes.kind


def _missing_kind() -> str:
    raise ValueError("neither the line nor --type says whether it is hotp or totp")


class _Row:
    """Collects one token; a ValueError inside becomes a mistake of the file."""

    def __init__(self, found: TokenFile, line: int, serial: str) -> None:
        self._found = found
        self._line = line
        self._serial = serial[:64]

    def __enter__(self) -> _Row:
        if len(self._found.seeds) + len(self._found.mistakes) >= MOST_TOKENS:
            raise Fault(
                FaultCode.REJECTED,
                f"more than {MOST_TOKENS} tokens in one file; divide it",
                rule="otp.file.tokens",
            )
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> bool:
        if not isinstance(error, ValueError):
            return False
        self._found.mistakes.append(Mistake(self._line, self._serial, str(error)))
        return True

    def add(
        self,
        wishes: Wishes,
        *,
        serial: str,
        kind: str,
        seed: bytes,
        algorithm: str = "",
        digits: int | None = None,
        period: int | None = None,
        counter: int | None = None,
        person: str = "",
    ) -> None:
        """Add a token; what the file left open is taken from the wishes."""
        self._found.seeds.append(
            token_seed(
                serial=serial,
                kind=kind,
                seed=seed,
                algorithm=algorithm or wishes.algorithm,
                digits=wishes.digits if digits is None else digits,
                period=wishes.period if period is None else period,
                counter=counter,
                person=person,
            )
        )


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(f"octet {error.start} is not UTF-8") from None
    if "\0" in text:
        raise _not_text("it holds a NUL")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if len(line) > _LONGEST_LINE:
            raise _not_text(f"line {number} has more than {_LONGEST_LINE} characters")
        if line.strip():
            yield number, line.strip()


def _note(found: TokenFile, text: str) -> None:
    # A file of a hundred thousand oddities needs no hundred thousand notes.
    if len(found.notes) < _SHOWN:
        found.notes.append(text)
    elif len(found.notes) == _SHOWN:
        found.notes.append("…")


def _not_text(why: str) -> Fault:
    return Fault(FaultCode.MALFORMED, f"not a list of tokens: {why}", rule="otp.file.text")


_DECODERS: Final[dict[Encoding, Callable[[str], bytes]]] = {
    "hex": decode_hex,
    "base32": decode_base32,
    "base64": decode_base64,
}
_READERS: Final[dict[Format, Callable[[bytes, datetime, Wishes, TokenFile], None]]] = {
    "pskc": _read_pskc,
    "safenet": _read_safenet,
    "yubico": _read_yubico,
    "feitian": _read_feitian,
    "csv": _read_csv,
}
