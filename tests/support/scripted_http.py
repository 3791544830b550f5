"""A real HTTP server that answers as it is told: what a client meets on a bad day."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOLD = 60.0
"""Seconds for which a reply is held at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    announces: int | None = None
    """A Content-Length other than the body's."""
    stalls: float = 0
    """Seconds before the body."""
    held: threading.Event | None = None
    """What has to happen before the body is sent."""
    trickles: float = 0
    """Seconds between its bytes."""
    hangs_up: bool = False
    """Close the connection in place of an answer."""


@dataclass(slots=True)
class Script:
    """What is answered, by path without its query; the last reply of a path is repeated."""

    replies: dict[str, Sequence[Reply]]
    url: str = ""
    requests: list[str] = field(default_factory=list)
    """The targets that were asked for, in order."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def next_reply(self, target: str) -> Reply:
        path = target.partition("?")[0]
        earlier = sum(request.partition("?")[0] == path for request in self.requests)
        self.requests.append(target)
        choices = self.replies.get(path, (Reply(status=404, body=b"No cache data for this platform."),))
        return choices[min(earlier, len(choices) - 1)]


@contextmanager
def scripted(replies: dict[str, Sequence[Reply]], *, tls: tuple[Path, Path] | None = None) -> Iterator[Script]:
    """Serve these replies on a free port of the loopback."""
    script = Script(dict(replies))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            script.bodies.append(self.rfile.read(int(self.headers.get("content-length", "0"))))
            reply = script.next_reply(self.path)
            if reply.hangs_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            length = len(reply.body) if reply.announces is None else reply.announces
            self.send_header("Content-Length", str(length))
            self.end_headers()
            time.sleep(reply.stalls)
            if reply.held is not None:
                reply.held.wait(HOLD)
            if reply.trickles:
                for index in range(len(reply.body)):
                    time.sleep(reply.trickles)
                    self.wfile.write(reply.body[index : index + 1])
            else:
                self.wfile.write(reply.body)
            self.close_connection = length != len(reply.body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815  the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients that give up are what is being tested."""

    server = Server(("127.0.0.1", 0), Handler)
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    script.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
