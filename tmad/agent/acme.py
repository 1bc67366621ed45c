"""ACME from the client's side: account, order, challenges, certificate (RFC 8555, 8738, 9773).

What the server has made of an attempt is in its hands: the order's address is kept, and the next
run goes on with it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tmad.agent import dnshook, files, jws
from tmad.agent.acmeclient import (
    ACMEClient,
    decode_object,
    describe,
    https_of,
    malformed,
)
from tmad.agent.answering import answering, is_token
from tmad.agent.identity import Identity, PrivateKey, key_pem, make_key, read_certificates, read_key
from tmad.agent.settings import ACMESource as ACMESettings
from tmad.agent.source import Certificates, Wait, Window
from tmad.agent.store import Store
from tmad.agent.transport import Answer
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.wire import parsing

_PATIENCE: Final = 60.0  # seconds that one run waits for the server's work
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 5.0  # a longer one ends the run, and the next goes on
_ACCOUNT: Final = "account.pem"
_MOST: Final = 100  # authorisations of one order
_HOST: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}", re.ASCII)


class ACMESource:
    """One account at one ACME server, for one certificate."""

    def __init__(
        self,
        store: Store,
        settings: ACMESettings,
        names: Sequence[str],
        trust_file: str,
        eab_key: Callable[[], Secret | None] = lambda: None,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._settings = settings
        self._names = names
        self._trust_file = trust_file
        self._eab_key = eab_key
        self._pause = pause

    def first(self, key: PrivateKey, request_der: bytes) -> Certificates | Wait:
        """Order a certificate."""
        return self._order(request_der, "")

    def next(self, key: PrivateKey, request_der: bytes, old: Identity) -> Certificates | Wait:
        """Order the successor of a certificate (RFC 9773, 5)."""
        return self._order(request_der, certificate_id(old.certificate))

    def window(self, old: Identity) -> Window | None:
        """Ask for renewal information, where the server has it (RFC 9773, 4)."""
        identifier = certificate_id(old.certificate)
        client = self._client()
        url = client.find("renewalInfo")
        if not url or not identifier:
            return None
        answer = client.get(f"{url.rstrip('/')}/{identifier}")
        return decode_window(answer)

    # -- account

    def _client(self) -> ACMEClient:
        path = self._store.directory / _ACCOUNT
        try:
            key = read_key(path.read_bytes())
        except FileNotFoundError:
            key = make_key("p256")
            files.write(path, key_pem(key))
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Fault(FaultCode.UNSUPPORTED, f"{path} is no P-256 key", rule="agent.key")
        client = ACMEClient(self._settings.directory, self._trust_file, key)
        account = self._store.load().account
        if urlsplit(account).netloc == urlsplit(self._settings.directory).netloc:
            client.account = account  # else it is one of the server that was told before
        return client

    def _open(self) -> ACMEClient:
        """Return the server with our account, which is made or found (RFC 8555, 7.3)."""
        client = self._client()
        if client.account:
            return client
        url = client.url("newAccount")
        payload: dict[str, Any] = {
            "termsOfServiceAgreed": self._settings.agrees,
            "contact": list(self._settings.contact),
        }
        if self._settings.eab_kid:
            payload["externalAccountBinding"] = self._binding(client, url)
        answer = client.post(url, payload)
        client.account = https_of(answer.headers, "location")
        self._remember(account=client.account)
        return client

    def _binding(self, client: ACMEClient, url: str) -> dict[str, Any]:
        secret = self._eab_key() or Secret("")
        try:
            return jws.bind(client.key, self._settings.eab_kid, secret, url)
        except ValueError:
            raise Fault(
                FaultCode.REJECTED,
                f"{self._settings.eab_key_file} holds no base64url",
                rule="agent.secret-file",
            ) from None

    # -- order

    def _order(self, request_der: bytes, replaces: str) -> Certificates | Wait:
        try:
            return self._go_on(self._open(), request_der, replaces)
        except Fault as fault:
            if fault.values.get("problem") == "accountDoesNotExist":
                self._remember(account="", order="")  # the next attempt makes one
            raise

    def _go_on(self, client: ACMEClient, request_der: bytes, replaces: str) -> Certificates | Wait:
        """Bring the order under way to its end, or a new one."""
        url = self._store.load().order
        order = self._found(client, url) if url else None
        if order is None:
            url, order = self._new(client, replaces)
        if order.get("status") == "pending":
            self._authorise(client, order)
            order = self._wait(client, url, "pending")
        if order.get("status") == "ready":
            payload = {"csr": jws.b64(request_der)}
            order = decode_object(client.post(https_of(order, "finalize"), payload))
            if order.get("status") != "valid":
                order = self._wait(client, url, "processing")
        match order.get("status"):
            case "valid":
                answer = client.post(https_of(order, "certificate"), None)
                own, *others = read_certificates(answer.body)
                return Certificates(own, tuple(others))
            case "processing" | "pending" | "ready":
                return Wait(_PATIENCE)
        self._remember(order="")
        raise Fault(
            FaultCode.REJECTED,
            f"the ACME server has given up the order: {describe(order.get('error'))}",
            rule="agent.order",
        )

    def _found(self, client: ACMEClient, url: str) -> dict[str, Any] | None:
        """Return an order of an earlier run, if anything can still come of it."""
        try:
            order = decode_object(client.post(url, None))
        except Fault as fault:
            if fault.code in (FaultCode.UNAVAILABLE, FaultCode.RATE_LIMITED):
                raise
            order = {}
        if order.get("status") in ("pending", "ready", "processing", "valid"):
            return order
        self._remember(order="")
        return None

    def _new(self, client: ACMEClient, replaces: str) -> tuple[str, dict[str, Any]]:
        identifiers = [_identifier(name) for name in self._names]
        payload: dict[str, Any] = {"identifiers": identifiers}
        if self._settings.profile:
            payload["profile"] = self._settings.profile
        has_info = bool(replaces and client.find("renewalInfo"))
        try:
            extra = {"replaces": replaces} if has_info else {}
            answer = client.post(client.url("newOrder"), payload | extra)
        except Fault as fault:
            if not has_info or fault.code is not FaultCode.FORBIDDEN:
                raise
            # RFC 9773, 5: somebody else has replaced it, or the server never heard of it.
            answer = client.post(client.url("newOrder"), payload)
        url = https_of(answer.headers, "location")
        order = decode_object(answer)
        self._remember(order=url)
        return url, order

    def _authorise(self, client: ACMEClient, order: dict[str, Any]) -> None:
        """Answer every challenge that is open."""
        urls = order.get("authorizations")
        if not isinstance(urls, list) or len(urls) > _MOST:
            raise malformed("authorizations")
        answers: dict[str, str] = {}
        records: list[tuple[str, str]] = []
        pending: list[tuple[str, str]] = []  # address of the authorisation and of its challenge
        for number in range(len(urls)):
            url = https_of({"authorization": urls[number]}, "authorization")
            found = decode_object(client.post(url, None))
            if found.get("status") != "pending":
                continue
            domain = _domain(found) if self._settings.dns_hook else ""
            challenge = _challenge(found, "dns-01" if domain else "http-01")
            token = challenge["token"]
            key_authorization = f"{token}.{jws.thumbprint(client.key)}"
            if domain:
                records.append(dnshook.record(domain, key_authorization))
            else:
                answers[token] = key_authorization
            pending.append((url, https_of(challenge, "url")))
        with contextlib.ExitStack() as stack:
            if answers:
                stack.enter_context(answering(self._settings, answers))
            if records:
                named = self._store.name
                stack.enter_context(dnshook.published(self._settings, records, named, self._pause))
            for _, challenge_url in pending:
                client.post(challenge_url, {})
            for url, _ in pending:
                self._validated(client, url)

    def _validated(self, client: ACMEClient, url: str) -> None:
        found = self._wait(client, url, "pending")
        if found.get("status") == "valid":
            return
        if found.get("status") == "pending":
            raise Fault(
                FaultCode.UNAVAILABLE, "the ACME server has not validated in time",
                rule="agent.validation",
            )  # fmt: skip
        self._remember(order="")
        raise Fault(
            FaultCode.REJECTED,
            f"the ACME server could not validate {_named(found)}: {_why(found)}",
            rule="agent.validation",
        )

    def _wait(self, client: ACMEClient, url: str, status: str) -> dict[str, Any]:
        """Ask until an object has left a status, or patience ends."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            answer = client.post(url, None)
            found = decode_object(answer)
            pause = answer.retry_after or _PAUSE
            is_over = time.monotonic() + pause > deadline or pause > _LONGEST_PAUSE
            if found.get("status") != status or is_over:
                return found
            self._pause(pause)

    def _remember(self, **what: str) -> None:
        self._store.save(self._store.load().model_copy(update=what))


