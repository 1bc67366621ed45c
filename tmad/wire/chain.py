"""The journal's byte formats: records, hash chains, signed checkpoints, and their check.

A record's hash is SHA-256(previous hash || canonical record); the first record of a chain
continues from a hash of the chain's own name. A checkpoint holds the heads of all chains, has
the hash of the checkpoint before it, and is signed. Whoever changes a record must change all
later ones of its chain and every later checkpoint, and cannot sign those.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

# What a checkpoint's signature is made over begins with this, so that the signature can
# never be taken for one over something else.
_SIGNED = b"tmad journal checkpoint 1\0"
FIRST_CHECKPOINT = hashlib.sha256(b"tmad journal checkpoints").digest()


class RecordFields(Protocol):
    """The fields of a record that have no place in a chain yet."""

    @property
    def tenant(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def object(self) -> str: ...
    @property
    def trace(self) -> str: ...
    @property
    def data(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Head:
    """A chain and its newest row; ``started_at`` in microseconds since 1970."""

    writer: str
    node: str
    started_at: int
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement of where the chains had got to; ``at`` in microseconds since 1970.

    ``heads`` is JSON: writer -> [seq, hash in hex].
    """

    id: int
    at: int
    heads: str
    previous: bytes
    hash: bytes
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written. ``seq`` is the first row concerned, or 0."""

    problem: str  # "altered" | "removed" | "reordered" | "truncated" | "inserted" | "checkpoint"
    writer: str
    seq: int
    detail: str

    def __str__(self) -> str:
        place = f"{self.writer}:{self.seq}" if self.seq else self.writer
        return f"{self.problem} {place}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification saw; evidence only if there are no findings."""

    findings: tuple[Finding, ...]
    writers: int = 0
    records: int = 0
    sealed: int = 0  # records that a checkpoint covers; the rest could be cut off unseen
    checkpoints: int = 0
    clock_steps: int = 0  # records whose clock was behind that of the record before

    @property
    def is_intact(self) -> bool:
        """Whether everything is as it was written."""
        return not self.findings


def canonical(writer: str, seq: int, at: int, record: RecordFields) -> str:
    """Return the text that is hashed: JSON, keys sorted, no spaces, ASCII."""
    return (
        f'{{"actor":{quote(record.actor)},"at":{at},"data":{quote(record.data)}'
        f',"kind":{quote(record.kind)},"object":{quote(record.object)},"seq":{seq}'
        f',"tenant":{quote(record.tenant)},"trace":{quote(record.trace)}'
        f',"writer":{quote(writer)}}}'
    )


def link(previous: bytes, text: str) -> bytes:
    """Return the hash of a canonical record that follows ``previous``."""
    return hashlib.sha256(previous + text.encode("ascii")).digest()


