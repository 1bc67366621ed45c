"""The journal on its way out: JSON lines that anyone can verify offline, with public keys only.

Lines, in this order: a header, the public keys, the checkpoints, the heads of the chains, every
chain's records, an end line with the digest of all lines before it. A record line holds the
canonical text that was hashed, so that nothing has to be encoded anew to check it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from tmad.wire import parsing
from tmad.wire.chain import (
    ChainVerifier,
    Checkpoint,
    CheckpointVerifier,
    Finding,
    Head,
    Report,
    missing_chains,
)

_VERSION = 1
_LINE_LIMIT = 1 << 20
# What a line that was tampered with can make json, base64 and the key loader raise.
_UNREADABLE = (
    *parsing.UNREADABLE,
    AttributeError,
    RecursionError,
)
_RECORD = b'{"type":"record","hash":"'
_HASH_END = len(_RECORD) + 64
_RECORD_BODY = b'","record":'
_BODY = _HASH_END + len(_RECORD_BODY)


def record_line(text: str, digest: bytes) -> bytes:
    """Return the line of one record, from its canonical text."""
    return b"".join((_RECORD, digest.hex().encode(), _RECORD_BODY, text.encode("ascii"), b"}\n"))


def header_lines(at: int, public_keys: Mapping[str, Any]) -> Iterator[bytes]:
    """Iterate over the header and the keys; ``at`` in microseconds since 1970."""
    yield _line(type="export", version=_VERSION, at=at)
    for key_id, key in sorted(public_keys.items()):
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield _line(type="key", id=key_id, spki=base64.b64encode(spki).decode())


def checkpoint_line(checkpoint: Checkpoint) -> bytes:
    """Return the line of one checkpoint."""
    return _line(
        type="checkpoint",
        id=checkpoint.id,
        at=checkpoint.at,
        heads=checkpoint.heads,
        previous=checkpoint.previous.hex(),
        hash=checkpoint.hash.hex(),
        key_id=checkpoint.key_id,
        signature=base64.b64encode(checkpoint.signature).decode(),
    )


def head_line(head: Head) -> bytes:
    """Return the line of a chain's head."""
    return _line(
        type="head",
        writer=head.writer,
        node=head.node,
        started_at=head.started_at,
        seq=head.seq,
        hash=head.hash.hex(),
    )


def end_line(digest: bytes) -> bytes:
    """Return the last line; ``digest`` is SHA-256 of all lines before."""
    return _line(type="end", sha256=digest.hex())


