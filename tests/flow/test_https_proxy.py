"""Through a proxy that only tunnels, which sees no more of it than a cable does."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
import requests
import urllib3

from eaa.errors import Reason
from eaa.https import AttestedContext, client_context, refusal_of, requests_adapter, server_context
from support.https_peers import ANSWER, serving
from support.https_world import identity, verifier

PROMPT = b"a prompt that is nobody else's business"


class Proxy(socketserver.ThreadingTCPServer):
    """Answers CONNECT, then carries bytes and keeps them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.carried = b""
        self.asked: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Tunnel(socketserver.StreamRequestHandler):
    """One connection."""

    rbufsize = 0
    server: Proxy

    def handle(self) -> None:
        asked = self.rfile.readline()
        while self.rfile.readline() != b"\r\n":
            pass
        self.server.asked.append(asked)
        host, _, port = asked.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self.carry, args=(there, self.connection))
            back.start()
            self.carry(self.connection, there)
            back.join()

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.server.carried += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy that runs."""
    with Proxy() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _httpx(url: str, proxy: str, context: AttestedContext) -> bytes:
    with httpx.Client(verify=context, proxy=proxy, timeout=30, trust_env=False) as client:
        return client.post(url, content=PROMPT).content


def _urllib3(url: str, proxy: str, context: AttestedContext) -> bytes:
    with urllib3.ProxyManager(proxy, ssl_context=context, assert_hostname=False, retries=False) as pool:
        return pool.request("POST", url, body=PROMPT, timeout=30).data


def _requests(url: str, proxy: str, context: AttestedContext) -> bytes:
    with requests.Session() as session:
        session.mount("https://", requests_adapter(context))
        return session.post(url, data=PROMPT, timeout=30, proxies={"https": proxy}).content


@pytest.mark.parametrize("ask", [_httpx, _urllib3, _requests])
def test_a_tunnel_changes_nothing(ask: Callable[[str, str, AttestedContext], bytes], proxy: Proxy) -> None:
    with serving("uvicorn-asyncio", server_context(identity("workload"))) as good:
        assert ask(good.url, proxy.url, client_context(verifier())) == ANSWER
        assert good.app.heard == [PROMPT]
    with serving("uvicorn-asyncio", server_context(identity("impostor"))) as bad:
        with pytest.raises(Exception) as refused:  # noqa: PT011  each library has its own
            ask(bad.url, proxy.url, client_context(verifier()))
        assert bad.app.heard == []
    refusal = refusal_of(refused.value)
    assert refusal is not None
    assert refusal.reason is Reason.MEASUREMENT_MISMATCH
    assert len(proxy.asked) == 2
    assert PROMPT not in proxy.carried