def genesis(writer: str, node: str, started_at: int) -> bytes:
    """Return what a chain's first record follows: a hash of the chain's own description."""
    text = json.dumps(["tmad journal", writer, node, started_at], separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def heads_text(heads: Mapping[str, tuple[int, bytes]]) -> str:
    """Return the heads as a checkpoint holds them."""
    value = {writer: [seq, digest.hex()] for writer, (seq, digest) in heads.items()}
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def checkpoint_hash(number: int, at: int, heads: str, key_id: str, previous: bytes) -> bytes:
    """Return the hash that a checkpoint's signature covers."""
    text = json.dumps(
        {"at": at, "heads": heads, "id": number, "key_id": key_id},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(previous + text.encode()).digest()


def signer_of(digest: bytes) -> Callable[[Any], bytes]:
    """Return the operation that signs a checkpoint's hash with a private key."""

    def sign(key: Any) -> bytes:
        message = _SIGNED + digest
        signature: bytes
        if isinstance(key, ec.EllipticCurvePrivateKey):
            signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        else:  # Ed25519, Ed448 and ML-DSA bring their own hash
            signature = key.sign(message)
        return signature

    return sign


def check_signature(public_key: Any, signature: bytes, digest: bytes) -> None:
    """Raise InvalidSignature unless this key signed a checkpoint with this hash."""
    message = _SIGNED + digest
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    elif isinstance(public_key, rsa.RSAPublicKey):
        public_key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    else:
        public_key.verify(signature, message)


@dataclass(slots=True)
class Seals:
    """What the checkpoints say about one chain: at which row which hash.

    Sixteen octets each, so that years of checkpoints fit; the newest is kept whole.
    """

    seqs: array[int] = field(default_factory=lambda: array("q"))
    prefixes: array[int] = field(default_factory=lambda: array("Q"))
    newest: tuple[int, bytes] = (0, b"")

    def add(self, seq: int, digest: bytes) -> None:
        """Note a head; heads come in the order of the checkpoints."""
        if (seq, digest) != self.newest:
            self.seqs.append(seq)
            self.prefixes.append(_prefix(digest))
            self.newest = (seq, digest)


def _prefix(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


class CheckpointVerifier:
    """Checks checkpoints in their order and collects the heads that they seal."""

    def __init__(self, public_keys: Mapping[str, Any]) -> None:
        self._keys = public_keys
        self._previous = FIRST_CHECKPOINT
        self.count = 0
        self.seals: dict[str, Seals] = {}
        self.finding: Finding | None = None

    def check(self, checkpoint: Checkpoint) -> None:
        """Check the next checkpoint; after the first finding nothing more is believed."""
        if self.finding is not None:
            return
        number = self.count + 1
        problem = self._problem(checkpoint, number)
        if problem:
            self.finding = Finding("checkpoint", "checkpoint", number, problem)
            return
        self.count = number
        self._previous = checkpoint.hash

    def _problem(self, checkpoint: Checkpoint, number: int) -> str:
        if checkpoint.id != number:
            return f"number {checkpoint.id} stands in its place"
        if checkpoint.previous != self._previous:
            return "it does not follow the checkpoint before it"
        digest = checkpoint_hash(
            number, checkpoint.at, checkpoint.heads, checkpoint.key_id, self._previous
        )
        if digest != checkpoint.hash:
            return "its content does not match its hash"
        key = self._keys.get(checkpoint.key_id)
        if key is None:
            return f"no public key {checkpoint.key_id!r} to check it with"
        try:
            check_signature(key, checkpoint.signature, digest)
        except (InvalidSignature, ValueError, TypeError):
            return "its signature is wrong"
        try:
            heads = {
                str(writer): (int(seq), bytes.fromhex(digest_hex))
                for writer, (seq, digest_hex) in json.loads(checkpoint.heads).items()
            }
        except (ValueError, TypeError, AttributeError):
            return "its heads make no sense"
        for writer, (seq, head) in heads.items():
            seals = self.seals.setdefault(writer, Seals())
            if seq < seals.newest[0]:
                return f"it moves the head of {writer} back"
            seals.add(seq, head)
        for writer in self.seals:
            if writer not in heads:
                return f"it forgets the chain {writer}"
        return ""


class ChainVerifier:
    """Checks one chain, record by record, up to the first that is wrong."""

    def __init__(self, head: Head, seals: Seals | None) -> None:
        self._head = head
        self._seals = seals or Seals()
        self._next_seal = 0
        self._previous = genesis(head.writer, head.node, head.started_at)
        self._at = 0
        self._expected = 1
        self.records = 0
        self.clock_steps = 0
        self.finding: Finding | None = None

    @property
    def sealed(self) -> int:
        """How many records, so far, a checkpoint covers."""
        return min(self.records, self._seals.newest[0])

    def check(
        self, seq: int, at: int, text: str, digest: bytes, previous: bytes | None = None
    ) -> bool:
        """Check the next record; False from the first wrong one on."""
        if self.finding is not None:
            # A record that seemed to be missing and comes later was moved, not removed.
            if self.finding.problem == "removed" and self.finding.seq == seq:
                self.finding = replace(
                    self.finding, problem="reordered", detail="it comes after its successors"
                )
            return False
        expected = self._expected
        if seq != expected:
            if seq > expected:
                self._found("removed", expected, f"the next record is number {seq}")
            else:
                self._found("inserted", seq, "there is no such number, or it comes twice")
            return False
        if link(self._previous, text) != digest or (
            previous is not None and previous != self._previous
        ):
            self._found("altered", seq, "its content does not match its hash and predecessor")
            return False
        if not self._matches_seal(seq, digest):
            return False
        if at < self._at:
            self.clock_steps += 1
        self._at = at
        self._previous = digest
        self._expected = expected + 1
        self.records = expected
        return True

    def was_moved(self) -> None:
        """Turn the finding into the better one: the record belongs to another place."""
        assert self.finding is not None
        self.finding = replace(
            self.finding, problem="reordered", detail="it holds the record of another place"
        )

    def _matches_seal(self, seq: int, digest: bytes) -> bool:
        seals = self._seals
        position = self._next_seal
        if position == len(seals.seqs) or seals.seqs[position] != seq:
            return True
        self._next_seal = position + 1
        if seals.prefixes[position] == _prefix(digest) and (
            seals.newest[0] != seq or seals.newest[1] == digest
        ):
            return True
        first = seals.seqs[position - 1] + 1 if position else 1
        self._found(
            "altered", first, f"a checkpoint sealed another record {seq}: rewritten from here on"
        )
        return False

    def finish(self) -> Finding | None:
        """Compare the end of the chain with its head and the checkpoints."""
        if self.finding is None:
            end = self.records
            sealed = self._seals.newest[0]
            if end < max(self._head.seq, sealed):
                self._found(
                    "truncated",
                    end + 1,
                    f"the chain ends at {end}, but went on to {max(self._head.seq, sealed)}",
                )
            elif end > self._head.seq:
                self._found(
                    "inserted", self._head.seq + 1, f"the head says that {self._head.seq} is last"
                )
            elif self._previous != self._head.hash:
                self._found("altered", end, "the head has another hash")
        return self.finding

    def _found(self, problem: str, seq: int, detail: str) -> None:
        self.finding = Finding(problem, self._head.writer, seq, detail)


def missing_chains(checkpoints: CheckpointVerifier, known: set[str]) -> list[Finding]:
    """Return a finding for each chain that was sealed and is gone."""
    return [
        Finding("truncated", writer, 1, f"the chain is gone; it went on to {seals.newest[0]}")
        for writer, seals in sorted(checkpoints.seals.items())
        if writer not in known
    ]
