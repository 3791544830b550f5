"""What the commands of eaa-pccs share: options, files with a secret in them, answers."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from eaa.errors import EAAError, Misuse, Reason
from eaa.program.files import read_bytes
from eaa.program.output import print_json

MAX_TOKEN: Final = 1024
"""Bytes of a token file."""
SHORT_TOKEN: Final = 16
"""Characters below which a token can be guessed over the network, and is warned of."""
_log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])


def trust_anchor_option(help_text: str) -> Callable[[_F], _F]:
    """Return the option `--trust-anchor`."""
    return click.option(
        "--trust-anchor",
        "trust_anchors",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="FILE",
        help=help_text,
    )


def upstream_options(help_text: str) -> Callable[[_F], _F]:
    """Return `--upstream`, `--upstream-ca`, `--upstream-root-crl` and `--api-key-file`: where documents come from."""

    def add(function: _F) -> _F:
        function = click.option(
            "--api-key-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Holds the subscription key with which Intel's PCS gives PCK certificates.",
        )(function)
        function = click.option(
            "--upstream-ca", type=click.Path(path_type=Path), metavar="FILE", help="The CA (PEM) of the upstream."
        )(function)
        function = click.option(
            "--upstream-root-crl",
            metavar="URL",
            help="Where the root's CRL is published. Default: the upstream's route rootcacrl, or Intel's.",
        )(function)
        return click.option(
            "--upstream",
            default="https://api.trustedservices.intel.com/sgx/certification/v4/",
            show_default=True,
            metavar="URL",
            help=help_text,
        )(function)

    return add


class _Database(click.ParamType[Path | str]):
    """A SQLite file, or the URL of a PostgreSQL database."""

    name = "database"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> Path | str:
        """Return a path, or the URL as it is."""
        return value if not isinstance(value, str) or "://" in value else Path(value)

    def relocate(self, value: str, base: Path) -> str:
        """Return the value with its path, if it is one, made relative to `base`: a configuration file's folder."""
        return value if "://" in value else str(base / value)


def db_option(function: Any) -> Any:
    """Add `--db`: a `Path`, or a URL as `str`; see `eaa.pccs.engines.Where`."""
    return click.option(
        "--db",
        type=_Database(),
        metavar="FILE|URL",
        help="The database: a SQLite file, made where it is missing, or postgresql://USER@HOST/DATABASE. Default: "
        "eaa/pccs.sqlite in the user's data folder.",
    )(function)


@contextmanager
def answering_errors(*, as_json: bool, **answer: Any) -> Iterator[None]:
    """Print, with `--json`, an error of ours as one JSON object as well, then let it go on."""
    try:
        yield
    except EAAError as error:
        if as_json:
            print_json({**answer, "reason": str(error.reason), "message": error.message, "hint": error.hint})
        raise


def read_token(path: Path, *, of: str = "administrator") -> str:
    """Return the token in a file, without the spaces and line ends around it. Raises Misuse (FILE_UNREADABLE)."""
    raw = read_bytes(path, what=f"the {of} token file", maximum=MAX_TOKEN)
    token = raw.decode("ascii", "replace").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the {of} token file {path} holds no token: printable ASCII characters on one line",
            hint="`openssl rand -hex 32 > FILE` makes one; keep it readable by its owner only",
        )
    if len(token) < SHORT_TOKEN:
        _log.warning("the %s token has %d characters; whoever reaches this service can guess", of, len(token))
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning("the %s token file %s is readable by others than its owner", of, path)
    return token


def data_folder(environ: Mapping[str, str]) -> Path:
    """Return where what is not named otherwise lies: our folder in the user's data folder."""
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "eaa"


def default_database(environ: Mapping[str, str]) -> Path:
    """Return where the database lies unless it is named."""
    return data_folder(environ) / "pccs.sqlite"


def is_there(where: Path | str) -> bool:
    """Whether a database can be there at all: who only reads does not make one by a mistyped name."""
    return isinstance(where, str) or where.exists()
