"""Reference values: a file people edit, read strictly, and added to without touching what is there."""

from __future__ import annotations

from typing import Any

import pytest

from eaa.appraise.reference_values import MAX_VALUES, ReferenceValue, ReferenceValues, append_value
from eaa.appraise.result import Attests, Role
from eaa.errors import Misuse, Reason
from support.facts import MR_ENCLAVE, MR_SIGNER, MR_TD, OTHER_ROOT, ROOT, reference_value

PINS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config", "mr_seam")

FIELDS = {
    "role": '"workload"',
    "attests": '"process"',
    "trust_anchor": f'"{ROOT.hex()}"',
    "mr_enclave": f'"{MR_ENCLAVE.hex()}"',
}


def pinned() -> ReferenceValue:
    """A value of a domain that pins whatever can be pinned."""
    pins: dict[str, Any] = dict.fromkeys(PINS, MR_TD)
    return reference_value(mr_enclave=None, mr_td=MR_TD, **pins)


def table(name: str = "app", **changes: str | None) -> str:
    """A value as people write it; None leaves a field out."""
    fields = {field: value for field, value in (FIELDS | changes).items() if value is not None}
    return f"[{name}]\n" + "".join(f"{field} = {value}\n" for field, value in fields.items())


def names_in(text: str) -> list[str]:
    return [value.name for value in ReferenceValues.parse(text)]


# --- reading


def test_a_value_is_what_its_table_says() -> None:
    (value,) = ReferenceValues.parse(table(mr_signer=f'"{MR_SIGNER.hex()}"'))
    assert value == reference_value(mr_signer=MR_SIGNER)
    assert value.measurement == MR_ENCLAVE


def test_a_trust_domain_is_recorded_by_its_mrtd() -> None:
    (value,) = ReferenceValues.parse(table(mr_enclave=None, mr_td=f'"{MR_TD.hex()}"', attests='"platform"'))
    assert (value.measurement, value.mr_enclave, value.attests) == (MR_TD, None, Attests.PLATFORM)


def test_values_are_asked_for_by_role() -> None:
    values = ReferenceValues.parse(table("a") + table("b", role='"relay"') + table("c"))
    assert [value.name for value in values.of_role(Role.WORKLOAD)] == ["a", "c"]
    assert [value.name for value in values.of_role(Role.RELAY)] == ["b"]
    assert values.of_role(Role.CLIENT) == ()


