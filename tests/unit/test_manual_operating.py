"""The manual's page on operating says what the programs do: every key that it shows, every default that it names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import click
import pytest

from eaa.inclavared.cli import cli as inclavared
from eaa.inclavared.wish import FIELDS, Fixed
from eaa.pccs.serving import serve as eaa_pccs_serve
from eaa.program.config import ConfiguredCommand, configurable
from eaa.workload.cli import cli as enclave_tls_server

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "manual" / "operating.md").read_text()


def test_the_example_holds_keys_that_there_are() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    document = tomllib.loads(example)
    workloads = document.pop("workload")
    assert set(document) <= set(configurable(inclavared))
    assert {key.replace("-", "_") for table in workloads.values() for key in table} <= set(FIELDS)


def test_every_field_of_a_workload_is_explained_with_its_flag() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (?:`(--[a-z-]+) [^`]*`)? ?\| ", PAGE, re.MULTILINE)
    assert tuple(name.replace("-", "_") for name, _ in rows) == FIELDS
    known = {opt for option in inclavared.params for opt in option.opts}
    assert {flag for _, flag in rows if flag} <= known


def test_the_defaults_are_those_of_the_program() -> None:
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| ([a-z0-9]+) \|", PAGE, re.MULTILINE))
    options = configurable(inclavared)
    assert {"warm-channels", "judgement-lifetime", "on-bad-verdict", "max-connections"} <= set(rows)
    for name, default in rows.items():
        shown = options[name].default
        if shown is None:
            # A share of another limit, which `options[name].show_default` says in words.
            assert isinstance(options[name].show_default, str), name
            continue
        assert default == (str(shown) if isinstance(shown, str) else f"{shown:g}"), name


def test_what_needs_a_restart_is_named() -> None:
    named = PAGE.partition("What only a restart can change")[2].partition("\n\n")[0].replace("\n", " ")
    words = {"doors": "addresses", "attesting": "the attester"}
    for field in Fixed.__dataclass_fields__:
        assert words.get(field, field.replace("_", "-")) in named, field


@pytest.mark.parametrize("command", [inclavared, enclave_tls_server, eaa_pccs_serve], ids=lambda command: command.name)
def test_each_program_that_is_said_to_have_a_file_has_one(command: click.Command) -> None:
    assert isinstance(command, ConfiguredCommand)


def test_signals_are_told_for_what_they_do() -> None:
    grace = next(option for option in inclavared.params if option.name == "grace")
    assert f"within `--grace` seconds (usually {grace.default:g})" in PAGE
