"""Answers OCSP requests: who is meant, what is true of it, and who signs that.

RFC 6960, 2.2 and 2.7; RFC 9919, 6 and 7.2 (HTTP caches).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509 import ocsp
from twisted.logger import Logger

from tmad.ca import signature
from tmad.ca.authority import OCSPPolicy
from tmad.ca.hierarchy import Issuer
from tmad.ca.scheme import SignatureScheme, scheme_for
from tmad.ca.service_records import ServiceCertificate
from tmad.ca.status import Status
from tmad.ca.trust import key_bits
from tmad.errors import Fault, FaultCode
from tmad.protocols.ocsp import codec
from tmad.protocols.ocsp.answers import Answer, Answers, Window
from tmad.protocols.ocsp.shapes import Shapes
from tmad.storage.status import change_key, serial_octets
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_log = Logger()

# Clients whose clock is a little late must not see an answer from the future.
_BACKDATE = timedelta(minutes=5)
# An answer that ends sooner than this is of no use to anybody.
_SHORTEST = timedelta(minutes=2)

# Of certificates whose status is remembered beside the kept answers, about 200 octets each.
_STATUSES = 100_000
_NOT_CACHEABLE = (("Cache-Control", "no-store"),)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs for one issuer, with everything about it that can be encoded in advance."""

    issuer: Issuer
    policy: OCSPPolicy
    key_id: str
    scheme: SignatureScheme
    algorithm_der: bytes
    others: dict[bytes, SignatureScheme]  # as strong or stronger, for clients that prefer one
    responder_id_der: bytes
    certificates_der: bytes
    not_after: datetime
    status_key: str  # under which its own revocation is announced


