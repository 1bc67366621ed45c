"""A mail server of Debian's aiosmtpd: STARTTLS and AUTH, prints each message as a JSON line.

Usage: mail_server.py PORT CERTIFICATE KEY USER PASSWORD starttls|tls
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Keeper:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 there is nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        outer = server.transport.get_extra_info("ssl_object")
        seen = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None or outer is not None,
            "user": (session.auth_data.login.decode() if session.authenticated else None),
            "hello": session.host_name,
            "content": envelope.content.decode(),
        }
        print(json.dumps(seen), flush=True)
        return "250 taken as 4711"


def main() -> None:
    port, certificate, key, user, password, mode = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def check(server, session, envelope, mechanism, data):
        good = data.login == user.encode() and data.password == password.encode()
        return AuthResult(success=good, handled=False, auth_data=data)

    def make():
        return SMTP(
            Keeper(),
            tls_context=context if mode == "starttls" else None,
            require_starttls=mode == "starttls",
            auth_required=True,
            auth_require_tls=mode == "starttls",
            authenticator=check,
        )

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        outer = context if mode == "tls" else None
        server = await loop.create_server(make, "127.0.0.1", int(port), ssl=outer)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


main()
