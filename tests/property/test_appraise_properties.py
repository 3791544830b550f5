"""Whatever was recorded reads back, and whatever a file held before stays in it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues, append_value
from eaa.appraise.result import Attests, Role
from eaa.errors import Misuse, Reason


def refusal(act: Callable[..., object], *arguments: object) -> Reason | None:
    """The reason for which this is refused, None where it is not; anything but Misuse is a fault of ours."""
    try:
        act(*arguments)
    except Misuse as error:
        return error.reason
    return None


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32)
longer = st.binary(min_size=48, max_size=48)
PINS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config", "mr_seam")


@st.composite
def values(draw: st.DrawFn) -> ReferenceValue:
    is_enclave = draw(st.booleans())
    return ReferenceValue(
        name=draw(names),
        role=draw(st.sampled_from(Role)),
        attests=draw(st.sampled_from(Attests)),
        trust_anchor=draw(digests),
        mr_enclave=draw(digests) if is_enclave else None,
        mr_td=None if is_enclave else draw(longer),
        mr_signer=draw(st.none() | digests),
        **({} if is_enclave else {name: draw(st.none() | longer) for name in PINS}),
    )


# What a comment may hold: TOML forbids the control characters in it.
comments = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\t"), max_size=40).map(
    lambda text: f"# {text}"
)


@given(st.lists(values(), max_size=6, unique_by=lambda value: value.name))
def test_every_value_added_reads_back_in_order(recorded: list[ReferenceValue]) -> None:
    text = ""
    for value in recorded:
        text = append_value(text, value)
    assert list(ReferenceValues.parse(text)) == recorded


@given(st.lists(values(), min_size=1, max_size=5, unique_by=lambda value: value.name), values(), st.data())
def test_replacing_one_value_leaves_the_others(
    recorded: list[ReferenceValue], new: ReferenceValue, data: st.DataObject
) -> None:
    text = ""
    remarks = []
    for value in recorded:
        remark = data.draw(comments)
        remarks.append(remark)
        text += f"{remark}\n{value.encode()}\n"
    updated = append_value(text, new, replace=True)
    expected = {value.name: value for value in recorded} | {new.name: new}
    assert {value.name: value for value in ReferenceValues.parse(updated)} == expected
    assert [line for line in updated.split("\n") if line.startswith("#")] == remarks


@given(
    st.lists(values(), min_size=1, max_size=3, unique_by=lambda value: value.name), st.binary(min_size=32, max_size=32)
)
def test_no_name_is_overwritten_unasked(recorded: list[ReferenceValue], anchor: bytes) -> None:
    text = "\n".join(value.encode() for value in recorded)
    again = ReferenceValue(
        name=recorded[0].name, role=Role.WORKLOAD, attests=Attests.PROCESS, trust_anchor=anchor, mr_enclave=anchor
    )
    assert refusal(append_value, text, again) is Reason.REFERENCE_VALUE_EXISTS


@given(st.text(max_size=200))
def test_any_text_is_a_reference_value_file_or_misuse(text: str) -> None:
    assert refusal(ReferenceValues.parse, text) in (None, Reason.REFERENCE_VALUES_INVALID)


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_misuse(text: str) -> None:
    assert refusal(PolicyFile.parse, text) in (None, Reason.POLICY_INVALID)


fields = st.sampled_from(
    [
        *("allowed_tcb_statuses", "minimum_evaluation_number", "collateral_grace_hours", "minimum_binding"),
        *("mr_enclaves", "mr_signers", "isv_prod_id", "minimum_isv_svn", "dangerous_accept_debug_enclaves"),
        *("trust_anchors", "dangerous_mix_trust_anchors", "workload", "relay", "client", "unknown"),
        *("status_grace_days", "allowed_advisories", "allowed_td_attributes", "crl_grace_hours", "refuse_smt", "rtmr0"),
    ]
)
toml_values = st.sampled_from(
    [
        "1",
        "-1",
        "true",
        "1.5",
        "'x'",
        "[]",
        "['UpToDate']",
        "{}",
        "{ isv_prod_id = 1 }",
        "1979-05-27",
        f"['{'0' * 64}']",
    ]
)


@given(st.dictionaries(fields, toml_values, max_size=5))
def test_any_value_of_any_field_is_a_policy_or_misuse(document: dict[str, str]) -> None:
    """No type of TOML, in no place, is anything but read or refused."""
    text = "".join(f"{name} = {value}\n" for name, value in document.items())
    assert refusal(PolicyFile.parse, text) in (None, Reason.POLICY_INVALID)