class OCSPResponder:
    """All authorities' responder; a signed answer is reused until its status changes."""

    def __init__(self, services: Services, *, cache_octets: int) -> None:
        self._services = services
        self._answers = Answers(cache_octets)
        self._shapes = Shapes()
        self._signers: dict[int, Signer] = {}
        self._windows: dict[int, tuple[int, Signer, Window]] = {}
        # By issuer and serial number; never "unknown".
        self._statuses: dict[tuple[int, int], Status] = {}
        self._issuers: dict[tuple[str, bytes], tuple[Issuer, ...]] | None = None
        # Rises whenever something is dropped: what was looked up before is then not kept.
        self._epoch = 0
        services.changes.listen("status", self._forget_status)
        for topic in ("issuers", "service_certificates"):
            services.changes.listen(topic, self._forget_all)
        services.changes.listen("objects", self._forget_object)

    async def respond(self, request: Request) -> Response:
        """Answer one HTTP request; a kept answer and an inline signature wait for nothing."""
        is_get = request.method != "POST"
        try:
            slug, rest = _split(request.tail)
            data = codec.decode_path(rest) if is_get else request.body
            answer, is_reusable = await self.answer(data, slug)
        except Fault as fault:
            if fault.code in (FaultCode.INTERNAL, FaultCode.UNAVAILABLE):
                _log.warn(
                    "OCSP answered with an error: {fault} {private}",
                    fault=str(fault),
                    private=fault.private,
                )
            return _error(codec.FAULTS[fault.code])
        except Exception:
            _log.failure("OCSP failed")
            return _error(codec.INTERNAL_ERROR)
        if not is_reusable:
            return Response(
                headers=_NOT_CACHEABLE, body=answer.body, content_type=codec.CONTENT_TYPE
            )
        if is_get:
            return self._cacheable(request, answer)
        return Response(body=answer.body, content_type=codec.CONTENT_TYPE)

    async def answer(self, data: bytes, slug: str | None) -> tuple[Answer, bool]:
        """Return the answer to an encoded request, and whether HTTP caches may keep it.

        ``slug`` limits it to one issuer. Faults become error statuses by codec.FAULTS.
        """
        services = self._services
        if not services.changes.is_current():
            await services.changes.catch_up()
        now = services.now()
        answer = self._answers.get(data)
        if answer is not None and now < answer.window.fresh_until:
            return self._within(answer, slug), True
        # Before anything is looked up that the answer says or is signed by.
        epoch = self._epoch
        known = self._shapes.read(data)
        request = known or codec.decode(data)
        signer, found = await self._find(request, slug)
        if known is None:
            self._shapes.learn(data, request)  # only where the issuer is ours
        nonce = request.nonce if signer.policy.nonce else None
        scheme, algorithm_der = signer.scheme, signer.algorithm_der
        for wanted in request.preferred:
            if wanted == algorithm_der:
                break
            if wanted in signer.others:
                scheme, algorithm_der = signer.others[wanted], wanted
                break
        is_usual = nonce is None and algorithm_der == signer.algorithm_der
        key = b""
        if is_usual and len(request.cert_ids) == 1:
            key = codec.minimal(request.cert_ids[0])
            answer = self._answers.get(key)
            if answer is not None and now < answer.window.fresh_until:
                return self._within(answer, slug), True
        window = self._window(signer, now)
        singles: list[bytes] = []
        is_extended = False
        is_known = True
        for cert_id, issuer in zip(request.cert_ids, found, strict=True):
            if issuer is None:
                status_der, is_known = codec.UNKNOWN_DER, False
            else:
                status = self._statuses.get((issuer.id, cert_id.serial)) or await self._status(
                    issuer.id, cert_id.serial
                )
                status_der = _encode_status(status)
                if status.state == "unknown":
                    is_known = False
                    if signer.policy.unknown == "revoked":
                        status_der, is_extended = codec.NEVER_ISSUED_DER, True
                elif status.revoked_at is not None and status.revoked_at > window.this_update:
                    # Never say that it was revoked after the moment we speak of.
                    window = self._make_window(signer, now, status.revoked_at)
            singles.append(status_der)
        entries = [
            codec.single(
                cert_id.der,
                status_der,
                window.this_update_der,
                window.next_update_der,
                _archive_cutoff(signer, now),
            )
            for cert_id, status_der in zip(request.cert_ids, singles, strict=True)
        ]
        to_sign = codec.response_data(
            signer.responder_id_der,
            window.this_update_der,
            entries,
            nonce=nonce,
            is_extended_revoke=is_extended,
        )
        signed = await services.keyring.use(
            signer.key_id, lambda private_key: codec.sign(private_key, scheme, to_sign)
        )
        body = codec.encode(to_sign, algorithm_der, signed, signer.certificates_der)
        # A certificate that does not exist may be issued in the next moment (never keep
        # that), and a signature may have taken long enough for the status to change.
        if not (key and is_known and epoch == self._epoch):
            return Answer(body, window, signer.issuer.slug, ""), is_usual and is_known
        issuer, serial = found[0], request.cert_ids[0].serial
        subject = ""
        if issuer is not None and serial >= 0:
            subject = change_key(issuer.id, serial_octets(serial))
        answer = Answer(body, window, signer.issuer.slug, subject)
        self._answers.put(key, answer)
        return answer, True

    async def staple(self, found: ServiceCertificate) -> bytes:
        """Return the answer about a certificate of our own, for a TLS handshake (RFC 6066, 8)."""
        issuer = await self._services.hierarchy.by_id(found.issuer_id)
        assert issuer.certificate is not None
        # TLS clients look for the CertID with SHA-1, some for no other.
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            found.certificate,
            issuer.certificate,
            hashes.SHA1(),  # noqa: S303  names the issuer, protects nothing
        )
        request = builder.build().public_bytes(serialization.Encoding.DER)
        answer, _ = await self.answer(request, issuer.slug)
        return answer.body

    async def _status(self, issuer_id: int, serial: int) -> Status:
        """Return the status, and keep it until a change of it is announced.

        The caller has caught up with the changes. With a nonce the answer must be made anew,
        but what it says need not be asked again.
        """
        epoch = self._epoch
        status = await self._services.status.of(issuer_id, serial)
        # What does not exist may be issued in the next moment, and nobody announces that.
        if status.state != "unknown" and serial >= 0 and epoch == self._epoch:
            if len(self._statuses) >= _STATUSES:
                self._statuses.clear()
            self._statuses[issuer_id, serial] = status
        return status

    async def _find(
        self, request: codec.OCSPRequest, slug: str | None
    ) -> tuple[Signer, list[Issuer | None]]:
        """Return who signs, and the issuer of each entry: None where another must answer.

        One answer has one signer, and a responder speaks for its own issuer only (RFC 6960,
        4.2.2.2): the first entry whose issuer is ours decides.
        """
        epoch = self._epoch
        known = self._issuers
        if known is None:
            known = _index(await self._services.hierarchy.all_issuers())
            if epoch == self._epoch:
                self._issuers = known
        chosen: Issuer | None = None
        found: list[Issuer | None] = []
        for cert_id in request.cert_ids:
            candidates = known.get((cert_id.hash or "", cert_id.issuer), ())
            if slug is not None:
                candidates = tuple(issuer for issuer in candidates if issuer.slug == slug)
            issuer = None
            if len(candidates) == 1:
                issuer = candidates[0]
            elif candidates:
                issuer = await self._owner(candidates, cert_id.serial)
            if chosen is None:
                chosen = issuer
            found.append(issuer if issuer is chosen else None)
        if chosen is None:
            raise Fault(FaultCode.NOT_FOUND, "the issuer is not one of ours")
        signer = self._signers.get(chosen.id)
        if signer is None or self._services.now() >= signer.not_after - _SHORTEST:
            signer = await self._load_signer(chosen)
            if epoch == self._epoch:
                self._signers[chosen.id] = signer
        return signer, found

    async def _owner(self, candidates: tuple[Issuer, ...], serial: int) -> Issuer:
        # Two issuers with the same name and key: a CA that was imported twice, or renewed.
        for issuer in candidates:
            if (await self._services.status.of(issuer.id, serial)).state != "unknown":
                return issuer
        return candidates[0]

    async def _load_signer(self, issuer: Issuer) -> Signer:
        policy = issuer.document.ocsp
        if policy.signer == "ca":
            assert issuer.certificate is not None
            certificate, key_id, certificates_der = issuer.certificate, issuer.key_id, b""
            scheme = issuer.scheme
        else:
            current = await self._services.service_certificates.current("ocsp", str(issuer.id))
            certificate, key_id = current.certificate, current.key_id
            certificates_der = codec.certificates(
                certificate.public_bytes(serialization.Encoding.DER)
            )
            scheme = scheme_for(certificate.public_key(), issuer.document.signature)
        public_key = certificate.public_key()
        if policy.responder_id == "key":
            digest = hashlib.sha1(key_bits(public_key), usedforsecurity=False).digest()
            responder_id_der = codec.by_key(digest)
        else:
            responder_id_der = codec.by_name(certificate.subject.public_bytes())
        return Signer(
            issuer=issuer,
            policy=policy,
            key_id=key_id,
            scheme=scheme,
            algorithm_der=signature.algorithm_der(public_key, scheme),
            others=_others(certificate, scheme),
            responder_id_der=responder_id_der,
            certificates_der=certificates_der,
            not_after=certificate.not_valid_after_utc,
            status_key=change_key(issuer.id, serial_octets(certificate.serial_number)),
        )

    def _window(self, signer: Signer, now: datetime) -> Window:
        second = int(now.timestamp())
        kept = self._windows.get(signer.issuer.id)
        if kept is None or kept[0] != second or kept[1] is not signer:
            window = self._make_window(signer, now, now - _BACKDATE)
            kept = self._windows[signer.issuer.id] = (second, signer, window)
        return kept[2]

    def _make_window(self, signer: Signer, now: datetime, this_update: datetime) -> Window:
        this_update = min(this_update, now).replace(microsecond=0)
        validity = timedelta(hours=signer.policy.validity_hours)
        next_update = min(this_update + validity, signer.not_after)
        if next_update < now + _SHORTEST:
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the OCSP responder has no valid certificate",
                private=f"issuer {signer.issuer.id}, not after {signer.not_after.isoformat()}",
            )
        return Window(
            this_update=this_update,
            next_update=next_update,
            fresh_until=now + (next_update - now) / 2,
            this_update_der=codec.generalized_time(this_update),
            next_update_der=codec.generalized_time(next_update),
            last_modified=format_datetime(this_update, usegmt=True),
            expires=format_datetime(next_update, usegmt=True),
            max_age=signer.policy.max_age_seconds,
        )

    def _within(self, answer: Answer, slug: str | None) -> Answer:
        if slug is not None and slug != answer.slug:
            raise Fault(FaultCode.NOT_FOUND, "the issuer is not this authority")
        return answer

    def _cacheable(self, request: Request, answer: Answer) -> Response:
        window = answer.window
        left = int((window.next_update - self._services.now()).total_seconds()) - 1
        if window.max_age is not None:
            left = min(left, window.max_age)
        etag = f'"{hashlib.sha256(answer.body).hexdigest()}"'
        headers = (
            ("ETag", etag),
            ("Last-Modified", window.last_modified),
            ("Expires", window.expires),
            ("Cache-Control", f"max-age={max(left, 0)}, public, no-transform, must-revalidate"),
        )
        if _is_known(request, etag, window.this_update):
            return Response(status=304, headers=headers, content_type=codec.CONTENT_TYPE)
        return Response(headers=headers, body=answer.body, content_type=codec.CONTENT_TYPE)

    def _forget_status(self, key: str) -> None:
        if any(signer.status_key == key for signer in self._signers.values()):
            self._forget_all(key)
        self._epoch += 1
        issuer_id, _, serial = key.partition(":")
        if serial in ("", "*"):
            self._answers.clear()
            self._statuses.clear()
        else:
            self._answers.forget(key)
            self._statuses.pop((int(issuer_id), int(serial, 16)), None)

    def _forget_all(self, key: str) -> None:
        self._epoch += 1
        self._answers.clear()
        self._statuses.clear()
        self._signers.clear()
        self._windows.clear()
        self._issuers = None

    def _forget_object(self, key: str) -> None:
        if key == "*" or key.split("/")[1] == "authority":
            self._forget_all(key)


