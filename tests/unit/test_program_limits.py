"""Limits on the command line: each has a usual value, and none can be switched off by mistake."""

from __future__ import annotations

import dataclasses
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
