"""Machines by name: the ids that single one out, those that a policy lists, and those that were seen first.

A measurement says what runs, never where. Whoever diverts a connection to another genuine machine with the same
measurement, or has extracted the quoting key of one, is stopped by nothing but naming the machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from eaa.appraise.result import Check, Role, new_check
from eaa.errors import Misuse, Reason
from eaa.verify.dcap import VerifiedQuote

MAX_PINS_SIZE: Final = 4 * 1024 * 1024
"""Characters of the file."""
MAX_PINS: Final = 4096
"""As many as there are reference values."""
MAX_IDS: Final = 8
"""Of one machine."""
ANCHOR_SIZE: Final = 32
"""Bytes of a trust anchor's fingerprint."""
MAX_LISTED: Final = 8
"""Machines that one check names."""
_FORMAT: Final = "eaa-platform-pins-1"
_FIELDS: Final = {"role", "reference_value", "trust_anchor", "platform", "since"}
_HEX: Final = re.compile(r"[0-9a-fA-F]+", re.ASCII)


class PlatformIDKind(StrEnum):
    """Which id of a machine, as it is written before the colon."""

    PPID = "ppid"
    """Intel: the platform provisioning id in the PCK certificate. It stays for the life of the processor."""
    INSTANCE = "instance"
    """Intel: the platform instance id, of the Platform CA only. A new registration of the machine has another one."""
    CHIP = "chip"
    """AMD: CHIP_ID of a report of SEV-SNP."""


ID_SIZES: Final = {PlatformIDKind.PPID: 16, PlatformIDKind.INSTANCE: 16, PlatformIDKind.CHIP: 64}
"""Bytes of each kind."""