def certificate_id(certificate: x509.Certificate) -> str:
    """Return how renewal information names a certificate (RFC 9773, 4.1); "" where it cannot."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except parsing.NO_EXTENSION:
        return ""
    identifier = extension.value.key_identifier
    serial = certificate.serial_number
    if identifier is None or serial < 0:
        return ""
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{jws.b64(identifier)}.{jws.b64(octets)}"


def decode_window(answer: Answer) -> Window:
    """Read renewal information; Fault(MALFORMED)."""
    found = decode_object(answer).get("suggestedWindow")
    try:
        start, end = (datetime.fromisoformat(found[name]) for name in ("start", "end"))  # type: ignore[index]
        if start.tzinfo is None or end.tzinfo is None or end <= start:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise malformed("suggestedWindow") from None
    # RFC 9773, 4.3: between one minute and one day.
    return Window(start, end, min(max(answer.retry_after or 21_600.0, 60.0), 86_400.0))


def _identifier(name: str) -> dict[str, str]:
    kind, _, value = name.partition(":")
    if kind not in ("dns", "ip"):
        raise Fault(
            FaultCode.REJECTED, f"ACME certifies no {kind}: names ({name})", rule="agent.names"
        )
    return {"type": kind, "value": value.lower()}


def _domain(authorization: dict[str, Any]) -> str:
    """Return the domain that is to be shown, "" for what is none; Fault(MALFORMED).

    It becomes an argument of a program, so nothing but a host name will do.
    """
    identifier = authorization.get("identifier")
    if not isinstance(identifier, dict):
        raise malformed("identifier")
    if identifier.get("type") != "dns":
        return ""
    value = identifier.get("value")
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise malformed("identifier")
    return value


def _challenge(authorization: dict[str, Any], kind: str) -> dict[str, Any]:
    challenges = authorization.get("challenges")
    offered = (
        [each for each in challenges if isinstance(each, dict)]
        if isinstance(challenges, list)
        else []
    )
    for each in offered:
        if each.get("type") == kind and is_token(each.get("token")):
            return each
    kinds = ", ".join(sorted({str(each.get("type"))[:40] for each in offered})) or "nothing"
    raise Fault(
        FaultCode.UNSUPPORTED,
        f"{_named(authorization)} cannot be shown by {kind}; the server offers {kinds}",
        rule="agent.challenge",
    )


def _named(authorization: dict[str, Any]) -> str:
    identifier = authorization.get("identifier")
    value = identifier.get("value") if isinstance(identifier, dict) else None
    text = value if isinstance(value, str) else "a name"
    return "".join(c if c.isprintable() else "?" for c in text)[:255]


def _why(authorization: dict[str, Any]) -> str:
    challenges = authorization.get("challenges")
    for each in challenges if isinstance(challenges, list) else ():
        if isinstance(each, dict) and each.get("error"):
            return describe(each["error"])
    return ascii(authorization.get("status"))[:20]