def _line(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def verify_export(
    file: BinaryIO,
    public_keys: Mapping[str, Any] | None = None,
    *,
    trusted: Collection[bytes] | None = None,
) -> Report:
    """Verify an export, line by line; never raise for anything that the file contains.

    ``public_keys`` are known by their key ids. Without them the file's own are believed, or
    of those only the ``trusted`` (SubjectPublicKeyInfo). With neither the report shows that
    the file agrees with itself, not who made it.
    """
    reader = _Reader(public_keys, trusted)
    whole = hashlib.sha256()
    number = 0
    ended = False
    while line := file.readline(_LINE_LIMIT):
        number += 1
        if ended:
            reader.found(number, "something follows the end")
            break
        if line.startswith(_RECORD):
            reader.record(line, number)
        else:
            try:
                ended = reader.other(line, number, whole.digest())
            except _UNREADABLE as e:
                reader.found(number, f"unreadable: {type(e).__name__}")
        whole.update(line)
    if not ended:
        reader.found(number + 1, "the end line is missing", "truncated")
    return reader.report()


class _Reader:
    def __init__(
        self, public_keys: Mapping[str, Any] | None, trusted: Collection[bytes] | None
    ) -> None:
        self._keys: dict[str, Any] = dict(public_keys or {})
        self._pinned = public_keys is not None
        self._trusted = trusted
        self._checkpoints = CheckpointVerifier(self._keys)
        self._heads: dict[str, Head] = {}
        self._open: ChainVerifier | None = None
        self._writer = ""
        self._done: set[str] = set()
        self._findings: list[Finding] = []
        self._records = self._sealed = self._clock_steps = 0
        self._first_line = True

    def found(self, line: int, detail: str, problem: str = "altered") -> None:
        """Note something that no chain can name, by its line; the first of them will do."""
        if not any(finding.writer == "export line" for finding in self._findings):
            self._findings.append(Finding(problem, "export line", line, detail))

    def other(self, line: bytes, number: int, digest: bytes) -> bool:
        """Take a line that is no record; say whether it is the end."""
        fields = json.loads(line)
        kind = fields["type"]
        if (kind == "export") is not self._first_line:
            raise ValueError("the header is not where it belongs")
        self._first_line = False
        if kind == "export":
            if fields["version"] != _VERSION:
                self.found(number, "a version that this program does not know")
        elif kind == "key":
            if not self._pinned:
                spki = base64.b64decode(fields["spki"], validate=True)
                if self._trusted is None or spki in self._trusted:
                    self._keys[str(fields["id"])] = load_der_public_key(spki)
        elif kind == "checkpoint":
            self._checkpoints.check(
                Checkpoint(
                    fields["id"],
                    fields["at"],
                    fields["heads"],
                    bytes.fromhex(fields["previous"]),
                    bytes.fromhex(fields["hash"]),
                    fields["key_id"],
                    base64.b64decode(fields["signature"], validate=True),
                )
            )
        elif kind == "head":
            head = Head(
                fields["writer"],
                fields["node"],
                fields["started_at"],
                int(fields["seq"]),
                bytes.fromhex(fields["hash"]),
            )
            if head.writer in self._heads:
                self.found(number, "a chain has two heads")
            self._heads[head.writer] = head
        elif kind == "end":
            if line != end_line(digest):
                self.found(number, "the file is not the one that was written")
            return True
        else:
            raise ValueError("an unknown line")
        return False

    def record(self, line: bytes, number: int) -> None:
        """Take a record's line."""
        try:
            text = line[_BODY:-2].decode("ascii")
            digest = bytes.fromhex(line[len(_RECORD) : _HASH_END].decode("ascii"))
            fields = json.loads(text)
            writer, seq, at = fields["writer"], fields["seq"], fields["at"]
            if line[_HASH_END:_BODY] != _RECORD_BODY or line[-2:] != b"}\n":
                raise ValueError("not a record's line")
            if type(seq) is not int or type(at) is not int or writer not in self._heads:
                raise ValueError("not a record")
        except (ValueError, TypeError, KeyError, RecursionError):
            self.found(number, "not a record of any chain")
            return
        if writer != self._writer:
            self._finish()
            if writer in self._done:
                self.found(number, f"the chain {writer} goes on after another", "reordered")
                return
            self._writer = writer
            self._done.add(writer)
            self._open = ChainVerifier(self._heads[writer], self._checkpoints.seals.get(writer))
        assert self._open is not None
        self._open.check(seq, at, text, digest)

    def _finish(self) -> None:
        chain, self._open = self._open, None
        self._writer = ""
        if chain is not None:
            found = chain.finish()
            if found is not None:
                self._findings.append(found)
            self._records += chain.records
            self._sealed += chain.sealed
            self._clock_steps += chain.clock_steps

    def report(self) -> Report:
        """Return what was found, once the file has ended."""
        self._finish()
        for writer, head in self._heads.items():
            if writer not in self._done:
                self._open = ChainVerifier(head, self._checkpoints.seals.get(writer))
                self._finish()
        if self._checkpoints.finding is not None:
            self._findings.append(self._checkpoints.finding)
        self._findings += missing_chains(self._checkpoints, set(self._heads))
        # What a chain can name says more than a line of the file.
        self._findings.sort(key=lambda finding: finding.writer == "export line")
        return Report(
            findings=tuple(self._findings),
            writers=len(self._heads),
            records=self._records,
            sealed=self._sealed,
            checkpoints=self._checkpoints.count,
            clock_steps=self._clock_steps,
        )
