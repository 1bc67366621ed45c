"""The otpauth URI by which an app takes over a token, and the QR code that shows it.

The URI holds the seed: it is a Secret, shown once, and never stored. Its form is the one that
Google Authenticator made known ("Key URI Format"); apps that ignore algorithm, digits and period
take SHA-1, 6 and 30.
"""

from __future__ import annotations

import io
from base64 import b32encode
from typing import TYPE_CHECKING
from urllib.parse import quote

from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.tokenseed import Algorithm, Kind

if TYPE_CHECKING:
    import segno

_LONGEST = 1_500  # octets; a QR code of more is hard for a camera


def uri(
    *,
    kind: Kind,
    issuer: str,
    account: str,
    seed: Secret,
    algorithm: Algorithm = "sha1",
    digits: int = 6,
    period: int = 30,
    counter: int = 0,
) -> Secret:
    """Return the otpauth URI of a token; Fault(REJECTED) for a name that an app could not show."""
    issuer, account = issuer.strip(), account.strip()
    # The colon parts issuer and account in the label; even encoded, apps split at the first one.
    if not account or ":" in (issuer or account) or not (issuer + account).isprintable():
        raise Fault(
            FaultCode.REJECTED,
            "a token's label needs an account name and has no colon in front of it; both printable",
            rule="otp.label",
            values={"issuer": issuer, "account": account},
        )
    label = f"{quote(issuer, safe='')}:" if issuer else ""
    fields = [("secret", b32encode(seed.reveal()).decode().rstrip("="))]
    if issuer:
        fields.append(("issuer", issuer))
    fields += [("algorithm", algorithm.upper()), ("digits", str(digits))]
    fields.append(("period", str(period)) if kind == "totp" else ("counter", str(counter)))
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields)
    return Secret(f"otpauth://{kind}/{label}{quote(account, safe='@')}?{query}")


def qr_png(text: Secret, *, scale: int = 6) -> bytes:
    """Return the QR code of a URI as a PNG image, ``scale`` pixels for each module."""
    image = io.BytesIO()
    _code(text).save(image, kind="png", scale=scale)
    return image.getvalue()


def qr_svg(text: Secret, *, scale: int = 6) -> bytes:
    """Return the QR code of a URI as an SVG image, black on white also on a dark page."""
    image = io.BytesIO()
    # The library's title and description would have no use; nothing but the path is written.
    _code(text).save(image, kind="svg", scale=scale, light="white", svgclass=None, lineclass=None)
    return image.getvalue()


def qr_terminal(text: Secret) -> str:
    """Return the QR code of a URI for a terminal: two modules a character, light on dark.

    The quiet zone is drawn as light modules, so that it works on a dark and on a light terminal
    as long as characters have a colour of their own.
    """
    rows = [bytes(row) for row in _code(text).matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append(bytes(len(rows[0])))
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        lines.append("".join(_BLOCKS[top, low] for top, low in zip(upper, lower, strict=True)))
    return "\n".join(f"\x1b[37;40m{line}\x1b[0m" for line in lines)


# (upper is dark, lower is dark) -> what draws the light ones in white on black
_BLOCKS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}


def _code(text: Secret) -> segno.QRCode:
    octets = text.reveal()
    if len(octets) > _LONGEST:
        raise Fault(
            FaultCode.REJECTED,
            f"{len(octets)} octets are too many for a QR code that a camera can read",
            rule="otp.qr",
        )
    # A node that hands out no token does without it: a mebibyte.
    import segno

    return segno.make_qr(octets.decode(), error="m")
