"""Machines by name: those that a policy lists, and the one on which a reference value was seen first."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest

from eaa.appraise import platforms
from eaa.appraise.appraisal import appraise
from eaa.appraise.platforms import (
    ID_SIZES,
    MAX_PINS,
    MAX_PINS_SIZE,
    Pin,
    PinKey,
    PlatformID,
    PlatformIDKind,
    PlatformPins,
    pin_of,
    platform_ids,
)
from eaa.appraise.policy import Policy
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import Accepted, Check, Rejected, Role
from eaa.collateral.intel import TCBStatus
from eaa.errors import Misuse, Reason
from eaa.verify.dcap import VerifiedQuote
from support.facts import MR_TD, NOW, OTHER_ROOT, ROOT, enclave_report, reference_value, td_report, verified

PPID: Final = bytes(range(16))
INSTANCE: Final = b"\x1a" * 16
HERE: Final = PlatformID(PlatformIDKind.PPID, PPID)
HERE_AS_INSTANCE: Final = PlatformID(PlatformIDKind.INSTANCE, INSTANCE)
ELSEWHERE: Final = PlatformID(PlatformIDKind.PPID, b"\x2b" * 16)
KEY: Final[PinKey] = (ROOT, Role.WORKLOAD, "app")
VALUES: Final = ReferenceValues((reference_value(), reference_value("domain", mr_enclave=None, mr_td=MR_TD)))


def here(**changes: Any) -> VerifiedQuote:
    """Facts of a machine that the Platform CA certifies."""
    return verified(**{"ppid": PPID, "platform_instance_id": INSTANCE, **changes})


def judge(facts: VerifiedQuote, policy: Policy | None = None, **more: Any) -> Accepted | Rejected:
    return appraise(facts, policy=policy or Policy(), reference_values=VALUES, role=Role.WORKLOAD, session=None, **more)


def failed(result: Accepted | Rejected) -> list[tuple[str, Reason]]:
    return [(check.name, check.reason) for check in result.checks if not check.passed]


def check_of(result: Accepted | Rejected, name: str) -> Check:
    return next(check for check in result.checks if check.name == name)


def pinned(*ids: PlatformID, key: PinKey = KEY, since: datetime = NOW) -> PlatformPins:
    return PlatformPins({key: Pin(ids=ids, since=since)})


# --- ids


@pytest.mark.parametrize("kind", PlatformIDKind)
def test_an_id_reads_back_in_lower_case(kind: PlatformIDKind) -> None:
    value = b"\xab" * ID_SIZES[kind]
    assert PlatformID.parse(f"{kind}:{value.hex().upper()}") == PlatformID(kind, value)
    assert str(PlatformID(kind, value)) == f"{kind}:{value.hex()}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' names no platform; it begins with one of ppid, instance, chip, and a colon"),
        ("1" * 32, f"{'1' * 32!r} names no platform"),
        ("ppid", "'ppid' is no ppid, which has 32 hex digits"),
        ("chip:" + "1" * 32, "is no chip, which has 128 hex digits"),
        ("ppid:" + "x" * 32, "is no ppid"),
        ("ppid:" + "٣" * 32, "is no ppid"),
        ("ppid:" + "0" * 32, "a ppid of zeros is what a machine shows that hides which one it is"),
        ("q" * 40, f"{'q' * 40!r} names"),
        ("q" * 41, f"{'q' * 40 + '…'!r} names"),
    ],
)
def test_what_is_no_id_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        PlatformID.parse(text)


def test_a_machine_has_the_ids_that_its_certificate_holds() -> None:
    assert platform_ids(here()) == (HERE, HERE_AS_INSTANCE)
    assert platform_ids(here(platform_instance_id=None)) == (HERE,)


def test_zeros_name_no_machine() -> None:
    assert platform_ids(here(ppid=bytes(16), platform_instance_id=bytes(16))) == ()


def test_an_id_is_no_part_of_what_is_shown_by_chance() -> None:
    assert PPID.hex() not in repr(HERE)
    assert repr(PPID) not in repr(HERE)


# --- a list of machines


@pytest.mark.parametrize(
    ("allowed", "passes"),
    [
        pytest.param((), True, id="any"),
        pytest.param((HERE,), True, id="by PPID"),
        pytest.param((HERE_AS_INSTANCE,), True, id="by instance"),
        pytest.param((ELSEWHERE, HERE), True, id="one of two"),
        pytest.param((ELSEWHERE,), False, id="another"),
        pytest.param((PlatformID(PlatformIDKind.INSTANCE, PPID),), False, id="the PPID as an instance"),
        pytest.param((PlatformID(PlatformIDKind.CHIP, PPID * 4),), False, id="a chip, which Intel has not"),
    ],
)
@pytest.mark.parametrize("body", [enclave_report(), td_report()], ids=["an enclave", "a domain"])
def test_only_a_machine_that_the_policy_lists_is_accepted(
    body: Any,
    allowed: tuple[PlatformID, ...],
    passes: bool,  # noqa: FBT001
) -> None:
    facts = replace(here(), quote=verified(body).quote)
    assert failed(judge(facts, Policy(platforms=allowed))) == (
        [] if passes else [("platform", Reason.PLATFORM_NOT_PINNED)]
    )


def test_what_the_check_of_a_listed_machine_says() -> None:
    check = check_of(judge(here(), Policy(platforms=(ELSEWHERE, HERE))), "platform")
    assert check.expected == f"ppid:{'2b' * 16} or ppid:{PPID.hex()}"
    assert check.actual == f"ppid:{PPID.hex()} instance:{INSTANCE.hex()}"
    assert check.clause == "policy platforms"
    assert "add it" in str(check.hint)


def test_a_machine_that_hides_is_none_of_those_listed() -> None:
    result = judge(here(ppid=bytes(16), platform_instance_id=None), Policy(platforms=(HERE,)))
    assert failed(result) == [("platform", Reason.PLATFORM_NOT_PINNED)]
    assert check_of(result, "platform").actual == "a machine that hides which one it is"


def test_without_a_list_nothing_about_machines_is_said() -> None:
    assert [check.name for check in judge(here()).checks if "platform" in check.name] == []


@pytest.mark.parametrize(("count", "end"), [(8, "08"), (9, " or 1 more"), (4000, " or 3992 more")])
def test_a_check_names_the_first_of_thousands_of_machines(count: int, end: str) -> None:
    listed = tuple(PlatformID(PlatformIDKind.PPID, number.to_bytes(16, "big")) for number in range(1, count + 1))
    expected = check_of(judge(here(), Policy(platforms=listed)), "platform").expected
    assert expected.endswith(end)
    assert expected.count("ppid:") == 8


def test_another_machine_explains_more_than_how_it_runs() -> None:
    """Whoever was diverted to a machine that is also out of date should hear of the diversion first."""
    result = judge(here(tcb_status=TCBStatus.OUT_OF_DATE), Policy(platforms=(ELSEWHERE,)), pins=pinned(ELSEWHERE))
    assert [name for name, _ in failed(result)] == ["platform", "pinned_platform", "tcb_status"]


# --- the machine that was seen first


@pytest.mark.parametrize(
    ("pins", "passes"),
    [
        pytest.param(PlatformPins(), True, id="the first"),
        pytest.param(pinned(HERE, HERE_AS_INSTANCE), True, id="the same"),
        pytest.param(pinned(HERE), True, id="the same, with an id more"),
        pytest.param(pinned(ELSEWHERE), False, id="another"),
        pytest.param(pinned(ELSEWHERE, HERE_AS_INSTANCE), False, id="another with the same instance"),
        pytest.param(
            pinned(HERE, PlatformID(PlatformIDKind.INSTANCE, bytes(15) + b"\1")), False, id="registered again"
        ),
        pytest.param(pinned(ELSEWHERE, key=(ROOT, Role.RELAY, "app")), True, id="another role's pin"),
        pytest.param(pinned(ELSEWHERE, key=(ROOT, Role.WORKLOAD, "domain")), True, id="another value's pin"),
        pytest.param(pinned(ELSEWHERE, key=(OTHER_ROOT, Role.WORKLOAD, "app")), True, id="another root's pin"),
    ],
)
def test_a_value_is_held_to_the_machine_where_it_was_seen_first(
    pins: PlatformPins,
    passes: bool,  # noqa: FBT001
) -> None:
    assert failed(judge(here(), pins=pins)) == ([] if passes else [("pinned_platform", Reason.PLATFORM_NOT_PINNED)])


def test_what_the_check_of_a_pinned_machine_says() -> None:
    check = check_of(judge(here(), pins=pinned(ELSEWHERE, HERE)), "pinned_platform")
    assert check.expected == f"ppid:{'2b' * 16} ppid:{PPID.hex()}, as seen first at 2026-11-23T12:00Z"
    assert check.actual == f"ppid:{PPID.hex()} instance:{INSTANCE.hex()}"
    assert check.clause == "the machine on which the reference value app was seen first"
    assert "remove its pin" in str(check.hint)


def test_what_the_check_of_a_first_machine_says() -> None:
    check = check_of(judge(here(), pins=PlatformPins()), "pinned_platform")
    assert check.expected == "any machine that its certificate names, for it is the first"


def test_a_machine_that_hides_cannot_be_the_first() -> None:
    """Nothing could hold it later."""
    result = judge(here(ppid=bytes(16), platform_instance_id=None), pins=PlatformPins())
    assert failed(result) == [("pinned_platform", Reason.PLATFORM_NOT_PINNED)]


def test_where_no_value_matches_there_is_no_pin_to_look_up() -> None:
    result = judge(here(trust_anchor=OTHER_ROOT), pins=PlatformPins())
    assert failed(result) == [("measurement", Reason.TRUST_ANCHOR_MISMATCH)]
    assert "pinned_platform" not in [check.name for check in result.checks]


def test_without_pins_there_is_no_such_check() -> None:
    assert "pinned_platform" not in [check.name for check in judge(here()).checks]


def test_a_pin_tells_the_time_in_utc_and_whole_seconds() -> None:
    at = datetime(2026, 11, 23, 14, 30, 15, 999, tzinfo=timezone(timedelta(hours=2)))
    assert pin_of(here(verified_at=at)) == Pin(
        ids=(HERE, HERE_AS_INSTANCE), since=datetime(2026, 11, 23, 12, 30, 15, tzinfo=UTC)
    )


# --- the state


def test_the_first_pin_stays() -> None:
    first, second = Pin(ids=(HERE,), since=NOW), Pin(ids=(ELSEWHERE,), since=NOW)
    pins = PlatformPins().with_first(KEY, first)
    assert pins.pins == {KEY: first}
    assert pins.with_first(KEY, second) is pins
    other = (ROOT, Role.RELAY, "app")
    assert pins.with_first(other, second).pins == {KEY: first, other: second}


def test_pins_read_back() -> None:
    chip = PlatformID(PlatformIDKind.CHIP, b"\x0c" * 64)
    pins = PlatformPins(
        {
            KEY: Pin(ids=(HERE, HERE_AS_INSTANCE), since=NOW),
            (OTHER_ROOT, Role.RELAY, "app"): Pin(ids=(chip,), since=NOW + timedelta(days=1)),
        }
    )
    assert PlatformPins.parse(pins.encode()) == pins
    assert PlatformPins.parse(PlatformPins().encode()) == PlatformPins()


def test_the_file_is_one_that_people_can_edit() -> None:
    assert json.loads(pinned(HERE).encode()) == {
        "format": "eaa-platform-pins-1",
        "pins": [
            {
                "role": "workload",
                "reference_value": "app",
                "trust_anchor": ROOT.hex(),
                "platform": [f"ppid:{PPID.hex()}"],
                "since": "2026-11-23T12:00:00Z",
            }
        ],
    }
    assert pinned(HERE).encode().endswith("}\n")
    assert '\n "pins"' in pinned(HERE).encode()


def spoiled(**changes: object) -> str:
    """The state with one pin in which this is changed; None leaves it out."""
    document = json.loads(pinned(HERE).encode())
    entry = document["pins"][0] | changes
    document["pins"] = [{name: value for name, value in entry.items() if value is not None}]
    return json.dumps(document)


def many(count: int) -> str:
    """A state with so many pins, all of different values."""
    document = json.loads(pinned(HERE).encode())
    document["pins"] = [document["pins"][0] | {"reference_value": f"v{number}"} for number in range(count)]
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "is not JSON", id="nothing"),
        pytest.param("[" * 100_000, "is not JSON", id="nested without end"),
        pytest.param("[]", "is none that this release wrote", id="a list"),
        pytest.param("{}", "is none that this release wrote", id="no format"),
        pytest.param(
            '{"format": "eaa-platform-pins-2", "pins": []}', "is none that this release wrote", id="another release's"
        ),
        pytest.param('{"format": "eaa-platform-pins-1", "pins": {}}', "holds no list of at most 4096 pins", id="a map"),
        pytest.param(many(MAX_PINS + 1), "holds no list of at most 4096 pins", id="too many"),
        pytest.param(" " * MAX_PINS_SIZE + "{", f"has {MAX_PINS_SIZE + 1} characters", id="too long"),
        pytest.param('{"format": "eaa-platform-pins-1", "pins": [1]}', "a pin that is none", id="no pin"),
        pytest.param(spoiled(role="king"), "a pin that is none", id="an unknown role"),
        pytest.param(spoiled(role=["workload"]), "a pin that is none", id="a list for a role"),
        pytest.param(spoiled(role=None), "a pin that is none", id="no role"),
        pytest.param(spoiled(comment="ours"), "a pin that is none", id="something else"),
        pytest.param(spoiled(trust_anchor="00"), "a pin that is none", id="a short anchor"),
        pytest.param(spoiled(trust_anchor=1), "a pin that is none", id="a number for an anchor"),
        pytest.param(spoiled(reference_value=1), "a pin that is none", id="a number for a name"),
        pytest.param(spoiled(platform=[]), "a pin that is none", id="a pin of no machine"),
        pytest.param(spoiled(platform=f"ppid:{PPID.hex()}"), "a pin that is none", id="no list of ids"),
        pytest.param(spoiled(platform=[1]), "a pin that is none", id="a number for an id"),
        pytest.param(spoiled(platform=["ppid:" + "0" * 32]), "a pin that is none", id="zeros"),
        pytest.param(spoiled(platform=[f"ppid:{PPID.hex()}"] * 9), "a pin that is none", id="too many ids"),
        pytest.param(spoiled(since="today"), "a pin that is none", id="no time"),
        pytest.param(spoiled(since=1), "a pin that is none", id="a number for a time"),
    ],
)
def test_pins_that_cannot_be_read_are_never_taken_for_none(text: str, told: str) -> None:
    with pytest.raises(Misuse) as caught:
        PlatformPins.parse(text)
    assert caught.value.reason is Reason.PLATFORM_PINS_INVALID
    assert told in caught.value.message


def test_one_value_pinned_twice_is_refused() -> None:
    """Which of the two should hold it?"""
    document = json.loads(pinned(HERE).encode())
    document["pins"] *= 2
    with pytest.raises(Misuse) as caught:
        PlatformPins.parse(json.dumps(document))
    assert caught.value.message.endswith("pins one reference value twice")


def test_as_much_as_is_allowed_is_read() -> None:
    assert len(PlatformPins.parse(many(MAX_PINS)).pins) == MAX_PINS
    text = spoiled(platform=[f"ppid:{PPID.hex()}"] * platforms.MAX_IDS)
    assert len(PlatformPins.parse(text.ljust(MAX_PINS_SIZE)).pins[KEY].ids) == platforms.MAX_IDS
