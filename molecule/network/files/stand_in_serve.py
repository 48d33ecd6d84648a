"""Stand-in for Ray Serve: answers as its gateway and as a model, and says which proxy asked."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, PIECES, SECONDS_A_PIECE = 18000, 600, 0.2


class Handler(BaseHTTPRequestHandler):
    """GET is answered with the asking proxy's address, POST with a stream of two minutes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the address of who asks."""
        body = json.dumps({"status": "ok", "proxy": self.client_address[0].removeprefix("::ffff:")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Stream events, and end as a model does."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(PIECES):
            self._send(f'data: {{"piece": {number}}}\n\n')
            time.sleep(SECONDS_A_PIECE)
        self._send("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, event: str) -> None:
        self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing: the journal isn't asked."""


ThreadingHTTPServer(("", PORT), Handler).serve_forever()
