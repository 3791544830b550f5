"""The event log of a trust domain's boot (CCEL): what was measured into its run-time registers, event by event.

The log is the word of whoever hands it over. It counts where replaying it gives the registers of a quote that was
verified, and then only its digests count: what an event says of itself is covered only where its own hash is a digest.

Source: TCG PC Client Platform Firmware Profile, "Event Logging"; UEFI, "Confidential Computing", CCEL; Intel TDX
Virtual Firmware Design Guide, "Measurement".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from eaa.errors import MalformedInput, Reason
from eaa.evidence.layout import Reader

MAX_EVENT_LOG_SIZE: Final = 8 * 1024 * 1024
"""Bytes; firmware sets aside 64 KiB to 1 MiB."""
MAX_EVENTS: Final = 65_536
MAX_ALGORITHMS: Final = 16
MAX_EVENT_DATA: Final = 1024 * 1024
"""Bytes of what one event says of itself."""

RTMRS: Final = 4
RTMR_SIZE: Final = 48
EV_NO_ACTION: Final = 3
"""An event that measured nothing."""
_SHA384: Final = 0x000C
_SIGNATURE: Final = b"Spec ID Event03\0"
_LEGACY_HEADER_SIZE: Final = 32
"""Bytes of the first event, which is in the format of TCG 1.2, before its own size is told: u32, u32, SHA-1, u32."""
_MR_TD: Final = 0
"""The register index of MRTD. The TDX module computes it; RTMR0 to RTMR3 are 1 to 4."""

_EVENT_TYPES: Final[Mapping[int, str]] = {
    0x0: "EV_PREBOOT_CERT",
    0x1: "EV_POST_CODE",
    EV_NO_ACTION: "EV_NO_ACTION",
    0x4: "EV_SEPARATOR",
    0x5: "EV_ACTION",
    0x6: "EV_EVENT_TAG",
    0x7: "EV_S_CRTM_CONTENTS",
    0x8: "EV_S_CRTM_VERSION",
    0xA: "EV_PLATFORM_CONFIG_FLAGS",
    0xD: "EV_IPL",
    0xE: "EV_IPL_PARTITION_DATA",
    0x12: "EV_NONHOST_INFO",
    0x13: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event."""

    register: int
    """0 for MRTD, 1 to 4 for RTMR0 to RTMR3."""
    event_type: int
    digest: bytes
    """48 bytes, SHA-384, as it was extended into the register."""
    data: bytes
    """What the event says of itself; nothing vouches for it unless `covers_data`."""

    @property
    def type_name(self) -> str:
        """The TCG's name of its type, or its number."""
        return _EVENT_TYPES.get(self.event_type, f"{self.event_type:#x}")

    @property
    def rtmr(self) -> int | None:
        """Which of RTMR0 to RTMR3 it was measured into; None where it was measured into none of them."""
        return None if self.event_type == EV_NO_ACTION or self.register == _MR_TD else self.register - 1

    @property
    def covers_data(self) -> bool:
        """Whether the digest is that of the very data, so that a replay vouches for the data too."""
        return self.rtmr is not None and hashlib.sha384(self.data).digest() == self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A whole log, untrusted."""

    events: tuple[Event, ...]
    """In the log's order, without the header."""

    @classmethod
    def parse(cls, raw: bytes) -> EventLog:
        """Parse a log as firmware leaves it, with what fills the rest of its memory.

        Raises:
            MalformedInput: EVENT_LOG_MALFORMED.
        """
        if len(raw) > MAX_EVENT_LOG_SIZE:
            raise _malformed(f"the event log has {len(raw)} bytes, the limit is {MAX_EVENT_LOG_SIZE}")
        reader = Reader(raw, what="the event log", reason=Reason.EVENT_LOG_MALFORMED)
        sizes = _parse_header(reader)
        events: list[Event] = []
        fill = len(raw) - _end_of_content(raw)
        while reader.remaining > fill:
            if len(events) == MAX_EVENTS:
                raise _malformed(f"the event log has more than {MAX_EVENTS} events")
            events.append(_parse_event(reader, sizes))
        return cls(events=tuple(events))

    def replay(self) -> tuple[bytes, ...]:
        """Return RTMR0 to RTMR3 as these events make them, 48 bytes each, from zero."""
        registers = [bytes(RTMR_SIZE)] * RTMRS
        for event in self.events:
            if event.rtmr is not None:
                registers[event.rtmr] = hashlib.sha384(registers[event.rtmr] + event.digest).digest()
        return tuple(registers)