@pytest.mark.parametrize("text", ["", "# none yet\n"])
def test_a_file_without_values_is_no_mistake(text: str) -> None:
    """It matches nothing; a program that needs a value says so when it starts."""
    assert tuple(ReferenceValues.parse(text)) == ()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(table(role=None), id="no role"),
        pytest.param(table(attests=None), id="no attests"),
        pytest.param(table(trust_anchor=None), id="no trust anchor"),
        pytest.param(table(mr_enclave=None), id="no measurement"),
        pytest.param(table(mr_td=f'"{MR_TD.hex()}"'), id="two measurements"),
        pytest.param(table(role='"server"'), id="unknown role"),
        pytest.param(table(role='"Workload"'), id="role in another spelling"),
        pytest.param(table(attests='"machine"'), id="attests something unknown"),
        pytest.param(table(trust_anchor='"intel"'), id="a trust anchor by name"),
        pytest.param(table(mr_enclave='"01"'), id="short measurement"),
        pytest.param(table(mr_enclave=f'"{MR_TD.hex()}"'), id="MRTD in the place of MRENCLAVE"),
        pytest.param(table(mr_signer='"zz"'), id="signer that is no hex"),
        pytest.param(table(rtmr0=f'"{MR_TD.hex()}"'), id="an enclave with a domain's register"),
        pytest.param(table(mr_enclave=None, mr_td=f'"{MR_TD.hex()}"', rtmr1='"00"'), id="a short register"),
        pytest.param(table(mr_enclave=None, mr_td=f'"{MR_TD.hex()}"', rtmr4=f'"{MR_TD.hex()}"'), id="a fifth register"),
        pytest.param(table(mr_enclave="1"), id="measurement that is no text"),
        pytest.param(table(comment='"mine"'), id="unknown field"),
        pytest.param(table("a b".join('""')), id="a space in the name"),
        pytest.param(table('"-a"'), id="a name that begins with a hyphen"),
        pytest.param(table("a" * 65), id="too long a name"),
        pytest.param(table("a.b"), id="a table in a table"),
        pytest.param(table() + table(), id="a name twice"),
        pytest.param("app = 1\n", id="a value that is no table"),
        pytest.param("[app\n", id="no TOML"),
        pytest.param("# " + "x" * (1 << 20), id="too long"),
    ],
)
def test_a_mistake_in_the_file_is_refused(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        ReferenceValues.parse(text)
    assert caught.value.reason is Reason.REFERENCE_VALUES_INVALID


def test_the_number_of_values_has_an_end() -> None:
    with pytest.raises(Misuse) as caught:
        ReferenceValues.parse("".join(f"[v{number}]\n" for number in range(MAX_VALUES + 1)))
    assert caught.value.reason is Reason.REFERENCE_VALUES_INVALID


@pytest.mark.parametrize(
    "changes",
    [{"name": "with space"}, {"name": ""}, {"name": "ü"}, {"mr_enclave": None}, {"mr_td": MR_TD}, {"mr_seam": MR_TD}],
)
def test_no_value_can_be_made_that_no_file_could_hold(changes: dict[str, Any]) -> None:
    with pytest.raises(Misuse) as caught:
        reference_value(**changes)
    assert caught.value.reason is Reason.REFERENCE_VALUES_INVALID


# --- adding


@pytest.mark.parametrize(
    "value",
    [
        reference_value(),
        reference_value(role=Role.RELAY, attests=Attests.PLATFORM, trust_anchor=OTHER_ROOT),
        reference_value(mr_signer=MR_SIGNER),
        reference_value(mr_enclave=None, mr_td=MR_TD),
        pinned(),
        reference_value("0-digits_first"),
    ],
)
def test_what_is_added_reads_back_as_it_was_meant(value: ReferenceValue) -> None:
    assert tuple(ReferenceValues.parse(append_value("", value))) == (value,)


HANDWRITTEN = f"""\
# Measurements of the web shop.
# Asked for by the auditors.

{table("old")}
    # The node's relay, built in May.
{table("relay", role="'relay'", attests="'platform'")}# The end.
"""


def test_everything_that_was_there_stays() -> None:
    updated = append_value(HANDWRITTEN, reference_value("new"))
    assert updated.startswith(HANDWRITTEN)
    assert names_in(updated) == ["old", "relay", "new"]


def test_a_file_without_a_final_newline_is_added_to() -> None:
    updated = append_value(table("old").rstrip("\n"), reference_value("new"))
    assert names_in(updated) == ["old", "new"]


def test_a_file_with_other_line_ends_is_added_to() -> None:
    updated = append_value(table("old").replace("\n", "\r\n"), reference_value("new"))
    assert names_in(updated) == ["old", "new"]


def test_a_name_is_never_overwritten_unless_asked_for() -> None:
    with pytest.raises(Misuse) as caught:
        append_value(HANDWRITTEN, reference_value("old", mr_enclave=bytes(32)))
    assert caught.value.reason is Reason.REFERENCE_VALUE_EXISTS


@pytest.mark.parametrize("name", ["old", "relay"])
def test_replacing_changes_one_table_and_keeps_the_words_of_the_others(name: str) -> None:
    value = reference_value(name, mr_enclave=bytes(32))
    updated = append_value(HANDWRITTEN, value, replace=True)
    assert names_in(updated) == ["old", "relay"]
    assert value in tuple(ReferenceValues.parse(updated))
    other = {"old": "relay", "relay": "old"}[name]
    unchanged = [line for line in HANDWRITTEN.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in updated.splitlines() if line.lstrip().startswith("#")] == unchanged
    assert next(v for v in ReferenceValues.parse(updated) if v.name == other) == next(
        v for v in ReferenceValues.parse(HANDWRITTEN) if v.name == other
    )


def test_replacing_a_name_that_is_free_adds_it() -> None:
    assert names_in(append_value(HANDWRITTEN, reference_value("new"), replace=True)) == ["old", "relay", "new"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "app = { " + ", ".join(f"{field} = {value}" for field, value in FIELDS.items()) + " }\n",
            id="an inline table",
        ),
        pytest.param(table("'app'"), id="a name in other quotes"),
    ],
)
def test_a_form_that_cannot_be_replaced_is_refused_and_kept(text: str) -> None:
    """Better a refusal than a file that says something else than its owner wrote."""
    assert names_in(text) == ["app"]
    with pytest.raises(Misuse) as caught:
        append_value(text, reference_value(mr_enclave=bytes(32)), replace=True)
    assert caught.value.reason is Reason.REFERENCE_VALUES_INVALID


def test_a_broken_file_is_not_added_to() -> None:
    with pytest.raises(Misuse) as caught:
        append_value("[app\n", reference_value())
    assert caught.value.reason is Reason.REFERENCE_VALUES_INVALID
