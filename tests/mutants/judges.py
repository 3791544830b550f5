"""Two judges of one quote: this project, and dcap-qvl, which shares no line with it."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any, Final

from eaa.collateral.bundle import Collateral
from eaa.errors import EAAError, MalformedInput, Reason, VerificationError
from eaa.evidence.quote import Quote
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import VerifiedQuote, verify_quote

_WIDTHS: Final = {"misc_select": 4, "isv_prod_id": 2, "isv_svn": 2, "vmid": 1}
"""Bytes of what the other judge shows as a number."""
_SPELLINGS: Final = frozenset({"quote", "certification_path"})
"""Members of our facts that hold bytes as they were spelled; what they mean is compared apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """What is shown to both judges."""

    quote: bytes
    collateral: bytes
    """The collateral file."""
    root: bytes
    """DER."""
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What this project says: facts, or the error."""

    facts: VerifiedQuote | None = None
    error: EAAError | None = None

    @property
    def accepts(self) -> bool:
        """Whether there are facts."""
        return self.facts is not None

    @property
    def reason(self) -> Reason | None:
        """Why not, where there are none."""
        return None if self.error is None else self.error.reason

    @property
    def message(self) -> str:
        """The sentence of the error."""
        return "" if self.error is None else self.error.message

    def __str__(self) -> str:
        return f"accepted, {self.facts.tcb_status}" if self.facts else f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """What the other judge says: a report, or a message."""

    report: Mapping[str, Any] | None = None
    message: str = ""

    @property
    def accepts(self) -> bool:
        """Whether there is a report."""
        return self.report is not None

    def __str__(self) -> str:
        return f"accepted, {self.report['status']}" if self.report else self.message


def judge_ours(exhibit: Exhibit) -> Ours:
    """Ask this project. Anything but facts, MalformedInput or VerificationError is our bug, and is not caught."""
    anchors = TrustAnchors(frozenset({hashlib.sha256(exhibit.root).digest()}))
    try:
        facts = verify_quote(
            Quote.parse(exhibit.quote),
            Collateral.from_json(exhibit.collateral),
            trust_anchors=anchors,
            now=exhibit.now,
        )
    except (MalformedInput, VerificationError) as error:
        return Ours(error=error)
    return Ours(facts=facts)


class OtherJudge:
    """dcap-qvl in a process of its own: on some inputs it aborts the process, and at the end it may crash."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def judge(self, exhibit: Exhibit) -> Theirs:
        """Ask about one exhibit. An abort is a refusal."""
        self._pipe.send(exhibit)
        try:
            answer: Theirs = self._pipe.recv()
        except EOFError:
            self._process.join()
            self._start()
            return Theirs(message="the judge aborted its process")
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _answer(pipe: Connection) -> None:
    """Answer until the other end closes. Panics are not to be printed; the end of the interpreter is skipped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            exhibit = pipe.recv()
        except EOFError:
            os._exit(0)
        pipe.send(_judge_theirs(exhibit))


def _judge_theirs(exhibit: Exhibit) -> Theirs:
    dcap_qvl = importlib.import_module("dcap_qvl")
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(exhibit.collateral.decode())
        seconds = int(exhibit.now.timestamp())
        report = dcap_qvl.verify_with_root_ca(exhibit.quote, collateral, exhibit.root, seconds)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its answer
        return Theirs(message=" ".join(f"{type(error).__name__}: {error}".split()))
    return Theirs(report=json.loads(report.to_json()))


def meaning(facts: VerifiedQuote) -> dict[str, Any]:
    """Return everything that a policy can see of facts, however the bytes were spelled."""
    told = {item.name: getattr(facts, item.name) for item in fields(facts) if item.name not in _SPELLINGS}
    quote = facts.quote
    names = [name for name, _ in facts.certification_path]
    return told | {"body": quote.body, "header": quote.header, "qe": quote.qe_report, "path": names}


def agree(ours: VerifiedQuote, theirs: Mapping[str, Any]) -> bool:
    """Whether both establish the same: status, advisories, machine, and every byte of the report that was quoted."""
    advisories = {*ours.advisory_ids, *ours.launch_advisory_ids}
    return (
        theirs["status"] == ours.tcb_status
        and set(theirs["advisory_ids"]) == advisories
        and bytes.fromhex(theirs["ppid"]) == ours.ppid
        and body_of(theirs) == ours.quote.body.encode()
    )


def body_of(report: Mapping[str, Any]) -> bytes:
    """Return the bytes of the quoted report, put together from the other judge's fields."""
    (body,) = report["report"].values()
    return _flat(body)


def _flat(values: Mapping[str, Any]) -> bytes:
    parts = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            parts.append(_flat(value))
        elif isinstance(value, int):
            parts.append(value.to_bytes(_WIDTHS[name], "little"))
        else:
            parts.append(bytes.fromhex(value))
    return b"".join(parts)
