"""Whatever a configuration file holds, it is read or refused."""

from __future__ import annotations

import contextlib

from hypothesis import example, given
from hypothesis import strategies as st

from eaa.errors import Misuse
from eaa.sources.qcnl import parse_qcnl

lines = st.text(st.sampled_from('{}[]",:=/*#\n TFPCSURL_0123456789abcdefghij<>\\'), max_size=60)


@given(text=st.text(max_size=80) | lines)
@example(text='{"pccs_url": "\\')
@example(text="/*")
@example(text='{"a":1}//')
def test_nothing_but_misuse_comes_of_it(text: str) -> None:
    with contextlib.suppress(Misuse):
        parse_qcnl(text, name="qcnl.conf")
