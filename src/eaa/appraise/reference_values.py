"""Reference values (RFC 9334): the measurements an owner expects, in a TOML file people can edit.

One table a value, `[name]`. A value has a role, what accepted evidence would attest, the trust anchor under which it
was recorded, and a measurement. We append tables in a small subset of TOML and keep everything that was there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from eaa.appraise.result import Attests, Role
from eaa.appraise.tables import Table, load_toml
from eaa.errors import Misuse, Reason

MAX_VALUES: Final = 4096
_HEADER = re.compile(r'\s*\[\s*"?([^"\]]+?)"?\s*\]')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


_OF_ENCLAVES: Final = {"mr_signer": 32}
_OF_DOMAINS: Final = {
    **dict.fromkeys(("rtmr0", "rtmr1", "rtmr2", "rtmr3"), 48),
    **dict.fromkeys(("mr_config_id", "mr_owner", "mr_owner_config", "mr_seam"), 48),
}
DIGESTS: Final = {"mr_enclave": 32, "mr_td": 48, **_OF_ENCLAVES, **_OF_DOMAINS}
"""What of a report a value may hold, in the order in which it is written, and the bytes of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValue:
    """One expected measurement. Exactly one of `mr_enclave` (SGX) and `mr_td` (TDX) is set."""

    name: str
    """Letters, digits, _ and -, at most 64."""
    role: Role
    attests: Attests
    trust_anchor: bytes
    """SHA-256 of the DER of the root certificate under which it was recorded."""
    mr_enclave: bytes | None = None
    """32 bytes."""
    mr_td: bytes | None = None
    """48 bytes."""
    mr_signer: bytes | None = None
    """32 bytes; where set, the signer must match as well."""
    rtmr0: bytes | None = None
    """48 bytes, TDX; where it, or any of the following, is set, it must match as well."""
    rtmr1: bytes | None = None
    """48 bytes, TDX."""
    rtmr2: bytes | None = None
    """48 bytes, TDX."""
    rtmr3: bytes | None = None
    """48 bytes, TDX."""
    mr_config_id: bytes | None = None
    """48 bytes, TDX."""
    mr_owner: bytes | None = None
    """48 bytes, TDX."""
    mr_owner_config: bytes | None = None
    """48 bytes, TDX."""
    mr_seam: bytes | None = None
    """48 bytes, TDX: the module."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Misuse(
                Reason.REFERENCE_VALUES_INVALID,
                f"{self.name!r} is no name for a reference value",
                hint="use letters, digits, _ and -, starting with a letter or digit, at most 64",
            )
        if (self.mr_enclave is None) == (self.mr_td is None):
            raise Misuse(
                Reason.REFERENCE_VALUES_INVALID, f"reference value {self.name} needs mr_enclave or mr_td, and only one"
            )
        strangers = [name for name in _OF_DOMAINS if self.mr_td is None and getattr(self, name) is not None]
        if strangers:
            raise Misuse(
                Reason.REFERENCE_VALUES_INVALID,
                f"reference value {self.name} is of an enclave, which has no {strangers[0]}",
            )

    @property
    def measurement(self) -> bytes:
        """The one measurement this value holds."""
        measurement = self.mr_enclave or self.mr_td
        assert measurement is not None
        return measurement

    @property
    def pins(self) -> dict[str, bytes]:
        """What must match beside the measurement, by the name of the report's field."""
        return {name: digest for name in (*_OF_ENCLAVES, *_OF_DOMAINS) if (digest := getattr(self, name)) is not None}

    def encode(self) -> str:
        """Return this value as a TOML table."""
        lines = [f"[{self.name}]", f'role = "{self.role}"', f'attests = "{self.attests}"']
        lines.append(f'trust_anchor = "{self.trust_anchor.hex()}"')
        digests = {name: getattr(self, name) for name in DIGESTS}
        lines.extend(f'{name} = "{digest.hex()}"' for name, digest in digests.items() if digest is not None)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """The values of one file, in its order."""

    values: tuple[ReferenceValue, ...] = ()

    def __iter__(self) -> Iterator[ReferenceValue]:
        return iter(self.values)

    def of_role(self, role: Role) -> tuple[ReferenceValue, ...]:
        """Return the values with which evidence in this role is compared."""
        return tuple(value for value in self.values if value.role is role)

    @classmethod
    def parse(cls, text: str) -> ReferenceValues:
        """Parse a reference-value file. Raises Misuse (REFERENCE_VALUES_INVALID)."""
        document = load_toml(text, what="the reference-value file", reason=Reason.REFERENCE_VALUES_INVALID)
        if len(document) > MAX_VALUES:
            raise Misuse(
                Reason.REFERENCE_VALUES_INVALID,
                f"the reference-value file holds {len(document)} values, the limit is {MAX_VALUES}",
            )
        return cls(tuple(_value_from(name, table) for name, table in document.items()))


