"""The report while the search runs: served to this machine alone, under an address that nobody can guess.

The server binds to loopback. A request must name the token in its path and this server in its Host header: another page that is
open in the browser knows no token, and a name that somebody made lead to 127.0.0.1 (DNS rebinding) is not this server's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")


class LiveServer:
    """Serves a page on a free port of its own, in the background. A context manager; ``address`` is what to open."""

    def __init__(self, text: str) -> None:
        self.show(text)
        self.token = secrets.token_urlsafe(24)
        self._server = ThreadingHTTPServer((LOOPBACK, 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.address = f"http://{LOOPBACK}:{self.port}/{self.token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def show(self, text: str) -> None:
        """The page from now on; its mark differs with it."""
        body = text.encode()
        self.page = body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    def __enter__(self) -> LiveServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "report", ""
    timeout = 30  # seconds in which a request has to arrive

    def __init__(self, live: LiveServer, *rest: Any) -> None:
        self._live = live
        super().__init__(*rest)

    def do_GET(self) -> None:
        if self.headers.get_all("Host") not in [[f"{name}:{self._live.port}"] for name in NAMES]:
            return self._answer(HTTPStatus.FORBIDDEN, b"ask this server by its own address\n")
        asked = urlsplit(self.path).path.encode()
        if not hmac.compare_digest(asked, f"/{self._live.token}/".encode()):
            return self._answer(HTTPStatus.NOT_FOUND, b"nothing here\n")
        body, mark = self._live.page
        if self.headers.get("If-None-Match") == mark:
            return self._answer(HTTPStatus.NOT_MODIFIED, b"", mark)
        return self._answer(HTTPStatus.OK, body, mark, kind="text/html")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, body: bytes, mark: str = "", kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        if mark:
            self.send_header("ETag", mark)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal belongs to the command."""
