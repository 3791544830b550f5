"""The floor below evaluation numbers: the highest number of each kind of document that was ever seen, and only rises.

Intel issues collateral again with every recovery of its TCB, under a higher tcbEvaluationDataNumber, while what was
issued before stays validly signed until its nextUpdate. Who serves the older document makes an outdated platform look
current. A verifier that has seen the higher number refuses the lower one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from eaa.errors import Misuse, Reason
from eaa.verify.dcap import VerifiedQuote

MAX_FLOOR_SIZE: Final = 256 * 1024
"""Characters of the file."""
MAX_FLOORS: Final = 1024
"""Four for each trust anchor."""
MAX_NUMBER: Final = (1 << 32) - 1
_FORMAT: Final = "eaa-evaluation-floor-1"

FloorKey = tuple[bytes, str]
"""A trust anchor, 32 bytes, and one of the kinds of document: `sgx-tcb-info`, `tdx-qe-identity` and so on."""


def evaluation_numbers(verified: VerifiedQuote) -> dict[FloorKey, int]:
    """Return the evaluation numbers of the two documents that these facts rest on."""
    tee = verified.tee.name.lower()
    return {
        (verified.trust_anchor, f"{tee}-tcb-info"): verified.tcb_info_evaluation_number,
        (verified.trust_anchor, f"{tee}-qe-identity"): verified.qe_identity_evaluation_number,
    }


@dataclass(frozen=True, slots=True)
class EvaluationFloor:
    """The highest evaluation number seen, by trust anchor and kind of document."""

    numbers: Mapping[FloorKey, int] = field(default_factory=dict)

    def raised_by(self, numbers: Mapping[FloorKey, int]) -> EvaluationFloor:
        """Return the floor after these numbers were seen; itself, where none of them is higher."""
        higher = {
            key: number for key, number in numbers.items() if key not in self.numbers or number > self.numbers[key]
        }
        return EvaluationFloor({**self.numbers, **higher}) if higher else self

    @classmethod
    def parse(cls, text: str) -> EvaluationFloor:
        """Parse the state file that `encode` wrote. Raises Misuse (EVALUATION_FLOOR_INVALID)."""
        if len(text) > MAX_FLOOR_SIZE:
            raise _invalid(f"has {len(text)} characters, the limit is {MAX_FLOOR_SIZE}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _invalid("is not JSON") from error
        if not isinstance(document, dict) or document.keys() != {"format", "floors"} or document["format"] != _FORMAT:
            raise _invalid("is none that this release wrote")
        floors = document["floors"]
        if not isinstance(floors, list) or len(floors) > MAX_FLOORS:
            raise _invalid(f"holds no list of at most {MAX_FLOORS} numbers")
        numbers = dict(_entry(entry) for entry in floors)
        if len(numbers) != len(floors):
            raise _invalid("names a document twice")
        return cls(numbers)

    def encode(self) -> str:
        """Return the state file, JSON with a final newline."""
        floors = [
            {"trust_anchor": anchor.hex(), "document": document, "number": number}
            for (anchor, document), number in sorted(self.numbers.items())
        ]
        return json.dumps({"format": _FORMAT, "floors": floors}, indent=1) + "\n"


class FloorKeeper(Protocol):
    """Who keeps a floor between one verification and the next, and between programs."""

    def raise_to(self, numbers: Mapping[FloorKey, int]) -> EvaluationFloor:
        """Raise the floor to these numbers where they are higher, and return it. Raises EAAError where it cannot."""
        ...


def _entry(entry: Any) -> tuple[FloorKey, int]:
    try:
        anchor, document, number = bytes.fromhex(entry["trust_anchor"]), entry["document"], entry["number"]
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid("holds an entry that is none") from error
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_NUMBER
    if len(anchor) != 32 or not isinstance(document, str) or not is_number:
        raise _invalid("holds an entry that is none")
    return (anchor, document), number


def _invalid(what: str) -> Misuse:
    return Misuse(
        Reason.EVALUATION_FLOOR_INVALID,
        f"the evaluation-floor file {what}",
        hint="name the file that this option wrote; removing it forgets every number that was seen",
    )
