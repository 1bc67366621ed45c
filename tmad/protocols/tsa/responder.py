"""Answers time-stamp requests: what is accepted, who signs, and what is kept of it.

RFC 3161, 2 and 3.4 (HTTP); RFC 5816.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from twisted.logger import Logger

from tmad.ca.endpoint import LABEL, Endpoint
from tmad.ca.extensions import check_oid
from tmad.ca.requests import EndpointID
from tmad.ca.service_records import ServiceCertificate
from tmad.ca.status import Reason
from tmad.errors import Fault, FaultCode
from tmad.events import Event
from tmad.protocols.tsa import codec
from tmad.protocols.tsa.clock import TrustedTime
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire import der
from tmad.wire.cms import Random
from tmad.wire.http import Request, Response

if TYPE_CHECKING:
    from tmad.plugin import Services

_log = Logger()

_NO_STORE = (("Cache-Control", "no-store"),)
_HashName = Literal["sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"]
_HASHES: tuple[_HashName, ...] = (
    "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512",
)  # fmt: skip


class EndpointOptions(BaseModel):
    """What one time-stamping authority can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = Field(
        description="Object identifier of the policy that tokens are issued under, unless the "
        "client names another one."
    )
    policies: tuple[str, ...] = Field(
        default=(), max_length=100, description="Further policies that clients may name."
    )
    hashes: tuple[_HashName, ...] = Field(
        default=_HASHES, min_length=1, description="What an imprint may be made with."
    )
    sha1: bool = Field(
        default=False, description="Accept SHA-1 imprints: forged ones can be made by now."
    )
    accuracy_ms: int = Field(
        default=1000,
        ge=1,
        le=3_600_000,
        description="What tokens promise about their time, in milliseconds; when the clock may "
        "be wrong by more, none are given.",
    )
    digits: int = Field(
        default=3, ge=0, le=6, description="Digits of the second's fraction in a token."
    )
    clock: Literal["kernel", "vouched"] = Field(
        default="kernel",
        description="kernel: it must say that the clock is synchronised, and how well. vouched: "
        "an administrator answers for that; steps of the clock are noticed all the same.",
    )
    journal: Literal["each", "count"] = Field(
        default="each",
        description="each: a token leaves when it stands in the journal. count: how many there "
        "were, once a minute.",
    )
    tsa_name: bool = Field(default=True, description="Tokens name the authority.")
    chain: bool = Field(
        default=True,
        description="A client that asks for the certificate gets those above it, too, without "
        "the root.",
    )
    signer_algorithm: KeyAlgorithm | None = Field(
        default=None, description="The signer's key; empty: as fits the authority."
    )
    signer_store: str | None = Field(
        default=None, description="The key store that makes the key; empty: the default."
    )

    @property
    def bearable(self) -> float:
        """Return by how many seconds the clock may be wrong: what is cut off is an error, too."""
        return self.accuracy_ms / 1000 - 10.0**-self.digits

    @model_validator(mode="after")
    def _can_be_kept(self) -> EndpointOptions:
        if self.bearable <= 0:
            raise ValueError("accuracy_ms is less than the last of so few digits")
        return self

    @field_validator("policy")
    @classmethod
    def _is_oid(cls, value: str) -> str:
        check_oid(value)
        return value

    @field_validator("policies")
    @classmethod
    def _are_oids(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            check_oid(each)
        return value

    @field_validator("signer_algorithm")
    @classmethod
    def _signs_messages(cls, value: KeyAlgorithm | None) -> KeyAlgorithm | None:
        if value is KeyAlgorithm.ED448:
            raise ValueError("Ed448 signs no messages here: its digest is SHAKE256")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """One endpoint made ready: its signer, and its rules as octets."""

    endpoint: Endpoint
    service: ServiceCertificate
    signer: codec.Signer
    policy_der: bytes
    policies: frozenset[bytes]
    hashes: frozenset[str]
    accuracy_der: bytes

    @property
    def options(self) -> EndpointOptions:
        return cast("EndpointOptions", self.endpoint.options)


@dataclass(slots=True)
class _Tally:
    """Tokens of one signer since the last record of them."""

    tenant: str
    since: datetime
    until: datetime
    count: int = 0


class TSAResponder:
    """All time-stamping authorities of this node: one an endpoint."""

    def __init__(
        self,
        services: Services,
        *,
        default_label: str = "default",
        time: TrustedTime | None = None,
        random: Random = os.urandom,
    ) -> None:
        self._services = services
        self._default_label = default_label
        self._time = time or TrustedTime(services.now)
        self._random = random
        self._desks: dict[EndpointID, _Desk] = {}
        self._tallies: dict[tuple[str, str], _Tally] = {}

    async def respond(self, request: Request) -> Response:
        """Answer one HTTP request; whoever finds the door gets a TimeStampResp."""
        label = request.tail.decode("latin-1").removeprefix("/") or self._default_label
        if not re.fullmatch(LABEL, label):
            return Response(status=404, headers=_NO_STORE, body=b"no such authority\n")
        endpoint = await self._services.endpoints.by_id(EndpointID("tsa", label))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != codec.QUERY_TYPE:
            text = f"the Content-Type must be {codec.QUERY_TYPE}\n"
            return Response(status=415, headers=_NO_STORE, body=text.encode())
        try:
            body = await self._stamp(endpoint, request)
        except Fault as fault:
            # Garbage is counted and logged, not journaled: anybody can send it, at any rate.
            _log.info(
                "no time-stamp from {endpoint}: {fault} {private}",
                endpoint=str(endpoint.id),
                fault=str(fault),
                private=fault.private,
                rule=fault.rule,
            )
            body = codec.rejection(codec.FAULTS[fault.code], fault.detail)
        except Exception:
            _log.failure("a time-stamp failed")
            body = codec.rejection(codec.FailInfo.SYSTEM_FAILURE, "an error of the server")
        return Response(headers=_NO_STORE, body=body, content_type=codec.REPLY_TYPE)

    async def count(self) -> None:
        """Write down how many tokens there were; what cannot be written is kept for later."""
        for key, tally in list(self._tallies.items()):
            scope, serial = key
            event = Event(
                kind="timestamp.counted",
                tenant=tally.tenant,
                actor="system",
                object=f"endpoint/{scope}",
                data={
                    "count": tally.count,
                    "since": tally.since.isoformat(),
                    "until": tally.until.isoformat(),
                    "signer": serial,
                },
            )
            # Taken away first: a token that is made meanwhile begins the next one.
            del self._tallies[key]
            try:
                await self._services.journal.write(event)
            except BaseException:
                self._add(key, tally)
                raise

    # -- steps --------------------------------------------------------------------------------

    async def _stamp(self, endpoint: Endpoint, request: Request) -> bytes:
        asked = codec.decode(request.body)
        desk = await self._desk(endpoint)
        policy_der = _accepted(asked, desk)
        options = desk.options
        is_vouched = options.clock == "vouched"
        mark = self._time.check(options.bearable, is_vouched=is_vouched)
        # 159 random bits: no state that a restored backup, a crash or another worker could
        # repeat, and two equal ones are not to be expected before 2^79 tokens.
        serial = int.from_bytes(self._random(codec.SERIAL_OCTETS)) >> 1
        now = self._services.now
        made: list[datetime] = []

        def sign(key: Any) -> bytes:
            # Asked for where the key is: a token must not tell when it began to wait for that.
            instant = now()
            made.append(instant)
            content = codec.tst_info(
                asked,
                policy_der=policy_der,
                serial=serial,
                time_der=codec.generalized_time(instant, options.digits),
                accuracy_der=desk.accuracy_der,
                name_der=desk.signer.name_der,
            )
            return codec.sign(key, desk.signer, content, wants_certificate=asked.wants_certificate)

        token = await self._services.keyring.use(desk.service.key_id, sign)
        if self._time.check(options.bearable, is_vouched=is_vouched) != mark:
            raise Fault(
                FaultCode.BAD_TIME,
                "the clock was set while the token waited for its key",
                rule="tsa.clock.set",
            )
        await self._record(desk, asked, serial, made[-1], request.peer)
        return codec.granted(token)

    async def _record(
        self,
        desk: _Desk,
        asked: codec.TimeStampReq,
        serial: int,
        instant: datetime,
        peer: str,
    ) -> None:
        signer = f"{desk.service.certificate.serial_number:x}"
        tenant = desk.endpoint.tenant
        if desk.options.journal == "count":
            key = (str(desk.endpoint.id), signer)
            self._add(key, _Tally(tenant, instant, instant, 1))
            return
        assert asked.hash is not None
        await self._services.journal.write(
            Event(
                kind="timestamp.made",
                tenant=tenant,
                actor="anonymous",
                object=f"endpoint/{desk.endpoint.id}",
                data={
                    "serial": f"{serial:x}",
                    "time": instant.isoformat(),
                    "hash": asked.hash.name,
                    "digest": asked.digest.hex(),
                    "signer": signer,
                    "peer": peer,
                },
            )
        )

    def _add(self, key: tuple[str, str], tally: _Tally) -> None:
        present = self._tallies.setdefault(key, _Tally(tally.tenant, tally.since, tally.until))
        present.count += tally.count
        present.since = min(present.since, tally.since)
        present.until = max(present.until, tally.until)

    async def _desk(self, endpoint: Endpoint) -> _Desk:
        try:
            service = await self._service(endpoint)
            desk = self._desks.get(endpoint.id)
            if desk is None or desk.endpoint is not endpoint or desk.service is not service:
                desk = self._desks[endpoint.id] = _prepare(endpoint, service)
        except Fault as fault:
            # Whatever is wrong with the signer is no business of who asks for a time-stamp.
            raise Fault(
                FaultCode.UNAVAILABLE,
                "the authority has no good certificate now",
                private=f"{fault} ({fault.rule}) {fault.private}",
                retry_after=fault.retry_after,
                rule="tsa.signer",
            ) from None
        return desk

    async def _service(self, endpoint: Endpoint) -> ServiceCertificate:
        """Return the certificate in use; one that is revoked is followed by another."""
        services = self._services
        found = await services.service_certificates.current("tsa", str(endpoint.id))
        for _ in range(2):
            status = await services.status.of(found.issuer_id, found.certificate.serial_number)
            if status.state == "good":
                return found
            if status.reason is Reason.CERTIFICATE_HOLD:
                break
            found = await services.service_certificates.replace(found)
        raise Fault(
            FaultCode.UNAVAILABLE,
            "the signer's certificate is revoked or on hold",
            rule="tsa.signer.revoked",
            values={"serial": f"{found.certificate.serial_number:x}"},
        )


def _prepare(endpoint: Endpoint, service: ServiceCertificate) -> _Desk:
    certificate = service.certificate
    _check_usage(certificate)
    options = cast("EndpointOptions", endpoint.options)
    chain = [each.public_bytes(Encoding.DER) for each in service.chain]
    # The root goes to nobody: who does not have it must not believe it.
    above = [
        encoded
        for each, encoded in zip(service.chain[1:], chain[1:], strict=True)
        if each.issuer != each.subject
    ]
    policy_der = der.oid(options.policy)
    return _Desk(
        endpoint=endpoint,
        service=service,
        signer=codec.signer(
            chain[0],
            certificate.public_key(),
            certificates=(chain[0], *(above if options.chain else ())),
            is_named=options.tsa_name,
        ),
        policy_der=policy_der,
        policies=frozenset((policy_der, *map(der.oid, options.policies))),
        hashes=frozenset((*options.hashes, *(("sha1",) if options.sha1 else ()))),
        accuracy_der=codec.accuracy(options.accuracy_ms),
    )


def _check_usage(certificate: x509.Certificate) -> None:
    # RFC 3161, 2.3: critical, and nothing else; clients refuse the tokens of any other.
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        usage = None
    if (
        usage is None
        or not usage.critical
        or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]
    ):
        raise Fault(
            FaultCode.UNAVAILABLE,
            "the endpoint's profile makes no certificates for time-stamping",
            rule="tsa.signer.profile",
        )


def _accepted(asked: codec.TimeStampReq, desk: _Desk) -> bytes:
    """Return the policy of the token; refuse what is not served (RFC 3161, 2.4.1 and 2.4.2)."""
    if asked.has_extensions:
        raise Fault(
            FaultCode.UNSUPPORTED,
            "no extension of a request is supported",
            rule="tsa.extension",
        )
    if asked.hash is None or asked.hash.name not in desk.hashes:
        name = asked.algorithm if asked.hash is None else asked.hash.name
        raise Fault(
            FaultCode.BAD_ALGORITHM,
            f"the hash {name} is not accepted; use one of {', '.join(sorted(desk.hashes))}",
            rule="tsa.hash",
            values={"hash": name},
        )
    if asked.policy_der is None:
        return desk.policy_der
    if asked.policy_der not in desk.policies:
        policy = der.dotted(asked.policy_der)
        raise Fault(
            FaultCode.REJECTED,
            f"there are no time-stamps under the policy {policy} here",
            rule="tsa.policy",
            values={"policy": policy},
        )
    return asked.policy_der
