"""Whatever JSON comes, parts of it are found as they were written."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eaa.pccs.verbatim import compact, elements, members

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"separators": (" , ", " : ")},
        {"indent": "\t"},
        {"ensure_ascii": False, "separators": (", ", ": ")},
    ]
)


@given(document=st.dictionaries(st.text(max_size=6), values, max_size=5), layout=layouts)
def test_every_member_is_found_as_it_was_written(document: dict[str, Any], layout: dict[str, Any]) -> None:
    text = json.dumps(document, **layout)
    found = {name: json.loads(text[begin:end]) for name, (begin, end) in members(text).items()}
    assert found == document


@given(document=st.lists(values, max_size=5), layout=layouts)
def test_every_element_begins_where_it_is_said_to(document: list[Any], layout: dict[str, Any]) -> None:
    text = json.dumps(document, **layout)
    decoder = json.JSONDecoder()
    assert [decoder.raw_decode(text, at)[0] for at in elements(text, 0)] == document


@given(document=values, layout=layouts)
def test_a_compacted_text_says_the_same_without_spaces(document: Any, layout: dict[str, Any]) -> None:
    text = json.dumps(document, **layout)
    assert json.loads(compact(text)) == document
    assert compact(text) == json.dumps(
        document, separators=(",", ":"), ensure_ascii=bool(layout.get("ensure_ascii", True))
    )
