"""A configuration file beside the flags: TOML, the same names, and flags win.

A program has one by being a `ConfiguredCommand`. The file is nothing but other defaults: whatever a flag refuses is
refused here, in the same words. It may be read again while the program runs, see `read_again`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import click
from click.core import ParameterSource

from eaa.appraise.tables import load_toml
from eaa.errors import Misuse, Reason
from eaa.program.files import read_text

F = TypeVar("F", bound=Callable[..., Any])

NOT_IN_FILES: Final = frozenset({"config", "check-config", "help", "version"})
"""Flags that mean something on a command line only."""
CONFIG_HELP: Final = (
    "Take options from this file (TOML), by their long names without the dashes in front; flags win over it."
)
_META: Final = "eaa.program.config"
_AGAIN: Final = object()
"""Marks the context of a command that is called only to say what it would do."""


@runtime_checkable
class Relocatable(Protocol):
    """A parameter type whose values hold a path, which a file means relative to itself."""

    def relocate(self, value: str, base: Path) -> str:
        """Return the value with its path made relative to `base`."""


@dataclass(slots=True)
class _Reading:
    """What one reading of a command line has come across."""

    arguments: tuple[str, ...]
    """As given, so that they can be read again."""
    again: bool = False
    path: Path | None = None
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigTables:
    """The tables of a configuration file that are not options."""

    path: Path | None
    """Of the file; None where there is none."""
    tables: Mapping[str, Mapping[str, Any]]

    def of(self, kind: str) -> Mapping[str, Any]:
        """Return the tables [kind.NAME] by name."""
        return self.tables.get(kind, {})

    def located(self, path: str) -> Path:
        """Return a path of this file, which it means relative to itself."""
        return Path(path) if self.path is None else self.path.parent / path


class ConfiguredCommand(click.Command):
    """A command that takes its options from a file as well, and whose command line can be read again."""

    def __init__(self, *args: Any, tables: Sequence[str] = (), **kwargs: Any) -> None:
        """Add `--config`.

        Args:
            args: of the command.
            tables: names of tables in the file that the program reads itself; see `config_tables`.
            kwargs: of the command.
        """
        super().__init__(*args, **kwargs)
        self.tables = tuple(tables)
        self.params.append(
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                is_eager=True,
                expose_value=False,
                callback=_load,
                help=CONFIG_HELP,
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, and say of which file a value was that does not do."""
        ctx.meta[_META] = reading = _Reading(tuple(args), again=ctx.obj is _AGAIN)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = error.param.name if error.param is not None else None
            if name is None or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP:
                raise
            raise _wrong(reading.path, error.format_message().rstrip(".")) from error


def config_tables() -> ConfigTables:
    """Return the tables of the file that the command line in progress has named."""
    reading = _reading(click.get_current_context())
    return ConfigTables(path=reading.path, tables=reading.tables)


def check_config_option(function: F) -> F:
    """Add `--check-config`: the program opens what it would need, says what would run, and ends."""
    return click.option(
        "--check-config",
        is_flag=True,
        help="Read every file and option, say what would run, and end: 0 if it would, 2 if it would not.",
    )(function)


def print_plan(plan: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what would run, for `--check-config`."""
    if as_json:
        click.echo(json.dumps(plan))
        return
    click.echo("The configuration is valid.")
    for line in _lines(plan):
        click.echo(line)


def _lines(plan: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    for name, value in plan.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{indent}{name}: {'-' if shown in (None, '') else shown}"


# --- reading again


def is_reading_again() -> bool:
    """Whether the command in progress was called by `read_again`, which wants to know what it would do."""
    return _reading(click.get_current_context()).again


def reader_again() -> Callable[[], Any]:
    """Return what reads this command line and its files anew, calls the command, and returns what that returned.

    The command has to ask `is_reading_again`, and must begin nothing then. What is returned raises EAAError.
    """
    context = click.get_current_context()
    command, name, arguments = context.command, context.info_name, _reading(context).arguments

    def read_again() -> Any:
        try:
            with command.make_context(name, list(arguments), obj=_AGAIN) as again:
                return command.invoke(again)
        except click.ClickException as error:
            raise Misuse(
                Reason.USAGE, error.format_message().rstrip("."), hint="correct the configuration file"
            ) from error

    return read_again


def _reading(context: click.Context) -> _Reading:
    reading = context.meta.get(_META)
    assert isinstance(reading, _Reading), "only a ConfiguredCommand reads a configuration"
    return reading


# --- the file


def _load(context: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    document = load_toml(read_text(path, what="the configuration file"), what=str(path), reason=Reason.CONFIG_INVALID)
    command = context.command
    assert isinstance(command, ConfiguredCommand)
    reading = _reading(context)
    reading.path = path
    options = configurable(command)
    defaults: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        if key in command.tables:
            reading.tables[key] = _tables(path, key, value)
        elif name not in options:
            raise _unknown(path, key, [*options, *command.tables])
        else:
            option = options[name]
            assert option.name is not None
            if option.name in defaults:
                raise _wrong(path, f"{name} is there twice")
            defaults[option.name] = _value_of(option, value, path=path, key=key)
    context.default_map = defaults


def configurable(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that a file may give, by their names in it."""
    named: dict[str, click.Option] = {}
    for option in command.params:
        if isinstance(option, click.Option):
            names = (opt.removeprefix("--").replace("_", "-") for opt in option.opts if opt.startswith("--"))
            named.update({name: option for name in names if name not in NOT_IN_FILES})
    return named


def _tables(path: Path, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise _wrong(path, f"{key} is not made of tables", hint=f"write [{key}.NAME], and its fields below it")
    return value


def _value_of(option: click.Option, value: object, *, path: Path, key: str) -> Any:
    """Return what a file says of one option in the form in which click takes a default."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise _wrong(path, f"{key} must be true or false")
        return value
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return [_text_of(option, each, path=path, key=key) for each in values]
    return _text_of(option, value, path=path, key=key)


def _text_of(option: click.Option, value: object, *, path: Path, key: str) -> object:
    # One form for each kind, as on a command line a number is a number and a name is none.
    numeric = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
    kinds: tuple[type, ...] = (int, float) if numeric else (str,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise _wrong(path, f"{key} must be {'a number' if numeric else 'a string'}")
    if isinstance(value, str):
        # What runs as a service is started in some folder or other; the file knows where it lies.
        if isinstance(option.type, click.Path):
            return str(path.parent / value)
        if isinstance(option.type, Relocatable):
            return option.type.relocate(value, path.parent)
    return value


def unknown_key(where: str, key: str, known: Sequence[str]) -> Misuse:
    """Return the refusal of a name that means nothing, with the one that was perhaps meant."""
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
    return Misuse(
        Reason.CONFIG_INVALID,
        f"{where}: {key} is not known",
        hint=f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}",
    )


def _unknown(path: Path, key: str, known: list[str]) -> Misuse:
    return unknown_key(f"the configuration file {path}", key, known)


def _wrong(path: Path | None, message: str, *, hint: str | None = None) -> Misuse:
    return Misuse(
        Reason.CONFIG_INVALID,
        f"the configuration file {path}: {message}",
        hint=hint or "a key takes what its flag takes; `--help` lists them",
    )
