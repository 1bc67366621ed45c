"""A client of Windows' enrolment made of parts that nobody here wrote; Debian's Python runs it.

zeep speaks SOAP, WS-Addressing and WS-Security by the WSDL, python3-gssapi makes tickets with
channel bindings, requests does TLS. It reads one JSON object with "url", "ca", "operation"
("policies", "issue" or "query") and prints another.
"""

import base64
import hashlib
import json
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import gssapi
import requests
from gssapi.raw import ChannelBindings
from requests.auth import AuthBase
from zeep import Client, Settings
from zeep.exceptions import Fault
from zeep.helpers import serialize_object
from zeep.transports import Transport
from zeep.wsa import WsAddressingPlugin
from zeep.wsse.username import UsernameToken

WSDL = Path(__file__).parents[1] / "vectors" / "wstep"
TRUST = "http://docs.oasis-open.org/ws-sx/ws-trust/200512"
ENROLLMENT = "http://schemas.microsoft.com/windows/pki/2009/01/enrollment"
SECURITY = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
X509 = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-x509-token-profile-1.0#X509v3"


class Negotiate(AuthBase):
    """Comes again with a ticket when the server says 401 Negotiate (RFC 4559)."""

    def __init__(self, host, certificate_der, is_bound):
        self.host = host
        self.certificate_der = certificate_der
        self.is_bound = is_bound
        self.answered = False

    def __call__(self, request):
        request.register_hook("response", self.again)
        return request

    def again(self, response, **options):
        wanted = response.headers.get("www-authenticate", "")
        if response.status_code != 401 or wanted != "Negotiate":
            return response
        bindings = None
        if self.is_bound:
            digest = hashlib.sha256(self.certificate_der).digest()
            bindings = ChannelBindings(application_data=b"tls-server-end-point:" + digest)
        context = gssapi.SecurityContext(
            name=gssapi.Name(f"HTTP@{self.host}", gssapi.NameType.hostbased_service),
            mech=gssapi.OID.from_int_seq("1.3.6.1.5.5.2"),
            usage="initiate",
            flags=gssapi.RequirementFlag.mutual_authentication,
            channel_bindings=bindings,
        )
        token = base64.b64encode(context.step()).decode()
        response.content  # noqa: B018  lets the connection be used again
        second = response.request.copy()
        second.headers["Authorization"] = f"Negotiate {token}"
        found = response.connection.send(second, **options)
        answer = found.headers.get("www-authenticate", "")
        if answer.startswith("Negotiate "):
            # Mutual authentication: only the holder of the keytab can have said this.
            context.step(base64.b64decode(answer.split()[1]))
            self.answered = context.complete
        return found


def client_for(given, name):
    session = requests.Session()
    session.trust_env = False  # a bundle of the environment would count more than ours
    session.verify = given["ca"]
    if "identity" in given:
        session.cert = tuple(given["identity"])
    ticket = None
    if given.get("kerberos"):
        parts = urlsplit(given["url"])
        context = ssl.create_default_context(cafile=given["ca"])
        with (
            socket.create_connection((parts.hostname, parts.port)) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as tls,
        ):
            own = tls.getpeercert(binary_form=True)
        ticket = Negotiate(parts.hostname, own, given["kerberos"] == "bound")
        session.auth = ticket
    security = None
    if "user" in given:
        security = UsernameToken(given["user"], given["password"])
    client = Client(
        str(WSDL / name),
        transport=Transport(session=session, timeout=30, operation_timeout=30),
        plugins=[WsAddressingPlugin()],
        wsse=security,
        settings=Settings(strict=True),
    )
    (binding,) = client.wsdl.bindings
    return client.create_service(binding, given["url"]), ticket


def policies(given):
    service, ticket = client_for(given, "xcep.wsdl")
    found = service.GetPolicies(
        client={"lastUpdate": None, "preferredLanguage": None}, requestFilter=None
    )
    return serialize_object(found, dict), ticket


def token(given):
    service, ticket = client_for(given, "wstep.wsdl")
    wanted = {"TokenType": X509, "RequestType": f"{TRUST}/Issue"}
    if given["operation"] == "query":
        wanted["RequestType"] = f"{ENROLLMENT}/QueryTokenStatus"
        wanted["RequestID"] = given["number"]
    else:
        wanted["BinarySecurityToken"] = {
            "_value_1": given["request"],
            "ValueType": f"{SECURITY}#PKCS7",
            "EncodingType": f"{SECURITY}#base64binary",
        }
    return serialize_object(service.RequestSecurityToken2(**wanted), dict), ticket


def main():
    given = json.load(sys.stdin)
    try:
        found, ticket = (policies if given["operation"] == "policies" else token)(given)
    except Fault as fault:
        detail = {}
        for each in fault.detail.iter() if fault.detail is not None else ():
            detail[each.tag.partition("}")[2]] = each.text
        print(json.dumps({"fault": fault.message, "detail": detail}))
        return
    except requests.HTTPError as error:
        print(json.dumps({"status": error.response.status_code}))
        return
    answered = ticket is not None and ticket.answered
    print(json.dumps({"found": found, "mutual": answered}, default=encoded))


def encoded(value):
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


main()
