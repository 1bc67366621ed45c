"""Windows' enrolment in memory: the core, a domain, and messages as Windows words them."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tests.hierarchy_world import Shelf
from tests.support import Clock, drive
from tests.unit.ca_bench import ADMIN, Bench
from tests.unit.est_world import Session, make_csr
from tests.unit.memory_directory import (
    BASE,
    MACHINE,
    READER,
    WORD,
    MemoryDirectory,
    directories,
)
from tmad.ca.approval import Requests
from tmad.ca.numbers import RequestNumbers
from tmad.ca.service_certificates import ServiceCertificates
from tmad.errors import Fault, FaultCode
from tmad.events import Secret
from tmad.identity.active_directory import Principal
from tmad.identity.kerberos import Accepted
from tmad.protocols.wstep import codec, policies
from tmad.protocols.wstep.policy_responder import PolicyResponder
from tmad.protocols.wstep.responder import WSTEPResponder
from tmad.protocols.wstep.visit import Presenting, URLs
from tmad.signer.algorithms import KeyAlgorithm
from tmad.wire.http import Request, Response

REALM = "CORP.TEST"
SOAP = {"content-type": "application/soap+xml; charset=utf-8", "host": "ca.example.test:8443"}
NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://www.w3.org/2005/08/addressing",
    "t": "http://docs.oasis-open.org/ws-sx/ws-trust/200512",
    "e": "http://schemas.microsoft.com/windows/pki/2009/01/enrollment",
    "p": "http://schemas.microsoft.com/windows/pki/2009/01/enrollmentpolicy",
    "o": "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd",
}
_TEXT = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0"
_TOKEN = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3"


class Tickets:
    """Accepts as a ticket what ``ticket`` made, once."""

    def __init__(self) -> None:
        self.channel = b""
        self._used: set[bytes] = set()

    async def accept(self, token: bytes, channel: bytes) -> Accepted:
        kind, name, sid, bound, number = token.decode().split("|")
        if kind != "ticket" or number.encode() in self._used:
            raise Fault(
                FaultCode.UNAUTHENTICATED, "the ticket was not accepted", rule="kerberos.ticket"
            )
        self._used.add(number.encode())
        self.channel = channel
        return Accepted(
            principal=Principal(name=name, sid=sid), answer=b"mutual", is_bound=bound == "bound"
        )


class World(Bench):
    """The endpoints wstep/users and wstep/machines of a domain with bob and pc1$."""

    def __init__(self, *, algorithm: KeyAlgorithm = KeyAlgorithm.P256, **endpoint: Any) -> None:
        self.memory = MemoryDirectory()
        clock = Clock()
        self.directories = directories(self.memory, clock)
        super().__init__(algorithm=algorithm, clock=clock, directories=self.directories)
        self._given = endpoint
        self.service_certificates = ServiceCertificates(
            self.database,
            self.changes,
            self.journal,
            self.keyring,
            self.hierarchy,
            self.endpoints,
            self.authority,
            self.clock,
            holder="test",
        )
        self.requests = Requests(
            database=self.database,
            journal=self.journal,
            authority=self.authority,
            secrets=self.secrets,
            now=self.clock,
        )
        services: Any = SimpleNamespace(
            endpoints=self.endpoints,
            authority=self.authority,
            hierarchy=self.hierarchy,
            objects=self.objects,
            journal=self.journal,
            keyring=self.keyring,
            now=self.clock,
            host="ca.example.test",
            service_certificates=self.service_certificates,
            request_numbers=RequestNumbers(self.database, self.clock),
        )
        self.tickets = Tickets()
        tickets: Any = self.tickets
        presenting = Presenting(tickets, self.service_certificates, "ca.example.test")
        urls = URLs(host="ca.example.test", given="", certificate="")
        self.enrolment = WSTEPResponder(services, presenting, urls)
        self.policies = PolicyResponder(services, presenting, urls, default_label="machines")
        self._number = 0

    async def prepare(self) -> World:
        await super().prepare()
        # Keys of service certificates are made and kept in the database.
        self.keyring._shelf = Shelf(self.database)
        document = {
            "servers": ["dc1.corp.test"], "realm": REALM, "base": BASE, "bind": READER,
            "password": self.directories.seal_password("default/corp", Secret(WORD)),
        }  # fmt: skip
        await self.objects.put(ADMIN, "default", "active-directory", "corp", document)
        users = {
            "profile": "windows-user", "directory": "corp",
            "authenticate": ["kerberos", "directory"],
            "options": {"subject": "user", "channel_binding": "off"}, **self._given,
        }  # fmt: skip
        await self.open("wstep", "users", **users)
        machines = {
            "profile": "windows-machine", "directory": "corp", "authenticate": ["kerberos"],
            "options": {"together_with": ["users"], "channel_binding": "off"},
        }  # fmt: skip
        await self.open("wstep", "machines", **machines)
        self.memory.add(
            "bob", displayName="Bob Builder", mail="bob@corp.test", word="bob's own word",
            userPrincipalName="bob@corp.test",
        )  # fmt: skip
        self.memory.add("pc1$", control=MACHINE, dNSHostName="pc1.corp.test")
        return self

    def ticket(self, user: str = "bob", *, sid: str | None = None, bound: bool = False) -> str:
        """Return an Authorization field with a fresh ticket of an account."""
        self._number += 1
        shown = self.memory.sid(user) if sid is None else sid
        text = f"ticket|{user}@{REALM}|{shown}|{'bound' if bound else ''}|{self._number}"
        return "Negotiate " + base64.b64encode(text.encode()).decode()

    def ask(
        self,
        body: bytes,
        path: str = "users",
        *,
        ticket: str = "",
        client: x509.Certificate | None = None,
        headers: dict[str, str] | None = None,
        responder: Any = None,
        method: str = "POST",
    ) -> Response:
        """Send one message to /wstep/PATH."""
        fields = {**SOAP, **(headers or {})}
        if ticket:
            fields["authorization"] = ticket
        shown = () if client is None else (client.public_bytes(Encoding.DER),)
        request = Request(
            method=method,
            path=f"/wstep/{path}".encode(),
            tail=f"/{path}".encode(),
            headers=fields,
            body=body,
            peer="192.0.2.7",
            secure=True,
            tls=Session(shown),
        )
        return drive((responder or self.enrolment).respond(request))

    def enrolled(self, csr_der: bytes, path: str = "users", **how: Any) -> x509.Certificate:
        """Enrol successfully, as bob unless told otherwise."""
        given = how or {"ticket": self.ticket()}
        answer = self.ask(issue(csr_der), path, **given)
        assert answer.status == 200, answer.body
        return certificate_of(answer)

    def policies_for(self, body: bytes = b"", path: str = "machines", **how: Any) -> Response:
        return self.ask(body or get_policies(), path, responder=self.policies, **how)

    def change(self, label: str, **document: Any) -> None:
        """Change an endpoint's document."""
        stored = drive(self.objects.get(ADMIN, "default", "endpoint", f"wstep-{label}"))
        plain = stored.document.model_dump(mode="json", exclude_defaults=True)
        name = f"wstep-{label}"
        drive(self.objects.put(ADMIN, "default", "endpoint", name, {**plain, **document}))


