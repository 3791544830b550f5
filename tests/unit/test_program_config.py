"""A configuration file beside the flags: the same names, flags win, and nothing in it is ever ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from eaa.errors import EAAError, Misuse, Reason
from eaa.program.address import ADDRESS, parse_address
from eaa.program.config import (
    ConfiguredCommand,
    check_config_option,
    config_tables,
    configurable,
    is_reading_again,
    print_plan,
    reader_again,
)


class Heard:
    """What the command under test was called with, most recent last."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []
        self.again: Callable[[], Any] = lambda: None


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def command(heard: Heard) -> click.Command:
    @click.command(cls=ConfiguredCommand, tables=("workload",))
    @click.option("-l", "--listen", type=ADDRESS)
    @click.option("--reference-values", type=click.Path(path_type=Path))
    @click.option("--trust-anchor", "trust_anchors", type=click.Path(path_type=Path), multiple=True)
    @click.option("--mutual", is_flag=True)
    @click.option("--epoch", type=click.IntRange(10, 3600), default=300)
    @click.option("--grace", type=click.FloatRange(0, 60), default=5.0)
    @click.option("--level", type=click.Choice(["cert", "fresh"]), default="fresh")
    @check_config_option
    def cli(**options: Any) -> dict[str, Any]:
        heard.calls.append(options)
        heard.tables.append(dict(config_tables().of("workload")))
        if not is_reading_again():
            heard.again = reader_again()
        return options

    return cli


@pytest.fixture
def given(command: click.Command, heard: Heard, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Call the command with a file of this text; return its options."""

    def call(text: str, *arguments: str) -> dict[str, Any]:
        file = tmp_path / "relay.toml"
        file.write_text(text)
        result = CliRunner().invoke(command, ["--config", str(file), *arguments], catch_exceptions=True)
        if isinstance(result.exception, EAAError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return heard.calls[-1]

    return call


def test_every_kind_of_option_comes_from_the_file(given: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    options = given(
        """
        listen = "tcp://127.0.0.1:1236"
        reference-values = "values.toml"
        trust-anchor = ["/etc/one.pem", "two.pem"]
        mutual = true
        epoch = 60
        grace = 2.5
        level = "cert"
        """
    )
    assert options == {
        "listen": parse_address("tcp://127.0.0.1:1236"),
        # Relative to the file, wherever the program was started; an absolute path is what it is.
        "reference_values": tmp_path / "values.toml",
        "trust_anchors": (Path("/etc/one.pem"), tmp_path / "two.pem"),
        "mutual": True,
        "epoch": 60,
        "grace": 2.5,
        "level": "cert",
        "check_config": False,
    }


def test_flags_win_over_the_file(given: Callable[..., dict[str, Any]]) -> None:
    options = given('epoch = 60\nlevel = "cert"\ntrust_anchor = "one.pem"', "--epoch", "30", "--trust-anchor", "x.pem")
    assert (options["epoch"], options["level"], options["trust_anchors"]) == (30, "cert", (Path("x.pem"),))


def test_a_name_may_be_spelled_with_underscores_and_one_value_needs_no_list(
    given: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    options = given('reference_values = "v.toml"\ntrust_anchor = "one.pem"')
    assert (options["reference_values"], options["trust_anchors"]) == (tmp_path / "v.toml", (tmp_path / "one.pem",))


def test_tables_are_the_programs_own(given: Callable[..., dict[str, Any]], heard: Heard) -> None:
    given('[workload.web]\naddress = "tcp://127.0.0.1:1"\n[workload.db]\naddress = "unix:///run/db"')
    assert heard.tables == [{"web": {"address": "tcp://127.0.0.1:1"}, "db": {"address": "unix:///run/db"}}]


@pytest.mark.parametrize(
    "text",
    [
        'lisen = "tcp://127.0.0.1:1"',
        "mutual = 1",
        'mutual = "yes"',
        'epoch = "60"',
        "epoch = true",
        "epoch = 1.5",
        "epoch = 5",
        "listen = 1236",
        'level = "strong"',
        'level = ["cert"]',
        "trust-anchor = [1]",
        'reference-values = "a"\nreference_values = "b"',
        'config = "other.toml"',
        "check-config = true",
        "help = true",
        "workload = 1",
        'workload.web = "tcp://127.0.0.1:1"',
        "epoch = ",
        'mutual = true\n"l" = "tcp://127.0.0.1:1"',
    ],
)
def test_a_bad_file_is_refused_whole(given: Callable[..., dict[str, Any]], heard: Heard, text: str) -> None:
    with pytest.raises(Misuse) as caught:
        given(text)
    assert caught.value.reason is Reason.CONFIG_INVALID
    assert heard.calls == []


def test_a_bad_address_has_its_own_reason(given: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Misuse) as caught:
        given('listen = "http://example.org"')
    assert caught.value.reason is Reason.ADDRESS_INVALID


def test_a_misspelled_name_is_told_the_one_that_was_meant(given: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Misuse) as caught:
        given('refrence_values = "a"')
    assert caught.value.hint == "did you mean reference-values?"


def test_a_file_that_is_not_there_is_a_mistake(command: click.Command) -> None:
    result = CliRunner().invoke(command, ["--config", "/nonexistent/relay.toml"])
    assert isinstance(result.exception, Misuse)
    assert result.exception.reason is Reason.FILE_UNREADABLE


def test_a_file_may_give_every_option_but_those_of_a_command_line(command: click.Command) -> None:
    assert set(configurable(command)) == {
        *("listen", "reference-values", "trust-anchor", "mutual", "epoch", "grace", "level"),
    }


# --- reading again


def test_the_file_is_read_again_with_the_same_flags(
    given: Callable[..., dict[str, Any]], heard: Heard, tmp_path: Path
) -> None:
    given("epoch = 60\ngrace = 1", "--grace", "7")
    (tmp_path / "relay.toml").write_text('epoch = 90\ngrace = 2\nlevel = "cert"')
    again = heard.again()
    assert (again["epoch"], again["grace"], again["level"]) == (90, 7.0, "cert")
    assert len(heard.calls) == 2


@pytest.mark.parametrize(("text", "reason"), [("epoch = 5", Reason.CONFIG_INVALID), ("[[", Reason.CONFIG_INVALID)])
def test_a_file_that_has_gone_bad_calls_nothing(
    given: Callable[..., dict[str, Any]], heard: Heard, tmp_path: Path, text: str, reason: Reason
) -> None:
    given("epoch = 60")
    (tmp_path / "relay.toml").write_text(text)
    with pytest.raises(Misuse) as caught:
        heard.again()
    assert caught.value.reason is reason
    assert len(heard.calls) == 1


# --- what would run


def test_a_plan_is_printed_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"listen": ["tcp://127.0.0.1:1"], "workloads": {"web": {"address": "a", "policy": None}}, "warm": 2}
    print_plan(plan, as_json=True)
    assert json.loads(capsys.readouterr().out) == plan
    print_plan(plan, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "The configuration is valid.",
        *("  listen: tcp://127.0.0.1:1", "  workloads:", "    web:", "      address: a", "      policy: -"),
        "  warm: 2",
    ]
