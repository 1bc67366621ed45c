"""Webhooks that tell: one signed POST each, by the Standard Webhooks scheme.

::

    webhook-id: msg_…                  the same for every try: what a receiver has seen, it drops
    webhook-timestamp: 1795435200      of this try, seconds
    webhook-signature: v1,BASE64       HMAC-SHA-256 over "ID.TIMESTAMP.BODY"

Redirects are not followed; 2xx is a receipt, 410 ends it, anything else is tried again.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final

from OpenSSL.crypto import X509
from twisted.internet.interfaces import IReactorTime
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from tmad.errors import Fault, FaultCode
from tmad.events import Clock, Secret
from tmad.identity.httpclient import FAILURES, ask
from tmad.lifecycle.notification import IN_URL, Hook
from tmad.network.fetch import guarded_agent
from tmad.signer.seal import Seal
from tmad.wire import parsing

_PREFIX: Final = "whsec_"  # how the scheme writes keys
_URL_SECRET: Final = re.compile(r"[A-Za-z0-9._~/=%&+-]{1,500}")
_SHORTEST, _LONGEST = 24, 64  # octets of a key, by the scheme

# Twisted leaves these untyped.
_policy: Callable[..., Any] = BrowserLikePolicyForHTTPS
_certificate: Callable[..., Any] = Certificate
_trust_root: Callable[..., Any] = trustRootFromCertificates

AgentMaker = Callable[[IReactorTime, Hook], IAgent]


class WebhookSender:
    """Posts messages."""

    def __init__(
        self, reactor: IReactorTime, seal: Seal, now: Clock, *, agent: AgentMaker | None = None
    ) -> None:
        self._reactor = reactor
        self._seal = seal
        self._now = now
        self._agent = agent or _verifying_agent

    async def send(self, hook: Hook, owner: str, message: str, body: bytes) -> str:
        """Post a body; return what the receiver answered.

        ``owner`` is "tenant/name" of the notification, ``message`` the id that receivers know
        it by. Fault(UNAVAILABLE) is worth another try, Fault(REJECTED) is not.
        """
        headers = Headers({"Content-Type": ["application/json"], "User-Agent": ["tmad"]})
        stamp = str(int(self._now().timestamp()))
        headers.setRawHeaders("webhook-id", [message])
        headers.setRawHeaders("webhook-timestamp", [stamp])
        if hook.key:
            key = self._seal.open(b64decode(hook.key), about=_about(owner))
            headers.setRawHeaders("webhook-signature", [signature(key, message, stamp, body)])
        deadline = self._reactor.seconds() + hook.timeout_seconds
        try:
            status, _ = await ask(
                self._reactor,
                self._agent(self._reactor, hook),
                "POST",
                self._url(hook, owner),
                headers,
                body,
                patience=hook.timeout_seconds,
            )
        except FAILURES as error:
            if self._reactor.seconds() >= deadline:
                raise _unavailable(f"no whole answer in {hook.timeout_seconds:g} s") from None
            raise _unavailable(_words(error)) from None
        if 200 <= status < 300:
            return f"HTTP status {status}"
        if status == 410:
            raise Fault(
                FaultCode.REJECTED,
                "the receiver says that it is gone for good (HTTP status 410)",
                rule="notification.gone",
            )
        raise _unavailable(f"HTTP status {status}")

    def _url(self, hook: Hook, owner: str) -> str:
        if not hook.secret:
            return hook.url
        secret = self._seal.open(b64decode(hook.secret), about=_about_url(owner))
        return hook.url.replace(IN_URL, secret.reveal().decode())

    def seal_url_secret(self, owner: str, secret: Secret) -> str:
        """Return what a document may hold of the secret in its URL; Fault(REJECTED)."""
        if not _URL_SECRET.fullmatch(secret.reveal().decode("ascii", "replace")):
            raise Fault(
                FaultCode.REJECTED,
                "the secret of a URL is 1 to 500 of A-Z, a-z, 0-9 and -._~/=%&+",
                rule="notification.url-secret",
            )
        return b64encode(self._seal.seal(secret.reveal(), about=_about_url(owner))).decode()

    def seal_key(self, owner: str, key: Secret) -> str:
        """Return what a notification's document may hold of its key."""
        return b64encode(self._seal.seal(key.reveal(), about=_about(owner))).decode()


def signature(key: Secret, message: str, stamp: str, body: bytes) -> str:
    """Return the signature of one try, as its header says it."""
    signed = f"{message}.{stamp}.".encode() + body
    return "v1," + b64encode(hmac.digest(key.reveal(), signed, "sha256")).decode()


def shown(key: Secret) -> str:
    """Return a key as the scheme's libraries take it."""
    return _PREFIX + b64encode(key.reveal()).decode()


def read_key(text: str) -> Secret:
    """Read a key as the scheme writes it; ValueError in words for any other text."""
    try:
        key = b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise ValueError("a key is whsec_ and Base64") from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"a key has {_SHORTEST} to {_LONGEST} octets")
    return Secret(key)


def _about(owner: str) -> str:
    return f"notification {owner}"


def _about_url(owner: str) -> str:
    return f"notification url {owner}"


def _verifying_agent(reactor: IReactorTime, hook: Hook) -> IAgent:
    root = None
    if hook.authorities:
        found = parsing.certificates(hook.authorities.encode())
        root = _trust_root([_certificate(X509.from_cryptography(each)) for each in found])
    return guarded_agent(reactor, _policy(root))


def _words(error: BaseException) -> str:
    # Twisted packs what broke an exchange into an exception that shows only objects.
    inner = getattr(error, "reasons", None)
    if inner:
        error = inner[0].value
    name = type(error).__name__
    # A ValueError may cite the URL, which may hold a secret.
    return name if isinstance(error, ValueError) else f"{name}: {error}"


def _unavailable(why: str) -> Fault:
    return Fault(
        FaultCode.UNAVAILABLE,
        f"the receiver did not take it: {why[:300]}",
        rule="notification.receiver",
        values={"failure": why[:300]},
    )