def world(**endpoint: Any) -> World:
    return drive(World(**endpoint).prepare())


# -- messages ---------------------------------------------------------------------------------


def envelope(action: str, body: str, *, user: str = "", word: str = "", header: str = "") -> bytes:
    """Return a message; with ``user``, with a user name token."""
    security = ""
    if user:
        security = (
            f'<o:Security s:mustUnderstand="1" xmlns:o="{NS["o"]}"><o:UsernameToken>'
            f"<o:Username>{user}</o:Username>"
            f'<o:Password Type="{_TEXT}#PasswordText">{word}</o:Password>'
            "</o:UsernameToken></o:Security>"
        )
    return (
        f'<s:Envelope xmlns:s="{NS["s"]}" xmlns:a="{NS["a"]}"><s:Header>'
        f'<a:Action s:mustUnderstand="1">{action}</a:Action>'
        "<a:MessageID>urn:uuid:b5d1a601-5091-4a7d-b34b-5204c18b5919</a:MessageID>"
        f"<a:ReplyTo><a:Address>{NS['a']}/anonymous</a:Address></a:ReplyTo>{security}{header}"
        f"</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def issue(token_der: bytes, *, kind: str = "Issue", more: str = "", **how: Any) -> bytes:
    """Return a message that asks for a certificate."""
    token = base64.encodebytes(token_der).decode()
    return envelope(
        codec.ACTION,
        f'<RequestSecurityToken xmlns="{NS["t"]}"><TokenType>{_TOKEN}</TokenType>'
        f"<RequestType>{NS['t']}/{kind}</RequestType>"
        f'<BinarySecurityToken ValueType="{NS["o"]}#PKCS7" EncodingType="{NS["o"]}#base64binary"'
        f' xmlns="{NS["o"]}">{token}</BinarySecurityToken>{more}</RequestSecurityToken>',
        **how,
    )


def query(number: int | str, **how: Any) -> bytes:
    """Return a message that asks what became of a request."""
    return envelope(
        codec.ACTION,
        f'<RequestSecurityToken xmlns="{NS["t"]}">'
        f"<RequestType>{NS['e']}/QueryTokenStatus</RequestType>"
        f'<RequestID xmlns="{NS["e"]}">{number}</RequestID></RequestSecurityToken>',
        **how,
    )


def get_policies(wanted: str = "", updated: str = "", **how: Any) -> bytes:
    """Return a message that asks for policies; ``wanted`` is a filter."""
    nil = f'xmlns:i="{"http://www.w3.org/2001/XMLSchema-instance"}" i:nil="true"'
    last = f"<lastUpdate>{updated}</lastUpdate>" if updated else f"<lastUpdate {nil}/>"
    return envelope(
        policies.ACTION,
        f'<GetPolicies xmlns="{NS["p"]}"><client>{last}<preferredLanguage {nil}/></client>'
        f"{wanted or f'<requestFilter {nil}/>'}</GetPolicies>",
        **how,
    )


def signed_by(csr_der: bytes, certificate: x509.Certificate, key: Any) -> bytes:
    """Return a request in a PKCS #7 of the certificate that it renews, made by cryptography."""
    return (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(csr_der)
        .add_signer(certificate, key, hashes.SHA256())
        .sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoCapabilities])
    )


# -- answers ----------------------------------------------------------------------------------


def tree(answer: Response) -> ElementTree.Element:
    return ElementTree.fromstring(answer.body)


def text(answer: Response, path: str) -> str:
    """Return the text of the first element at a path with NS' prefixes."""
    found = tree(answer).find(path, NS)
    assert found is not None, answer.body
    return found.text or ""


def certificate_of(answer: Response) -> x509.Certificate:
    token = text(answer, ".//t:RequestedSecurityToken/o:BinarySecurityToken")
    return x509.load_der_x509_certificate(base64.b64decode(token))


def error_of(answer: Response) -> tuple[str, int, bool]:
    """Return a fault's word, Windows' error code without sign, and whether it was a denial."""
    assert answer.status == 500, answer
    word = text(answer, ".//s:Subcode/s:Value").partition(":")[2]
    code = int(text(answer, ".//e:ErrorCode")) + (1 << 32)
    return word, code, text(answer, ".//e:InvalidRequest") == "true"


def csr(common: str = "whoever", key: Any = None, **more: Any) -> bytes:
    return make_csr(common, key or ec.generate_private_key(ec.SECP256R1()), **more)


def common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
