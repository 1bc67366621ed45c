"""A certificate authority in memory that an agent asks as its source; the real thing made small.

It answers the same request with the same certificate, as EST does; it can be away, let wait,
refuse, and say that it has revoked something.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tmad.agent import settings as agent_settings
from tmad.agent import store as stores
from tmad.agent.identity import Identity, PrivateKey
from tmad.agent.keeper import Keeper
from tmad.agent.settings import CertificateSettings
from tmad.agent.source import Certificates, Wait, Window
from tmad.agent.store import State, Store
from tmad.errors import Fault, FaultCode

START = datetime(2027, 1, 1, tzinfo=UTC)
DAYS = 90


class Server:
    """The authority; ``clock`` is everybody's."""

    def __init__(self) -> None:
        self.now = START
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._certify(_name("Root"), self.key.public_key(), x509.Name([]), is_ca=True)
        self.issued: dict[bytes, x509.Certificate] = {}
        self.asked: list[str] = []
        self.fault: Fault | None = None
        self.waits = 0
        self.answer: Window | None = None
        self.names: Callable[[list[x509.GeneralName]], list[x509.GeneralName]] = lambda names: names

    def clock(self) -> datetime:
        return self.now

    def first(self, key: PrivateKey, request_der: bytes) -> Certificates | Wait:
        return self._ask("first", request_der)

    def next(self, key: PrivateKey, request_der: bytes, old: Identity) -> Certificates | Wait:
        return self._ask("next", request_der)

    def window(self, old: Identity) -> Window | None:
        self.asked.append("window")
        return self.answer

    def _ask(self, what: str, request_der: bytes) -> Certificates | Wait:
        self.asked.append(what)
        if self.fault is not None:
            raise self.fault
        if self.waits:
            self.waits -= 1
            return Wait(120.0)
        request = x509.load_der_x509_csr(request_der)
        assert request.is_signature_valid
        found = self.issued.get(request_der)
        if found is None:
            names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found = self._certify(request.subject, request.public_key(), self.root.subject,
                                  names=self.names(list(names)))  # fmt: skip
            self.issued[request_der] = found
        return Certificates(found, (self.root,))

    def _certify(
        self,
        subject: x509.Name,
        public_key: Any,
        issuer: x509.Name,
        *,
        is_ca: bool = False,
        names: list[x509.GeneralName] | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if is_ca else issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now)
            .not_valid_after(self.now + timedelta(days=3650 if is_ca else DAYS))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class Bench:
    """One certificate of one machine, its files, and the server."""

    def __init__(self, directory: Path, server: Server | None = None, **changes: Any) -> None:
        self.directory = directory
        self.server = server or Server()
        document: dict[str, Any] = {
            "subject": "CN=web",
            "names": ["dns:web.example.test"],
            "est": {"url": "https://server.example.test/.well-known/est"},
            "place": {
                "key": str(directory / "key.pem"),
                "fullchain": str(directory / "fullchain.pem"),
                "directory": str(directory / "live"),
            },
        }
        document |= changes
        self.settings = CertificateSettings.model_validate(document)
        self.store = stores.create(directory / "agent", "web")
        agent_settings.save(self.store.directory, self.settings)

    def keeper(self) -> Keeper:
        """Return a keeper as a fresh process has it."""
        return Keeper(
            Store(self.store.directory),
            agent_settings.load(self.store.directory),
            now=self.server.clock,
            source_of=lambda *_: self.server,
        )

    def run(self, *, is_forced: bool = False) -> Any:
        return self.keeper().run(is_forced=is_forced)

    def change(self, **changes: Any) -> None:
        """Change the settings, as a person with an editor does."""
        document = self.settings.model_dump(mode="json", exclude_defaults=True) | changes
        self.settings = CertificateSettings.model_validate(document)
        agent_settings.save(self.store.directory, self.settings)

    def state(self) -> State:
        return self.store.load()

    def placed(self) -> x509.Certificate:
        """Return the certificate in place; fail unless all places agree and the key fits."""
        from tests.agent_world import same_pair, sha256

        found = same_pair(self.directory / "key.pem", self.directory / "fullchain.pem")
        linked = same_pair(self.directory / "live/key.pem", self.directory / "live/fullchain.pem")
        assert sha256(found) == sha256(linked)
        return found

    def pass_(self, **time: float) -> None:
        self.server.now += timedelta(**time)


def away() -> Fault:
    return Fault(FaultCode.UNAVAILABLE, "nobody answers", rule="agent.unreachable")


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
