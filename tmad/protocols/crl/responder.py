"""Serves CRLs and CA certificates. RFC 5280, 4.2.1.13 and 4.2.2.1; RFC 2585; RFC 9110."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from tmad.ca.authority import DELTA_SUFFIX
from tmad.ca.crlmaking import CRL, Delta
from tmad.ca.hierarchy import Issuer
from tmad.errors import Fault, FaultCode
from tmad.wire.http import Request, Response
from tmad.wire.pem import armour

if TYPE_CHECKING:
    from tmad.plugin import Services

# What a path may be: an authority's name, perhaps with tenant and generation, and a kind.
_PATH = re.compile(rb"/([a-z0-9][a-z0-9._-]{0,200})\.(crl|pem|cer|p7c)")
_SINGLE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

# Caches must not hide an emergency CRL for long (CRL-13).
_LONGEST_AGE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _File:
    """Something to download; ``validators`` and ``expires`` are its cache headers."""

    content_type: str
    body: bytes
    etag: str
    modified: datetime
    expires: datetime


class Repository:
    """The files that certificates point at: CRLs under /crl, CA certificates under /aia."""

    def __init__(self, services: Services, *, max_age_seconds: int) -> None:
        self._services = services
        self._max_age = min(timedelta(seconds=max_age_seconds), _LONGEST_AGE)
        self._pem: dict[tuple[int, bool], tuple[int, bytes]] = {}

    async def crl(self, request: Request) -> Response:
        """Answer for /crl/CA.crl (DER), /crl/CA.pem, /crl/CA-delta.crl and /crl/CA-delta.pem."""
        slug, kind = _parse(request.tail, ("crl", "pem"))
        issuer, is_delta = await self._issuer(slug)
        found: CRL | Delta
        if is_delta:
            crl, found = await self._services.crls.current_with_delta(issuer.id)
        else:
            crl = found = await self._services.crls.current(issuer.id)
        body, content_type, etag = found.der, "application/pkix-crl", f'"{found.sha256.hex()}"'
        if kind == "pem":
            body = self._as_pem((issuer.id, is_delta), crl.number, found.der)
            content_type, etag = "application/x-pem-file", f'"{found.sha256.hex()}-pem"'
        file = _File(content_type, body, etag, crl.this_update, found.next_update)
        return self._serve(request, file)

    async def _issuer(self, slug: str) -> tuple[Issuer, bool]:
        """Return whose CRL an address means, and whether it means the delta CRL.

        An authority may have a name that ends like that address: then it is its own
        (authority.delta-address keeps the two apart).
        """
        hierarchy = self._services.hierarchy
        try:
            return await hierarchy.by_slug(slug), False
        except Fault as fault:
            if fault.code is not FaultCode.NOT_FOUND or not slug.endswith(DELTA_SUFFIX):
                raise
        return await hierarchy.by_slug(slug.removesuffix(DELTA_SUFFIX)), True

    async def aia(self, request: Request) -> Response:
        """Answer for /aia/CA.cer (the CA certificate) and /aia/CA.p7c (its chain)."""
        slug, kind = _parse(request.tail, ("cer", "p7c"))
        issuer = await self._services.hierarchy.by_slug(slug)
        if issuer.certificate is None:
            raise Fault(FaultCode.NOT_FOUND, "the authority has no certificate yet")
        if kind == "cer":
            body = issuer.certificate.public_bytes(serialization.Encoding.DER)
            content_type = "application/pkix-cert"
        else:
            body = _chain(issuer)
            content_type = "application/pkcs7-mime"
        now = self._services.now()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        modified = issuer.certificate.not_valid_before_utc
        return self._serve(request, _File(content_type, body, etag, modified, now + self._max_age))

    def _as_pem(self, key: tuple[int, bool], number: int, crl_der: bytes) -> bytes:
        kept = self._pem.get(key)
        if kept is None or kept[0] != number:
            kept = self._pem[key] = (number, armour("X509 CRL", crl_der))
        return kept[1]

    def _serve(self, request: Request, file: _File) -> Response:
        now = self._services.now()
        age = max(min(self._max_age, file.expires - now), timedelta(0))
        headers = (
            ("ETag", file.etag),
            ("Last-Modified", format_datetime(file.modified.replace(microsecond=0), usegmt=True)),
            ("Expires", format_datetime((now + age).replace(microsecond=0), usegmt=True)),
            ("Cache-Control", f"max-age={int(age.total_seconds())}, public, no-transform"),
            ("Accept-Ranges", "bytes"),
        )
        if _has_it(request.headers, file):
            return Response(status=304, headers=headers, content_type=file.content_type)
        part = _part(request.headers, file)
        if part is None:
            return Response(headers=headers, body=file.body, content_type=file.content_type)
        total = len(file.body)
        start, stop = part
        if start >= stop:
            return Response(
                status=416,
                headers=(*headers, ("Content-Range", f"bytes */{total}")),
                content_type=file.content_type,
            )
        return Response(
            status=206,
            headers=(*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{total}")),
            body=file.body[start:stop],
            content_type=file.content_type,
        )


def _parse(tail: bytes, kinds: tuple[str, ...]) -> tuple[str, str]:
    match = _PATH.fullmatch(tail)
    if match is None or match[2].decode() not in kinds:
        raise Fault(FaultCode.NOT_FOUND, "there is no such file")
    return match[1].decode(), match[2].decode()


def _chain(issuer: Issuer) -> bytes:
    """Return a certs-only CMS message (RFC 5280, 4.2.2.1)."""
    return pkcs7.serialize_certificates(list(issuer.chain), serialization.Encoding.DER)


def _has_it(headers: Mapping[str, str], file: _File) -> bool:
    """Tell whether the client's copy is still right (RFC 9110, 13.2.2)."""
    wanted = headers.get("if-none-match")
    if wanted is not None:
        tags = {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
        return file.etag in tags or "*" in tags
    since = headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return file.modified.replace(microsecond=0) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False


def _part(headers: Mapping[str, str], file: _File) -> tuple[int, int] | None:
    """Return the octets that a Range asks for; None for all, an empty range for 416.

    RFC 9110, 14.2: several ranges may be answered with everything, and so may a part of a
    file that has changed since (If-Range).
    """
    match = _SINGLE_RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return None
    if_range = headers.get("if-range")
    if if_range is not None and if_range != file.etag:
        return None
    total = len(file.body)
    if not match[1]:
        return max(0, total - int(match[2])), total
    start = int(match[1])
    stop = total if not match[2] else min(total, int(match[2]) + 1)
    if match[2] and int(match[2]) < start:
        return None
    return (start, stop) if start < total else (total, total)