def _index(issuers: tuple[Issuer, ...]) -> dict[tuple[str, bytes], tuple[Issuer, ...]]:
    """Return every issuer that we answer for, by what a CertID can say of it."""
    index: dict[tuple[str, bytes], tuple[Issuer, ...]] = {}
    for issuer in issuers:
        if not issuer.signs:
            continue
        bits = key_bits(issuer.public_key)
        for name in codec.HASHES:
            digests = b"".join(
                hashlib.new(name, data, usedforsecurity=False).digest()
                for data in (issuer.subject_der, bits)
            )
            index[name, digests] = (*index.get((name, digests), ()), issuer)
    return index


def _others(certificate: x509.Certificate, scheme: SignatureScheme) -> dict[bytes, SignatureScheme]:
    """Return the other ways in which this key may sign, none weaker than its own way."""
    if scheme.hash is None:
        return {}
    public_key = certificate.public_key()
    found: dict[bytes, SignatureScheme] = {}
    for candidate in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        if candidate.digest_size < scheme.hash.digest_size:
            continue
        paddings: list[padding.PKCS1v15 | padding.PSS | None] = [None]
        if scheme.padding is not None:
            pss = padding.PSS(padding.MGF1(candidate), padding.PSS.DIGEST_LENGTH)
            # PSS is what a careful CA asks for: never fall back from it.
            is_careful = isinstance(scheme.padding, padding.PSS)
            paddings = [pss] if is_careful else [padding.PKCS1v15(), pss]
        for chosen in paddings:
            other = SignatureScheme(candidate, chosen)
            found[signature.algorithm_der(public_key, other)] = other
    return found


