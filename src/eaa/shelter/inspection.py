"""`shelter inspect`: say what a file is and what it says. Nothing is judged, and junk is told from a fault of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from eaa.errors import MalformedInput, Misuse, Reason
from eaa.program.files import MAX_INPUT, read_bytes
from eaa.program.output import json_option, print_json, print_record
from eaa.program.run import say
from eaa.shelter.inspect.binaries import inspect_image, inspect_sigstruct, inspect_snp_report, unknown_executable
from eaa.shelter.inspect.documents import inspect_crl, inspect_document
from eaa.shelter.inspect.eventlogs import inspect_event_log
from eaa.shelter.inspect.pem import from_base64, from_hex
from eaa.shelter.inspect.quotes import inspect_quote
from eaa.shelter.inspect.ratls import inspect_certificate
from eaa.shelter.inspect.result import Inspection, Inspector, printable
from eaa.shelter.inspect.tagged import inspect_tagged
from eaa.shelter.inspect.uploads import inspect_upload
from eaa.shelter.inspect.wire import inspect_messages, inspect_qcnl

NOTHING_WAS_JUDGED: Final = "nothing was judged: this is what the file says, whoever wrote it"
_JUDGES: Final = {
    "quote": "`shelter verify` judges a quote",
    "event-log": "`shelter verify QUOTE --event-log FILE` compares it with the registers of a quote",
    "qcnl": "`shelter doctor` tries it",
    "sigstruct": "`shelter mrverify` compares it with an image",
}
# From what is recognised by a long constant to what is recognised by less.
_INSPECTORS: Final[tuple[Inspector, ...]] = (
    inspect_sigstruct,
    inspect_quote,
    inspect_event_log,
    inspect_tagged,
    inspect_snp_report,
    inspect_document,
    inspect_upload,
    inspect_certificate,
    inspect_crl,
    inspect_messages,
    inspect_qcnl,
    inspect_image,
)


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@json_option
def inspect_command(*, file: Path, as_json: bool) -> int:
    """Explain a FILE without judging it; - reads standard input.

    Quotes, RA-TLS and other certificates, the evidence and endorsements inside them, collateral, Intel's
    platform_collaterals.json, TCB Info, QE identities, CRLs, event logs, SIGSTRUCTs and enclave images; messages of the
    exchange, and sgx_default_qcnl.conf.
    """
    try:
        inspection = inspect(_read(file))
    except MalformedInput as error:
        if not as_json:
            raise
        inspection = Inspection(format="unknown", problem=error)
    _print(inspection, as_json=as_json)
    return 0 if inspection.problem is None else inspection.problem.exit_code


def inspect(raw: bytes) -> Inspection:
    """Explain a file's bytes.

    Raises:
        MalformedInput: UNKNOWN_FORMAT, where they are nothing that is known here.
    """
    found = _first_inspection(raw)
    for encoding, decode in (("hex digits", from_hex), ("base64", from_base64)):
        if found is None and (decoded := decode(raw)) is not None:
            found = _first_inspection(decoded)
            found = found and replace(found, facts={"encoding": encoding, **found.facts})
    if found is None:
        raise unknown_executable(raw) or _unknown(raw)
    return replace(found, facts=printable(found.facts))


def _first_inspection(raw: bytes) -> Inspection | None:
    return next((found for inspector in _INSPECTORS if (found := inspector(raw)) is not None), None)


def _read(file: Path) -> bytes:
    if str(file) != "-":
        return read_bytes(file, what="the file")
    try:
        with open(0, "rb", closefd=False) as stream:
            raw = stream.read(MAX_INPUT + 1)
    except OSError as error:
        raise Misuse(Reason.FILE_UNREADABLE, f"standard input cannot be read: {error.strerror}") from error
    if len(raw) > MAX_INPUT:
        raise Misuse(Reason.FILE_UNREADABLE, f"standard input has more than {MAX_INPUT} bytes")
    return raw


def _unknown(raw: bytes) -> MalformedInput:
    looks = f"{len(raw)} bytes that begin with {raw[:16].hex()}" if raw else "no bytes at all"
    return MalformedInput(
        Reason.UNKNOWN_FORMAT,
        f"the file is nothing that is known here: {looks}",
        hint="known are quotes, certificates, collateral, TCB Info, identities, CRLs, event logs, SIGSTRUCTs, images",
    )


def _print(inspection: Inspection, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(inspection))
        return
    print_record({"format": inspection.format, **inspection.facts})
    click.echo(f"{NOTHING_WAS_JUDGED[:1].upper()}{NOTHING_WAS_JUDGED[1:]}.")
    if inspection.problem is not None:
        problem = inspection.problem
        say("shelter", f"the rest of it cannot be read: {problem.message} [{problem.reason}]", hint=problem.hint)
    elif inspection.format in _JUDGES:
        say("shelter", _JUDGES[inspection.format], kind="hint")


def _document(inspection: Inspection) -> dict[str, Any]:
    problem = inspection.problem
    return {
        "format": inspection.format,
        "judged": False,
        "facts": inspection.facts,
        "reason": None if problem is None else problem.reason.value,
        "message": NOTHING_WAS_JUDGED if problem is None else problem.message,
        "hint": _JUDGES.get(inspection.format) if problem is None else problem.hint,
    }
