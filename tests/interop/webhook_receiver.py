"""A receiver of webhooks on HTTPS that judges them by the scheme's own library; prints JSON lines.

Usage: webhook_receiver.py PORT CERTIFICATE KEY SECRETFILE. The first POST to /busy gets a 503.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

busy = True


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        global busy
        body = self.rfile.read(int(self.headers["Content-Length"]))
        secret = Path(sys.argv[4]).read_text(encoding="ascii").strip()
        try:
            said = Webhook(secret).verify(body, dict(self.headers.items()))
            good = True
        except WebhookVerificationError:
            said, good = json.loads(body), False
        seen = {
            "path": self.path,
            "id": self.headers["webhook-id"],
            "good": good,
            "said": said,
        }
        print(json.dumps(seen), flush=True)
        status = 200 if good else 401
        if self.path == "/busy" and busy:
            busy, status = False, 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Standard output is for what was received."""


def main() -> None:
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


main()
