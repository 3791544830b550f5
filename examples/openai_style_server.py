"""A server of the chat API whose clients can see where it runs, before they say anything. It repeats what it is told.

Put your model behind `answer`. On a laptop, evidence comes from a software TEE; in a TEE, replace the attester. Needs
`pip install inclavare-eaa[http]`.

    eaa simulator create tee
    eaa simulator image tee/workload.sgxs
    python openai_style_server.py --simulator tee --enclave tee/workload.sgxs --port 8443
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from eaa.attesters.simulated import SimulatedAttester
from eaa.https import server_context, uvicorn_context_factory
from eaa.identity import Identity

MAX_BODY = 1024 * 1024


def answer(prompt: str) -> str:
    """Return what the model says."""
    return f"You said: {prompt}"


async def application(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Serve POST /v1/chat/completions, as ASGI has it."""
    body, more = b"", True
    while more and len(body) <= MAX_BODY:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    status, reply = 404, dict[str, Any]()
    if (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions") and len(body) <= MAX_BODY:
        prompt = json.loads(body)["messages"][-1]["content"]
        message = {"role": "assistant", "content": answer(prompt)}
        status, reply = 200, {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
    content = json.dumps(reply).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal."""
    identity = Identity(SimulatedAttester.open(options.simulator, image=options.enclave))
    factory = uvicorn_context_factory(server_context(identity))
    where = {"host": options.host, "port": options.port}
    await uvicorn.Server(uvicorn.Config(application, **where, ssl_context_factory=factory, lifespan="off")).serve()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Serve a chat API behind attested TLS.")
    parser.add_argument("--simulator", type=Path, required=True, help="the folder of a software TEE")
    parser.add_argument("--enclave", type=Path, required=True, help="the image to launch, its SIGSTRUCT beside it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
