r"""Ask a language model, but only one that runs where you expect it to.

The server speaks the chat API that many model servers have (POST /v1/chat/completions). The prompt is sent after its
evidence was accepted, inside the TLS handshake, and to nobody else. Needs `pip install inclavare-eaa[http]`.

    python openai_style_client.py --reference-values reference-values.toml --collateral collateral.json \
        https://node1:8443/v1 "What is in this contract?"

The library of that API takes the same context: `openai.OpenAI(base_url=…, http_client=httpx.Client(verify=context))`.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import BindingLevel
from eaa.errors import EAAError, Reason
from eaa.https import AttestationFailed, client_context, refusal_of
from eaa.sources.files import FileSource
from eaa.sources.pccs import PCCSSource
from eaa.verifier import INTEL, TrustAnchors, Verifier

PATIENCE = 30.0
"""Seconds that collateral may take to arrive."""


class ChatClient:
    """A chat API behind attested TLS. Nothing is sent to a server whose evidence is not accepted."""

    def __init__(self, base_url: str, context: ssl.SSLContext) -> None:
        # Proxies of the environment would end the connection; they could not attest, and would be refused.
        self._http = httpx.Client(base_url=base_url, verify=context, timeout=60, trust_env=False)

    def ask(self, prompt: str, *, model: str) -> str:
        """Return the answer. Raises AttestationFailed where the server, or this client, was refused."""
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.post("chat/completions", json=body).raise_for_status().json()
            except httpx.TransportError as error:
                refusal = refusal_of(error)
                if refusal is None:
                    raise
                # A handshake waits for no network. What it lacked is being fetched, so try again.
                if refusal.reason is not Reason.COLLATERAL_PENDING or time.monotonic() > deadline:
                    raise refusal from error
                time.sleep(0.2)
            else:
                content: str = answer["choices"][0]["message"]["content"]
                return content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def explain(refusal: AttestationFailed) -> None:
    """Say on stderr what was wrong with the server."""
    print(f"refused: {refusal.reason}: {refusal.error.message}", file=sys.stderr)
    for check in refusal.failed_checks:
        print(f"  {check.name}: expected {check.expected}, it is {check.actual} ({check.clause})", file=sys.stderr)
    if refusal.hint:
        print(f"  hint: {refusal.hint}", file=sys.stderr)


def open_verifier(options: argparse.Namespace) -> Verifier:
    """Return who judges the server."""
    return Verifier(
        FileSource(options.collateral) if options.collateral else PCCSSource(options.pccs),
        trust_anchors=TrustAnchors.from_pem(options.trust_anchor.read_bytes()) if options.trust_anchor else INTEL,
        # Evidence in a certificate is bound to the server's key; it can do no better than that.
        policy=PolicyFile(default=Policy(minimum_binding=BindingLevel.CERT)),
        reference_values=ReferenceValues.parse(options.reference_values.read_text(encoding="utf-8")),
    )


def parse_options(arguments: list[str] | None) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ask a language model whose server has to prove where it runs.")
    parser.add_argument("url", help="where the API begins, https://HOST:PORT/v1")
    parser.add_argument("prompt")
    parser.add_argument("--model", default="default")
    parser.add_argument("--reference-values", type=Path, required=True, help="the measurements you expect, TOML")
    parser.add_argument("--trust-anchor", type=Path, help="roots to believe instead of Intel's, PEM")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--collateral", type=Path, help="a collateral file")
    source.add_argument("--pccs", help="the address of a PCCS, https://HOST:PORT")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Ask once. Exit codes are those of all programs here: 0 answered, 1 rejected, others in docs/manual/verdict.md."""
    options = parse_options(arguments)
    client = None
    try:
        client = ChatClient(options.url, client_context(open_verifier(options)))
        print(client.ask(options.prompt, model=options.model))
    except AttestationFailed as refusal:
        explain(refusal)
        return refusal.error.exit_code
    except EAAError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except httpx.HTTPError as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    finally:
        if client is not None:
            client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
