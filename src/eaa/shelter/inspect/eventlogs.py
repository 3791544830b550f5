"""Event logs of a trust domain's boot."""

from __future__ import annotations

from typing import Final

from eaa.errors import MalformedInput
from eaa.evidence.eventlog import Event, EventLog, is_event_log
from eaa.shelter.inspect.result import Facts, Inspection

MAX_LISTED_EVENTS: Final = 4096
MAX_SAID: Final = 256
"""Characters of what an event says of itself."""


def inspect_event_log(raw: bytes) -> Inspection | None:
    """Explain an event log (CCEL)."""
    if not is_event_log(raw):
        return None
    try:
        log = EventLog.parse(raw)
    except MalformedInput as error:
        return Inspection(format="event-log", facts={"size": len(raw)}, problem=error)
    facts: Facts = {
        "events": len(log.events),
        "replayed": {f"rtmr{number}": register.hex() for number, register in enumerate(log.replay())},
        "log": [_event_facts(event) for event in log.events[:MAX_LISTED_EVENTS]],
    }
    return Inspection(format="event-log", facts=facts)


def _event_facts(event: Event) -> Facts:
    facts: Facts = {
        "register": "none" if event.rtmr is None else f"RTMR{event.rtmr}",
        "type": event.type_name,
        "digest": event.digest.hex(),
        "size": len(event.data),
        "digest_is_of_the_data": event.covers_data,
    }
    said = _text(event.data)
    return facts | ({"says": said} if said else {})


def _text(data: bytes) -> str | None:
    """Return what an event says, where that is text."""
    text = data[:MAX_SAID].rstrip(b"\0")
    return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() else None