def append_value(text: str, value: ReferenceValue, *, replace: bool = False) -> str:
    """Return the file's text with this value added at its end, or in the place of the one it replaces.

    The rest stays as it is, comments included.

    Raises:
        Misuse: REFERENCE_VALUE_EXISTS when the name is taken and `replace` is not asked for.
    """
    before = ReferenceValues.parse(text)
    others = [existing for existing in before if existing.name != value.name]
    if len(others) == len(before.values):
        kept = text.rstrip("\n")
        updated = (kept + "\n\n" if kept else "") + value.encode()
    elif replace:
        updated = _with_table_replaced(text, value)
    else:
        raise Misuse(
            Reason.REFERENCE_VALUE_EXISTS,
            f"a reference value named {value.name} is there already",
            hint="choose another name, or say --replace",
        )
    _require_reads_back(updated, [*others, value])
    return updated


def _require_reads_back(text: str, meant: list[ReferenceValue]) -> None:
    """Refuse a text that does not hold exactly what was meant; the file then stays as it was."""
    written = {value.name: value for value in ReferenceValues.parse(text)}
    if written != {value.name: value for value in meant}:
        raise Misuse(
            Reason.REFERENCE_VALUES_INVALID,
            f"the table of {meant[-1].name} cannot be written in this file's form",
            hint="edit the file by hand",
        )


def _with_table_replaced(text: str, value: ReferenceValue) -> str:
    """Put the value in the place of `[name]` and its fields. What follows its last field belongs to the next table."""
    kept: list[str] = []
    pending: list[str] = []
    inside = False
    for line in re.split(r"(?<=\n)", text):
        header = _HEADER.match(line)
        if header:
            kept += pending
            pending = []
            inside = header[1] == value.name
        if header and inside:
            kept.append(value.encode())
        elif not inside:
            kept.append(line)
        elif _is_field(line):
            pending = []
        else:
            pending.append(line)
    return "".join(kept + pending)


def _is_field(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _value_from(name: str, values: object) -> ReferenceValue:
    where = f"reference value {name}"
    if not isinstance(values, dict):
        raise Misuse(Reason.REFERENCE_VALUES_INVALID, f"{where} is not a table; write [{name}] and its fields below it")
    table = Table(values, where=where, reason=Reason.REFERENCE_VALUES_INVALID)
    role = table.one_of("role", Role, list(Role))
    attests = table.one_of("attests", Attests, list(Attests))
    anchor = table.take("trust_anchor", str)
    if role is None or attests is None or anchor is None:
        raise table.wrong(
            "role, attests and trust_anchor are all needed", hint="`shelter record` writes complete values"
        )
    digests = {
        field: table.digest(text, field, size)
        for field, size in DIGESTS.items()
        if (text := table.take(field, str)) is not None
    }
    table.finish()
    return ReferenceValue(
        name=name, role=role, attests=attests, trust_anchor=table.digest(anchor, "trust_anchor", 32), **digests
    )
