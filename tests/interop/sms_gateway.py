"""A small SMS gateway on HTTPS: takes JSON and forms, prints what it got, one JSON a line.

Usage: sms_gateway.py PORT CERTIFICATE KEY
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.take(dict(parse_qsl(urlsplit(self.path).query)))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"].startswith("application/json"):
            self.take(json.loads(body))
        else:
            self.take(dict(parse_qsl(body.decode(), strict_parsing=True)))

    def take(self, message: dict[str, str]) -> None:
        seen = {
            "path": urlsplit(self.path).path,
            "message": message,
            "key": self.headers.get("X-Key"),
            "authorization": self.headers.get("Authorization"),
        }
        print(json.dumps(seen), flush=True)
        match urlsplit(self.path).path:
            case "/redirect":
                self.send_response(302)
                self.send_header("Location", "/send")
            case "/busy":
                self.send_response(503)
            case _:
                self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"OK: id-1")

    def log_message(self, *arguments: object) -> None:
        """Standard output is for what was taken."""


def main() -> None:
    port, certificate, key = sys.argv[1:]
    server = HTTPServer(("127.0.0.1", int(port)), Gateway)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


main()
