"""Flags of the reference programs that mean something we do not do: refused by name, never ignored."""

from __future__ import annotations

from eaa.errors import Misuse, Reason


def refuse_debug_enclave(*, asked: bool) -> None:
    """Refuse `-D`. Raises Misuse."""
    if asked:
        raise Misuse(
            Reason.NOT_IMPLEMENTED_VALUE,
            "-D asks for an enclave under debug, whose memory its host can read",
            hint="leave it out; no verifier of ours would accept such an enclave",
        )


def refuse_endorsements(*, asked: bool) -> None:
    """Refuse `-e` where the certificate is not what a peer judges. Raises Misuse."""
    if asked:
        raise Misuse(
            Reason.NOT_IMPLEMENTED_VALUE,
            "-e puts endorsements into the certificate, which today's protocol does not read",
            hint="leave it out, or say --legacy where the peer is a C program",
        )


def refuse_verdictd(*, asked: bool) -> None:
    """Refuse `-E`. Raises Misuse."""
    if asked:
        raise Misuse(
            Reason.NOT_IMPLEMENTED_VALUE,
            "-E has a Verdictd server echo a text, which today's protocol does not know",
            hint="leave it out, or say --legacy where the peer is a Verdictd server",
        )