def _encode_status(status: Status) -> bytes:
    if status.state == "good":
        return codec.GOOD_DER
    if status.state == "unknown" or status.revoked_at is None:
        return codec.UNKNOWN_DER
    return codec.revoked(status.revoked_at, status.reason)


def _archive_cutoff(signer: Signer, now: datetime) -> datetime | None:
    days = signer.policy.archive_cutoff_days
    if days is None:
        return None
    cutoff = now - timedelta(days=days)
    not_before = signer.issuer.not_before
    return cutoff if not_before is None else max(cutoff, not_before)


def _split(tail: bytes) -> tuple[str | None, bytes]:
    """Return the authority that a path names, and what follows.

    A request in base64 begins with "M" (SEQUENCE), perhaps percent-encoded, and an
    authority's name never does.
    """
    rest = tail.lstrip(b"/")
    if not rest or rest[:1] in b"M%":
        return None, rest
    slug, _, rest = rest.partition(b"/")
    return slug.decode("latin-1"), rest


def _is_known(request: Request, etag: str, modified: datetime) -> bool:
    """Tell whether the client has this answer already (RFC 9110, 13.2.2)."""
    wanted = request.headers.get("if-none-match")
    if wanted is not None:
        tags = {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
        return etag in tags or "*" in tags
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return modified <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False


def _error(body: bytes) -> Response:
    return Response(headers=_NOT_CACHEABLE, body=body, content_type=codec.CONTENT_TYPE)