@dataclass(frozen=True, slots=True, order=True)
class PlatformID:
    """One id of one machine."""

    kind: PlatformIDKind
    value: bytes = field(repr=False)
    """As many bytes as ID_SIZES says, not all of them zero."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value.hex()}"

    @classmethod
    def parse(cls, text: str) -> PlatformID:
        """Return the id written as `ppid:`, `instance:` or `chip:` and hex digits. ValueError for anything else."""
        word, _, digits = text.partition(":")
        sizes = {kind.value: size for kind, size in ID_SIZES.items()}
        if word not in sizes:
            raise ValueError(f"{_shown(text)} names no platform; it begins with one of {', '.join(sizes)}, and a colon")
        size = sizes[word]
        if len(digits) != size * 2 or not _HEX.fullmatch(digits):
            raise ValueError(f"{_shown(text)} is no {word}, which has {size * 2} hex digits")
        value = bytes.fromhex(digits)
        if value == bytes(size):
            raise ValueError(f"a {word} of zeros is what a machine shows that hides which one it is")
        return cls(PlatformIDKind(word), value)


def platform_ids(verified: VerifiedQuote) -> tuple[PlatformID, ...]:
    """Return the ids by which verified evidence names its machine; zeros name none."""
    shown = {PlatformIDKind.PPID: verified.ppid, PlatformIDKind.INSTANCE: verified.platform_instance_id}
    return tuple(PlatformID(kind, value) for kind, value in shown.items() if value is not None and any(value))


# --- a list of machines


def allowed_platform_check(verified: VerifiedQuote, allowed: tuple[PlatformID, ...]) -> Check:
    """Return the check that evidence is of one of these machines, of which there is at least one."""
    ids = platform_ids(verified)
    more = [f"{len(allowed) - MAX_LISTED} more"] if len(allowed) > MAX_LISTED else []
    return new_check(
        name="platform",
        passed=any(one in allowed for one in ids),
        reason=Reason.PLATFORM_NOT_PINNED,
        expected=" or ".join([*map(str, allowed[:MAX_LISTED]), *more]),
        actual=_listed(ids),
        clause="policy platforms",
        hint="another machine than those you named: find out who sends you there, or add it if it is yours",
    )


# --- the machine that was seen first

PinKey = tuple[bytes, Role, str]
"""A trust anchor, 32 bytes, a role, and the name of a reference value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The machine on which a reference value was first seen."""

    ids: tuple[PlatformID, ...]
    """At least one."""
    since: datetime
    """UTC, whole seconds."""


@dataclass(frozen=True, slots=True)
class PlatformPins:
    """The machines seen first, by what was seen there. A pin never changes; its owner may remove it."""

    pins: Mapping[PinKey, Pin] = field(default_factory=dict)

    def with_first(self, key: PinKey, pin: Pin) -> PlatformPins:
        """Return these and one more; themselves, where there is a pin for this key already."""
        return self if key in self.pins else PlatformPins({**self.pins, key: pin})

    @classmethod
    def parse(cls, text: str) -> PlatformPins:
        """Parse the state file that `encode` wrote. Raises Misuse (PLATFORM_PINS_INVALID)."""
        if len(text) > MAX_PINS_SIZE:
            raise _invalid(f"has {len(text)} characters, the limit is {MAX_PINS_SIZE}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _invalid("is not JSON") from error
        if not isinstance(document, dict) or document.keys() != {"format", "pins"} or document["format"] != _FORMAT:
            raise _invalid("is none that this release wrote")
        entries = document["pins"]
        if not isinstance(entries, list) or len(entries) > MAX_PINS:
            raise _invalid(f"holds no list of at most {MAX_PINS} pins")
        pins = dict(_entry(entry) for entry in entries)
        if len(pins) != len(entries):
            raise _invalid("pins one reference value twice")
        return cls(pins)

    def encode(self) -> str:
        """Return the state file, JSON with a final newline."""
        pins = [
            {
                "role": role.value,
                "reference_value": name,
                "trust_anchor": anchor.hex(),
                "platform": [str(one) for one in pin.ids],
                "since": f"{pin.since:%Y-%m-%dT%H:%M:%SZ}",
            }
            for (anchor, role, name), pin in sorted(self.pins.items(), key=lambda item: item[0])
        ]
        return json.dumps({"format": _FORMAT, "pins": pins}, indent=1) + "\n"


class PinKeeper(Protocol):
    """Who keeps pins between one verification and the next, and between programs."""

    def read(self) -> PlatformPins:
        """Return the pins. Raises EAAError where they cannot be read."""
        ...

    def pin(self, key: PinKey, pin: Pin) -> PlatformPins:
        """Keep this pin unless there is one for that key by now; return what holds. Raises EAAError."""
        ...


def pin_of(verified: VerifiedQuote) -> Pin:
    """Return the pin that would hold this machine."""
    return Pin(ids=platform_ids(verified), since=verified.verified_at.astimezone(UTC).replace(microsecond=0))


def pinned_platform_check(verified: VerifiedQuote, pins: PlatformPins, key: PinKey) -> Check:
    """Return the check that a reference value is seen on the machine where it was seen first."""
    ids = platform_ids(verified)
    pin = pins.pins.get(key)
    return new_check(
        name="pinned_platform",
        # Every id that was recorded must be there again: a new registration of a machine has new keys.
        passed=bool(ids) if pin is None else set(pin.ids) <= set(ids),
        reason=Reason.PLATFORM_NOT_PINNED,
        expected="any machine that its certificate names, for it is the first"
        if pin is None
        else f"{_listed(pin.ids)}, as seen first at {pin.since:%Y-%m-%dT%H:%MZ}",
        actual=_listed(ids),
        clause=f"the machine on which the reference value {key[2]} was seen first",
        hint="another machine: find out who sends you there; if you moved it, remove its pin from the file",
    )


def _listed(ids: tuple[PlatformID, ...]) -> str:
    return " ".join(map(str, ids)) or "a machine that hides which one it is"


def _entry(entry: Any) -> tuple[PinKey, Pin]:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise _invalid("holds a pin that is none")
    name, texts = entry["reference_value"], entry["platform"]
    # A pin without an id would hold any machine.
    if not isinstance(name, str) or not isinstance(texts, list) or not 1 <= len(texts) <= MAX_IDS:
        raise _invalid("holds a pin that is none")
    try:
        anchor, role = bytes.fromhex(entry["trust_anchor"]), Role(entry["role"])
        ids = tuple(PlatformID.parse(text) for text in texts)
        since = datetime.strptime(entry["since"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (AttributeError, TypeError, ValueError) as error:
        raise _invalid("holds a pin that is none") from error
    if len(anchor) != ANCHOR_SIZE:
        raise _invalid("holds a pin that is none")
    return (anchor, role, name), Pin(ids=ids, since=since)


def _invalid(what: str) -> Misuse:
    return Misuse(
        Reason.PLATFORM_PINS_INVALID,
        f"the platform-pin file {what}",
        hint="name the file that this option wrote; removing it forgets every machine that was seen",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
