"""Intel's quote provider configuration, sgx_default_qcnl.conf, in both of its forms.

The newer form is JSON with comments, the older one KEY=VALUE lines. Intel's library falls back from the first to the
second, and from either to its defaults, without a word; the commonest cause of an unexplained network error is a
missing comma. Here a file that is not what it seems to be is refused with its line.

Source: QuoteGeneration/qcnl of Intel SGX DCAP (field names, defaults and limits).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from eaa.errors import Misuse, Reason

DEFAULT_QCNL_PATH: Final = Path("/etc/sgx_default_qcnl.conf")
DEFAULT_PCCS_URL: Final = "https://localhost:8081/sgx/certification/v4/"
MAX_QCNL_SIZE: Final = 256 * 1024
"""Bytes of a configuration file."""
MAX_CACHE_HOURS: Final = 2160
"""Larger values are cut down to this one, as Intel's library does."""
MAX_RETRIES: Final = 100
MAX_RETRY_DELAY: Final = 3600
"""Seconds."""

_MAX_DIGITS: Final = 9
_NUMBERS: Final = ("retry_times", "retry_delay", "pck_cache_expire_hours", "verify_collateral_cache_expire_hours")
# Strings and comments without an end match too: were they not to, each later one would be looked for in vain again.
_STRING_OR_COMMENT: Final = re.compile(r'"(?:\\.|[^"\\\n])*+"?|//[^\n]*+|/\*(?:.*?\*/|(?P<endless>.*+))', re.DOTALL)
_NOT_NEWLINE: Final = re.compile(r"[^\n]")
_LEGACY_LINE: Final = re.compile(r"(?P<key>[A-Za-z_]+)=(?P<value>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class QCNLConfig:
    """What a configuration file says; what it does not say has the default of Intel's library."""

    pccs_url: str = DEFAULT_PCCS_URL
    """Where PCK certificates come from."""
    collateral_service: str = DEFAULT_PCCS_URL
    """Where verification collateral comes from; `pccs_url` unless the file says otherwise."""
    use_secure_cert: bool = True
    """False: the server's TLS certificate is not verified."""
    tcb_update_type: str = "standard"
    """`standard` or `early`."""
    pccs_api_version: str = "3.0"
    """`3.0` asks for CRLs in hex, `3.1` for DER."""
    retry_times: int = 0
    retry_delay: int = 0
    """Seconds before each retry; 0 for 1, 2, 4 and so on."""
    local_pck_url: str | None = None
    pck_cache_expire_hours: float = 0
    verify_collateral_cache_expire_hours: float = 0
    local_cache_only: bool = False
    get_cert_headers: tuple[tuple[str, str], ...] = ()
    """Sent along with requests for PCK certificates."""
    get_cert_params: tuple[tuple[str, str], ...] = ()


def default_qcnl_path(environ: Mapping[str, str]) -> Path:
    """Return the configuration file's path: QCNL_CONF_PATH, or the one in /etc."""
    named = environ.get("QCNL_CONF_PATH")
    return Path(named) if named else DEFAULT_QCNL_PATH


def load_qcnl(path: Path) -> QCNLConfig:
    """Read and parse a configuration file. Raises Misuse (FILE_UNREADABLE, QCNL_INVALID)."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_QCNL_SIZE + 1)
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the quote provider configuration {path} cannot be read: {error.strerror}",
            hint="name a PCCS (--pccs URL) or a collateral file (--collateral FILE), or set QCNL_CONF_PATH",
        ) from error
    if len(raw) > MAX_QCNL_SIZE:
        raise _invalid(str(path), f"has more than {MAX_QCNL_SIZE} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(str(path), "is not UTF-8 text") from error
    return parse_qcnl(text, name=str(path))


def parse_qcnl(text: str, *, name: str) -> QCNLConfig:
    """Parse either form; `name` stands for the file in errors. Raises Misuse (QCNL_INVALID)."""
    if len(text) > MAX_QCNL_SIZE:
        raise _invalid(name, f"has more than {MAX_QCNL_SIZE} characters")
    return _from_json(blank_comments(text), name) if is_json(text) else _from_lines(text, name)


def is_json(text: str) -> bool:
    """Whether a file's text is of the newer form."""
    return blank_comments(text).lstrip().startswith("{")


def _invalid(name: str, what: str, *, hint: str | None = None) -> Misuse:
    return Misuse(
        Reason.QCNL_INVALID,
        f"the quote provider configuration {name} {what}",
        hint=hint or "correct the file; the one that Intel's quote provider library installs shows every key",
    )


def blank_comments(text: str) -> str:
    """Return the text with comments turned into spaces, so that an error's line and column stay true."""

    def blank(match: re.Match[str]) -> str:
        is_comment = match[0].startswith("/") and match["endless"] is None
        return _NOT_NEWLINE.sub(" ", match[0]) if is_comment else match[0]

    return _STRING_OR_COMMENT.sub(blank, text)


def _from_json(text: str, name: str) -> QCNLConfig:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _invalid(name, f"names {key} twice")
            found[key] = value
        return found

    try:
        document = json.loads(text, object_pairs_hook=refuse_duplicates)
    except json.JSONDecodeError as error:
        raise _invalid(
            name,
            f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}",
            hint="a missing comma between two keys is the usual cause",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "holds a number that is too long, or is nested too deeply") from error
    values = {key: read(document[key], key, name) for key, read in _JSON_KEYS.items() if key in document}
    options = _member(document, "custom_request_options", name)
    get_cert = _member(options, "get_cert", name)
    values["get_cert_headers"] = _text_pairs(get_cert, "headers", name)
    values["get_cert_params"] = _text_pairs(get_cert, "params", name)
    return _complete(values)