def is_event_log(raw: bytes) -> bool:
    """Whether these bytes begin as an event log does; there may be anything behind."""
    return raw[_LEGACY_HEADER_SIZE : _LEGACY_HEADER_SIZE + len(_SIGNATURE)] == _SIGNATURE


def _parse_header(reader: Reader) -> dict[int, int]:
    """Take the first event, and return the sizes of the digests that all others have, by TCG algorithm id."""
    reader.take(4, "the first event's register")
    if reader.uint(4, "the first event's type") != EV_NO_ACTION:
        raise _malformed("the event log does not begin with its specification's name")
    reader.take(20, "the first event's digest")
    content = Reader(
        reader.sized(4, MAX_EVENT_DATA, "the first event"),
        what="the first event",
        reason=Reason.EVENT_LOG_MALFORMED,
    )
    if content.take(len(_SIGNATURE), "the specification's name") != _SIGNATURE:
        # An older log has SHA-1 only, which no register of a trust domain is made of.
        raise _malformed("the event log is not of the form that allows several digests (Spec ID Event03)")
    content.take(8, "platform class and versions")
    sizes: dict[int, int] = {}
    count = content.uint(4, "the number of algorithms")
    if not 1 <= count <= MAX_ALGORITHMS:
        raise _malformed(f"the event log names {count} algorithms, 1 to {MAX_ALGORITHMS} are allowed")
    for _ in range(count):
        algorithm, size = content.uint(2, "an algorithm"), content.uint(2, "its size")
        if algorithm in sizes:
            raise _malformed(f"the event log names the algorithm {algorithm:#x} twice")
        sizes[algorithm] = size
    content.sized(1, 255, "the vendor's information")
    content.end()
    if sizes.get(_SHA384) != RTMR_SIZE:
        raise _malformed("the event log has no SHA-384 digests, of which the registers are made")
    return sizes


def _parse_event(reader: Reader, sizes: Mapping[int, int]) -> Event:
    register, event_type = reader.uint(4, "an event's register"), reader.uint(4, "an event's type")
    if register > RTMRS:
        raise _malformed(f"the event log measures into the register {register}, a trust domain has 0 to {RTMRS}")
    count = reader.uint(4, "the number of digests")
    if count > len(sizes):
        raise _malformed(f"an event has {count} digests, the log has {len(sizes)} algorithms")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.uint(2, "a digest's algorithm")
        if algorithm not in sizes or algorithm in digests:
            raise _malformed(f"an event has a digest of {algorithm:#x}, twice or of an algorithm that is not the log's")
        digests[algorithm] = reader.take(sizes[algorithm], "a digest")
    if _SHA384 not in digests:
        raise _malformed("an event has no SHA-384 digest")
    return Event(
        register=register,
        event_type=event_type,
        digest=digests[_SHA384],
        data=reader.sized(4, MAX_EVENT_DATA, "an event's data"),
    )


def _end_of_content(raw: bytes) -> int:
    """Return where there is nothing but what firmware fills unused memory with; the last event may end behind it."""
    return len(raw.rstrip(b"\xff" if raw.endswith(b"\xff") else b"\0"))


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(
        Reason.EVENT_LOG_MALFORMED,
        message,
        hint="take the log from /sys/firmware/acpi/tables/data/CCEL of the domain, as it is",
    )
