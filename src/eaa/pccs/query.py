"""The parameters of the read routes, checked as the reference checks them; they are compared in upper case."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from eaa.pccs.wire import Refusal, Status

MAX_QE_ID: Final = 260
"""Characters; a QE id need not be hex."""
MAX_URI: Final = 2048
ENCRYPTED_PPID_DIGITS: Final = 768

_HEX: Final = re.compile(r"[0-9a-fA-F]*")
UPDATES: Final = ("STANDARD", "EARLY")
ALL_UPDATES: Final = (*UPDATES, "ALL")
MAX_NUMBER_DIGITS: Final = 10
_CAS: Final = ("PROCESSOR", "PLATFORM")
# The hosts and paths from which Intel's services take a CRL.
_INTEL_CRL: Final = re.compile(
    r"https://(?:"
    r"(?:[a-zA-Z0-9-]*certificates\.trustedservices\.intel\.com|certprx\.adsdcsp\.com)/IntelSGXRootCA\..*"
    r"|"
    r"(?:[a-zA-Z0-9-]*\.?api\.trustedservices\.intel\.com|[a-zA-Z0-9-]+\.az\.sgx(?:prod|np)\.adsdcsp\.com)"
    r"/sgx/certification/v[1-9][0-9]*/pckcrl\?.*"
    r")"
)


def is_hex(text: str, digits: int) -> bool:
    """Whether `text` is exactly so many hex digits."""
    return len(text) == digits and _HEX.fullmatch(text) is not None


def hex_parameter(parameters: Mapping[str, str], name: str, digits: int) -> str:
    """Return a parameter of exactly so many hex digits, in upper case. Raises Refusal (400)."""
    value = parameters.get(name, "")
    if not is_hex(value, digits):
        raise Refusal(Status.INVALID_REQUEST, f"{name} is not {digits} hex digits")
    return value.upper()


def qe_id(parameters: Mapping[str, str]) -> str:
    """Return the parameter `qeid`. Raises Refusal (400)."""
    return _text(parameters, "qeid", MAX_QE_ID).upper()


def update_type(parameters: Mapping[str, str], *, may_be: tuple[str, ...] = UPDATES) -> str:
    """Return `STANDARD` or `EARLY`, or what else is allowed. Raises Refusal (400)."""
    value = parameters.get("update", UPDATES[0]).upper()
    if value not in may_be:
        raise Refusal(Status.INVALID_REQUEST, f"update is none of {', '.join(may_be).lower()}")
    return value


def evaluation_number(parameters: Mapping[str, str]) -> int | None:
    """Return the parameter `tcbEvaluationDataNumber` where it is given, and not empty. Raises Refusal (400)."""
    value = parameters.get("tcbEvaluationDataNumber")
    if not value:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= MAX_NUMBER_DIGITS):
        raise Refusal(Status.INVALID_REQUEST, "tcbEvaluationDataNumber is not a number")
    return int(value)


def fmspc_list(text: str) -> tuple[str, ...]:
    """Read `[F1,F2]`, without spaces between them, in upper case; `[]` names none. Raises Refusal (400)."""
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        raise Refusal(Status.INVALID_REQUEST, "not a list of FMSPCs in brackets")
    inner = text[1:-1].strip()
    items = inner.split(",") if inner else []
    if not all(is_hex(item, 12) for item in items):
        raise Refusal(Status.INVALID_REQUEST, "an FMSPC of the list is not 12 hex digits")
    return tuple(item.upper() for item in items)


def models(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return the FMSPCs of a refresh, none of them for all: one, several, or an empty value. Raises Refusal (400).

    The reference's own tool sends an empty value for its `all`, and lists with brackets, spaces or neither; the
    reference itself understands one FMSPC only.
    """
    value = parameters.get("fmspc")
    if value is None:
        raise Refusal(Status.INVALID_REQUEST, "the refresh of certificates names no fmspc, not even an empty one")
    if value.lower() in ("", "all"):
        return ()
    inner = value.removeprefix("[").removesuffix("]") if value.startswith("[") else value
    return fmspc_list(f"[{inner.replace(' ', '')}]")


def certificate_authority(parameters: Mapping[str, str]) -> str:
    """Return `PROCESSOR` or `PLATFORM`. Raises Refusal (400)."""
    value = parameters.get("ca", "").upper()
    if value not in _CAS:
        raise Refusal(Status.INVALID_REQUEST, "ca is neither processor nor platform")
    return value


def crl_uri(parameters: Mapping[str, str]) -> str:
    """Return the parameter `uri`. Raises Refusal (400)."""
    return _text(parameters, "uri", MAX_URI)


def _text(parameters: Mapping[str, str], name: str, maximum: int) -> str:
    value = parameters.get(name, "")
    # Databases differ in whether a text may hold a NUL.
    if not 0 < len(value) <= maximum or "\0" in value:
        raise Refusal(Status.INVALID_REQUEST, f"{name} has {len(value)} characters, 1 to {maximum} but NUL are allowed")
    return value


def is_known_crl(uri: str, hosts: Collection[str] = ()) -> bool:
    """Whether a CRL is published at such an address: the vendor's, or one of the hosts that an operator named."""
    return _INTEL_CRL.fullmatch(uri) is not None or _host(uri) in hosts


def ca_of_crl(uri: str, hosts: Collection[str] = ()) -> str | None:
    """Return whose CRL lies at such an address, PROCESSOR or PLATFORM; None for the root's and for unknown ones."""
    if not is_known_crl(uri, hosts):
        return None
    path, _, parameters = uri.partition("?")
    ca = dict(reversed(parse_qsl(parameters, max_num_fields=16))).get("ca", "").upper()
    return ca if path.lower().endswith("/pckcrl") and ca in _CAS else None


def _host(uri: str) -> str | None:
    """Return the host of an http(s) address in lower case, with the port where one is named."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") and "@" not in parts.netloc else None
