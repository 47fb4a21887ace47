"""A receiver of fieldpost's webhooks: checks the signature, and keeps of each rule the newest status.

Run it as ``python examples/receiver.py --port 8099 --secret-file secret``; it needs Python 3.11 and nothing else.
Behind a proxy that speaks HTTPS it may listen on loopback only, as it does here.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_BYTES_MAX = 16 << 20
AGE_S_MAX = 300  # of a request; an older one may have been recorded and is sent again by somebody else


def verify(secret: bytes, headers: Any, body: bytes, now: float) -> bool:
    """True when the request was signed with ``secret``, not long ago. ``headers`` is any map with lower-case names."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(now - int(timestamp)) > AGE_S_MAX:
        return False
    signed = hmac.new(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(signed).decode()
    given = headers.get("webhook-signature", "").split()  # several while a secret is being changed
    return any(hmac.compare_digest(wanted.encode(), each.encode()) for each in given)


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to what is signed and understood, 401 and 400 to all else."""

    secret = b""
    newest: dict[str, int] = {}  # noqa: RUF012 - version by rule and uid; a real receiver has a table
    timeout = 10

    def do_POST(self) -> None:
        """Take one event, or an array of them."""
        length = int(self.headers.get("content-length") or 0)
        if length > BODY_BYTES_MAX:
            return self._answer(413)
        body = self.rfile.read(length)
        if not verify(self.secret, self.headers, body, time.time()):
            return self._answer(401)
        try:
            found = json.loads(body)
            for event in found if isinstance(found, list) else [found]:
                self._take(event)
        except (ValueError, KeyError, TypeError):
            return self._answer(400)
        return self._answer(204)

    def _take(self, event: dict[str, Any]) -> None:
        """Told at least once, and by several controllers: what is not newer is passed over."""
        status = event["data"]
        rule = f"{event['subject']} {status['uid']}"
        if status["version"] > self.newest.get(rule, 0):
            self.newest[rule] = status["version"]
            sys.stdout.write(f"{event['subject']}: {status['success']} delivered, {status['fail']} failed\n")
            sys.stdout.flush()

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Receive fieldpost's webhooks.")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--secret-file", required=True)
    args = parser.parse_args()
    with open(args.secret_file, "rb") as file:
        Receiver.secret = file.read().strip()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Receiver)
    sys.stdout.write(f"listening on http://127.0.0.1:{server.server_port}/\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
