"""What passes between our programs and what configures Intel's: messages of the exchange, and qcnl.conf."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Final

from eaa.errors import Misuse, PeerMisbehaved
from eaa.protocol.messages import MAX_MESSAGE, FrameReader, Message
from eaa.shelter.inspect.result import Facts, Inspection
from eaa.sources.qcnl import MAX_QCNL_SIZE, parse_qcnl

_LENGTH_SIZE: Final = 4
_CBOR_MAPS: Final = range(0xA1, 0xB8)
"""How a map of CBOR with one to 23 members begins."""
_TYPE: Final = b"\x64type"
_WITH_KEYS: Final = ("get_cert_headers", "get_cert_params")
_MAX_SHOWN: Final = 64
"""Bytes that are shown whole; of more, their number."""
_QCNL: Final = re.compile(
    rb"(?i)\s*+(?:[{/#].*?\"(?:pccs_url|collateral_service)\"\s*+:|(?:#[^\n]*+\n\s*+)*+PCCS_URL\s*+=)", re.DOTALL
)


def inspect_messages(raw: bytes) -> Inspection | None:
    """Explain messages of the exchange, each behind its length, as they follow upon each other in one direction."""
    size = int.from_bytes(raw[:_LENGTH_SIZE], "big")
    body = raw[_LENGTH_SIZE : _LENGTH_SIZE + size]
    if not 0 < size <= MAX_MESSAGE or body[:1] == b"" or body[0] not in _CBOR_MAPS or _TYPE not in body:
        return None
    reader, found, problem = FrameReader(), list[Facts](), None
    try:
        reader.push(raw)
        while (message := reader.pull()) is not None:
            found.append(_message_facts(message))
    except PeerMisbehaved as error:
        problem = error
    return Inspection(format="messages", facts={"messages": found, "bytes_behind": reader.buffered}, problem=problem)


def _message_facts(message: Message) -> Facts:
    told = {item.name: _told(getattr(message, item.name)) for item in fields(message)}
    return {"type": type(message).__name__.lower()} | {name: value for name, value in told.items() if value is not None}


def _told(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= _MAX_SHOWN else f"{len(value)} bytes"
    label = getattr(value, "label", value)
    return label if label is None else str(label)


def inspect_qcnl(raw: bytes) -> Inspection | None:
    """Explain Intel's quote provider configuration, in either form; values of headers, often keys, are left out."""
    if len(raw) > MAX_QCNL_SIZE or not _QCNL.match(raw):
        return None
    try:
        found = parse_qcnl(raw.decode("utf-8-sig"), name="the file")
    except UnicodeDecodeError:
        return None
    except Misuse as error:
        return Inspection(format="qcnl", problem=error)
    facts: Facts = {item.name: getattr(found, item.name) for item in fields(found)}
    return Inspection(format="qcnl", facts=facts | {name: [key for key, _ in facts[name]] for name in _WITH_KEYS})