def _from_lines(text: str, name: str) -> QCNLConfig:
    values: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        bare = "".join(line.split())
        if not bare or bare.startswith("#"):
            continue
        match = _LEGACY_LINE.fullmatch(bare)
        if not match:
            raise _invalid(name, f"has neither KEY=VALUE nor a comment in line {number}")
        key = match["key"].lower()
        if match["key"] == key.upper() and key in _LEGACY_KEYS:
            values[key] = _LEGACY_KEYS[key](match["value"], match["key"], name)
    return _complete(values)


def _complete(values: dict[str, Any]) -> QCNLConfig:
    """Return the configuration: collateral comes from where PCK certificates come from, unless it is said otherwise."""
    values.setdefault("collateral_service", values.get("pccs_url", DEFAULT_PCCS_URL))
    return QCNLConfig(**values)


# --- readers of one value each: (value, key, file name) -> value, or Misuse


def _url(value: Any, key: str, name: str) -> str:
    if not isinstance(value, str):
        raise _invalid(name, f"gives {key} something that is not text")
    if "<" in value or ">" in value:
        raise _invalid(
            name,
            f"still holds a placeholder in {key}: {value}",
            hint="put the region's own name in its place, as the cloud's documentation gives it",
        )
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise _invalid(name, f"gives {key} something that is no http(s) URL: {value}")
    return value


def _optional_url(value: Any, key: str, name: str) -> str | None:
    return None if value == "" else _url(value, key, name)


def _boolean(value: Any, key: str, name: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(name, f"gives {key} something other than true and false")
    return value


def _legacy_boolean(value: Any, key: str, name: str) -> bool:
    known = {"TRUE": True, "true": True, "FALSE": False, "false": False}
    if value not in known:
        raise _invalid(name, f"gives {key} something other than TRUE and FALSE")
    return known[value]


def _one_of(*allowed: str, fold: bool = False) -> Callable[[Any, str, str], str]:
    def read(value: Any, key: str, name: str) -> str:
        text = value.lower() if fold and isinstance(value, str) else value
        if text not in allowed:
            raise _invalid(name, f"gives {key} something other than {' and '.join(allowed)}")
        return str(text)

    return read


def _whole_number(maximum: int) -> Callable[[Any, str, str], int]:
    def read(value: Any, key: str, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise _invalid(name, f"gives {key} something other than a whole number from 0 to {maximum}")
        return value

    return read


def _hours(value: Any, key: str, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise _invalid(name, f"gives {key} something other than a number of hours")
    return min(float(value), float(MAX_CACHE_HOURS))


def _from_text(read: Callable[[Any, str, str], Any]) -> Callable[[Any, str, str], Any]:
    """Return a reader of the same value written as text."""

    def read_text(value: Any, key: str, name: str) -> Any:
        is_number = value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS
        return read(int(value) if is_number else value, key, name)

    return read_text


def _member(document: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise _invalid(name, f"gives {key} something that is no object")
    return value


def _text_pairs(document: dict[str, Any], key: str, name: str) -> tuple[tuple[str, str], ...]:
    pairs = _member(document, key, name)
    if not all(isinstance(value, str) for value in pairs.values()):
        raise _invalid(name, f"gives {key} values that are not text")
    return tuple(pairs.items())


_JSON_KEYS: Final[dict[str, Callable[[Any, str, str], Any]]] = {
    "pccs_url": _url,
    "use_secure_cert": _boolean,
    "collateral_service": _url,
    "tcb_update_type": _one_of("standard", "early", fold=True),
    "pccs_api_version": _one_of("3.0", "3.1"),
    "retry_times": _whole_number(MAX_RETRIES),
    "retry_delay": _whole_number(MAX_RETRY_DELAY),
    "local_pck_url": _optional_url,
    "pck_cache_expire_hours": _hours,
    "verify_collateral_cache_expire_hours": _hours,
    "local_cache_only": _boolean,
}
# The older form has no tcb_update_type and no custom_request_options.
_LEGACY_KEYS: Final[dict[str, Callable[[Any, str, str], Any]]] = {
    **{key: read for key, read in _JSON_KEYS.items() if key != "tcb_update_type"},
    "use_secure_cert": _legacy_boolean,
    "local_cache_only": _legacy_boolean,
    **{key: _from_text(_JSON_KEYS[key]) for key in _NUMBERS},
}
