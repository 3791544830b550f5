"""Limits on the command line: each has a usual value, and none can be switched off by mistake."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from eaa.aio.limits import ServiceLimits
from eaa.program.limits import limits_options


def taken(*arguments: str) -> Any:
    seen: list[ServiceLimits] = []

    @click.command()
    @limits_options
    def command(*, limits: ServiceLimits) -> None:
        seen.append(limits)

    outcome = CliRunner().invoke(command, list(arguments))
    return seen[0] if seen else outcome.exit_code


def test_each_limit_is_an_option_with_its_usual_value() -> None:
    assert taken() == ServiceLimits()
    for field in dataclasses.fields(ServiceLimits):
        flag = "--" + field.name.replace("_", "-")
        assert getattr(taken(flag, "20000"), field.name) == 20000


def test_one_address_is_left_less_than_all_whatever_all_is() -> None:
    few = taken("--max-connections", "100", "--handshake-rate", "10", "--max-quotes", "8")
    assert (few.max_connections_per_address, few.handshake_rate_per_address, few.max_quotes_per_address) == (75, 3, 6)
    assert taken("--max-connections", "1", "--max-quotes", "1").max_connections_per_address == 1
    # Whoever serves a single proxy may say otherwise.
    assert taken("--max-connections", "10", "--max-connections-per-address", "10").max_connections_per_address == 10


def test_only_a_lifetime_may_be_without_an_end() -> None:
    assert taken("--max-lifetime", "0").max_lifetime is None
    for field in dataclasses.fields(ServiceLimits):
        flag = "--" + field.name.replace("_", "-")
        values = ["-1", "nan", "x"] + ([] if field.name == "max_lifetime" else ["0"])
        for value in values:
            assert taken(flag, value) == 2, (flag, value)


@pytest.mark.parametrize("value", ["inf", "1e400"])
def test_no_number_is_infinite(value: str) -> None:
    assert taken("--idle-timeout", value) == 2


def test_the_manual_lists_every_limit_with_its_usual_value() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "manual" / "operating.md").read_text(encoding="utf-8")
    section = page.partition("\n## Limits\n")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `--([a-z-]+)` \| (\d+) \|", section, re.MULTILINE))
    usual = ServiceLimits()
    assert listed == {
        field.name.replace("_", "-"): f"{getattr(usual, field.name):.0f}" for field in dataclasses.fields(usual)
    }
