"""One ACME server: its directory, its nonces, its problems (RFC 8555, 6 and 7.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from tmad.agent import jws
from tmad.agent.transport import Answer, Trust, ask
from tmad.errors import Fault, FaultCode

_ATTEMPTS: Final = 10  # with nonces that the server does not take
_JOSE: Final = {"Content-Type": "application/jose+json"}
_PROBLEM: Final = "urn:ietf:params:acme:error:"


class ACMEClient:
    """A conversation with one server under one account key."""

    def __init__(self, directory: str, trust_file: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._trust = Trust(trust_file)
        self._context = self._trust.context()
        self._key = key
        self._directory_url = directory
        self._directory: Mapping[str, Any] | None = None
        self._nonce = ""
        self.account = ""

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The account's key."""
        return self._key

    def url(self, operation: str) -> str:
        """Return the address of newOrder and the like; Fault(UNSUPPORTED) without one."""
        found = self.find(operation)
        if not found:
            raise Fault(FaultCode.UNSUPPORTED, f"the server has no {operation}", rule="agent.acme")
        return found

    def find(self, operation: str) -> str:
        """Return the address of an operation, or an empty text."""
        if self._directory is None:
            self._directory = decode_object(self._get(self._directory_url))
        return https_of(self._directory, operation) if operation in self._directory else ""

    def get(self, url: str) -> Answer:
        """Ask without a signature (newNonce, renewalInfo)."""
        answer = self._get(url)
        if answer.status != 200:
            raise problem(answer)
        return answer

    def post(self, url: str, payload: Mapping[str, Any] | None) -> Answer:
        """Ask as the account, or as its key where there is no account yet.

        A Fault for an answer that is none of the good ones; its values["problem"] is the word
        of RFC 8555, 6.7.
        """
        for _ in range(_ATTEMPTS):
            header: dict[str, Any] = {"nonce": self._take_nonce(), "url": url}
            header |= {"kid": self.account} if self.account else {"jwk": jws.jwk(self._key)}
            body = jws.sign(self._key, header, payload)
            answer = self._keep(
                ask("POST", url, self._trust, body=body, headers=_JOSE, context=self._context)
            )
            if answer.status < 300:
                return answer
            fault = problem(answer)
            if fault.values.get("problem") != "badNonce":
                raise fault
        raise fault

    def _take_nonce(self) -> str:
        if not self._nonce:
            self._keep(ask("HEAD", self.url("newNonce"), self._trust, context=self._context))
        nonce, self._nonce = self._nonce, ""
        if not nonce:
            raise Fault(FaultCode.UNAVAILABLE, "the server gives no nonce", rule="agent.acme")
        return nonce

    def _get(self, url: str) -> Answer:
        return ask("GET", url, self._trust, context=self._context)

    def _keep(self, answer: Answer) -> Answer:
        nonce = answer.headers.get("replay-nonce", "")
        self._nonce = nonce if nonce.isascii() and len(nonce) < 1_000 else ""
        return answer


def decode_object(answer: Answer) -> dict[str, Any]:
    """Read a JSON object; Fault(MALFORMED), or what the server's problem means."""
    if answer.status >= 300:
        raise problem(answer)
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise malformed("it is no JSON object")
    return found


def https_of(found: Mapping[str, Any], name: str) -> str:
    """Return an address that a server sent; Fault(MALFORMED) unless it is one of HTTPS."""
    value = found.get(name)
    if isinstance(value, str) and len(value) < 4_096 and value.isascii() and value.isprintable():
        try:
            parts = urlsplit(value)
            _ = parts.port  # ValueError where it is none
            if parts.scheme == "https" and parts.hostname:
                return value
        except ValueError:
            pass
    raise malformed(f"{name} is no address")


def problem(answer: Answer) -> Fault:
    """Return the Fault for an answer that is none of the good ones (RFC 7807; 8555, 6.7)."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        found = {}
    word = str(found.get("type", "")).removeprefix(_PROBLEM)[:100]
    detail = describe(found) or answer.text
    if answer.status == 429 or word == "rateLimited":
        code = FaultCode.RATE_LIMITED
    elif answer.status >= 500 or word in ("serverInternal", "badNonce"):
        code = FaultCode.UNAVAILABLE
    else:
        code = FaultCode.FORBIDDEN
    return Fault(
        code,
        f"the ACME server says no ({answer.status} {word}): {detail}",
        rule="agent.acme",
        retry_after=answer.retry_after,
        values={"problem": word},
    )


def describe(found: object) -> str:
    """Return what a problem document says, as one short line."""
    if not isinstance(found, dict):
        return ""
    texts = [str(found.get("detail", ""))]
    below = found.get("subproblems")
    if isinstance(below, list):
        texts += [str(each.get("detail", "")) for each in below[:10] if isinstance(each, dict)]
    text = "; ".join(text for text in texts if text)
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def malformed(why: str) -> Fault:
    """Return the Fault for an answer that no ACME server would send."""
    return Fault(
        FaultCode.MALFORMED, f"the ACME server's answer cannot be read: {why}", rule="agent.acme"
    )
