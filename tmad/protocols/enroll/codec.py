"""The pages behind a link, and how its address and its answers look."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from html import escape

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire.http import Response

FILE = "file"

_TAIL = re.compile(rb"([A-Za-z0-9_-]{32})(?:/(file))?")
_STYLE = (
    "body{font:1.1em/1.5 system-ui,sans-serif;max-width:32em;margin:3em auto;padding:0 1em}"
    "a{display:inline-block;padding:.7em 1.4em;border-radius:.4em;background:#14532d;color:#fff;"
    "text-decoration:none}dt{color:#555}dd{margin:0 0 .7em}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
# Nothing of it belongs into a cache, a search engine or another site's log.
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Robots-Tag", "noindex, nofollow"),
    ("X-Content-Type-Options", "nosniff"),
)
_PAGE_HEADERS = (
    *_HEADERS,
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'",
    ),
)

STATUS: Mapping[FaultCode, int] = {
    FaultCode.MALFORMED: 400,
    FaultCode.UNSUPPORTED: 501,
    FaultCode.BAD_ALGORITHM: 403,
    FaultCode.BAD_INTEGRITY: 403,
    FaultCode.BAD_TIME: 403,
    FaultCode.BAD_PROOF: 403,
    FaultCode.UNAUTHENTICATED: 403,
    FaultCode.FORBIDDEN: 403,
    FaultCode.REJECTED: 403,
    FaultCode.NOT_FOUND: 404,
    FaultCode.CONFLICT: 409,
    FaultCode.RATE_LIMITED: 429,
    FaultCode.UNAVAILABLE: 503,
    FaultCode.INTERNAL: 500,
}


def decode(tail: bytes) -> tuple[Secret, bool]:
    """Return the token of an address, and whether the file is wanted; Fault(NOT_FOUND)."""
    match = _TAIL.fullmatch(tail.removeprefix(b"/"))
    if match is None:
        why = "there is no such link"
        raise Fault(FaultCode.NOT_FOUND, why, rule="device-profile.link.address")
    return Secret(match[1]), match[2] is not None


def is_prefetch(headers: Mapping[str, str]) -> bool:
    """Tell whether a browser only guesses that somebody may want the page."""
    purpose = f"{headers.get('sec-purpose', '')} {headers.get('purpose', '')}"
    return "prefetch" in purpose or "preview" in purpose


def page(
    *, title: str, organisation: str, device: str, kind: str, until: datetime, token: Secret
) -> Response:
    """Return the page that asks before the link is used up."""
    rows = {
        "Device": device,
        "For": kind,
        "Good until": f"{until:%Y-%m-%d %H:%M} UTC",
    }
    table = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()
    )
    # A page of its own: programs that look at links in messages open this one, and go no further.
    address = f"{token.reveal().decode()}/{FILE}"
    return _html(
        200,
        title,
        f"<p>{escape(organisation)} has a profile for this device. It can be fetched once.</p>"
        f'<dl>{table}</dl><p><a href="{escape(address)}" rel="nofollow noreferrer">'
        "Fetch the profile</a></p>",
    )


def file(*, name: str, media_type: str, content: Secret, is_installer: bool) -> Response:
    """Return the profile itself.

    ``is_installer``: Android starts its installer where the transfer encoding is named and no
    disposition is.
    """
    how = (
        ("Content-Transfer-Encoding", "base64")
        if is_installer
        else ("Content-Disposition", f'attachment; filename="{name}"')
    )
    return Response(headers=(*_HEADERS, how), body=content.reveal(), content_type=media_type)


def refusal(fault: Fault) -> Response:
    """Return a page that says why there is no profile."""
    shown = escape(fault.detail)
    if fault.explain_id:
        shown += f" [{escape(fault.explain_id)}]"
    response = _html(STATUS[fault.code], "No profile", f"<p>{shown}</p>")
    if fault.retry_after is not None:
        response.headers += (("Retry-After", f"{fault.retry_after:.0f}"),)
    return response


def _html(status: int, title: str, body: str) -> Response:
    text = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
    return Response(
        status=status,
        headers=_PAGE_HEADERS,
        body=text.encode(),
        content_type="text/html; charset=utf-8",
    )
