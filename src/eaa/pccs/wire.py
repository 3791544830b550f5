"""What any answer of the reference service looks like on the wire, whichever route gave it.

Clients were written against one server, an Express application, and depend on more than its documentation: hex where
the label says DER, sentences as error bodies, weak entity tags. Requests and answers here are plain records, so that
every rule can be tested without a socket and the HTTP engine can be replaced.

Source: Intel SGX PCCS 1.27 and Express 4, as observed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from typing import Any, Final
from urllib.parse import parse_qsl, quote

MAX_PARAMETERS: Final = 1000
"""Query parameters that are looked at, as in the reference."""
MAX_QUERY: Final = 16 * 1024
"""Characters of a query; the reference's server refuses longer heads."""

JSON: Final = "application/json; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

_HTML_ESCAPES: Final = str.maketrans({'"': "&quot;", "&": "&amp;", "'": "&#39;", "<": "&lt;", ">": "&gt;"})
_PATH_CHARACTERS: Final = "/:@!$&'()*+,;=~"
_CONTENT_HEADERS: Final = frozenset({"content-type", "content-length"})
_INDEX: Final = re.compile(r"(?:\[\d{0,2}\])+$", re.ASCII)
"""Behind a parameter's name: it is one item of a list."""
_NO_CACHE: Final = re.compile(r"(?:^|,)\s*no-cache\s*(?:,|$)", re.IGNORECASE)


class Status(IntEnum):
    """The status codes of the service; some are its own."""

    OK = 200
    INVALID_REQUEST = 400
    UNAUTHORIZED = 401
    NO_CACHE_DATA = 404
    VERSION_ENDED = 410
    CONTENT_TOO_LARGE = 413
    INTEGRITY_ERROR = 460
    PLATFORM_UNKNOWN = 461
    INTERNAL_ERROR = 500
    BAD_GATEWAY = 502
    UNAVAILABLE = 503


SENTENCES: Final[Mapping[Status, str]] = {
    Status.OK: "Operation successful.",
    Status.INVALID_REQUEST: "Invalid request parameters.",
    Status.UNAUTHORIZED: "Authentication failed.",
    Status.NO_CACHE_DATA: "No cache data for this platform.",
    Status.VERSION_ENDED: (
        "The Intel PCS API version 3 reached planned EOL. Accordingly, collateral from this API version cannot be "
        "retrieved any longer."
    ),
    Status.CONTENT_TOO_LARGE: "Content too large.",
    Status.INTEGRITY_ERROR: "The integrity of the data can't be verified.",
    Status.PLATFORM_UNKNOWN: "The platform was not found in the cache.",
    Status.INTERNAL_ERROR: "Internal server error occurred.",
    Status.BAD_GATEWAY: "Unable to retrieve the collateral from the Intel SGX PCS.",
    Status.UNAVAILABLE: "Server is currently unable to process the request.",
}


class Refusal(Exception):
    """Ends a request with a status and its sentence; the cause is for our log, never for the client."""

    def __init__(self, status: Status, cause: str, *, warning: str | None = None, alarms: bool = False) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause
        self.warning = warning
        """What the client may know of the cause, for the header `Warning`."""
        self.alarms = alarms
        """Whether an operator should hear of it: it is not the client's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, as the engine received it."""

    method: str
    path: str
    """Percent-decoded."""
    query: str = ""
    """As sent, without the question mark."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = field(default=b"", repr=False)
    """What was read of it; empty for routes that take none."""

    def __str__(self) -> str:
        """Method and path, encoded anew: fit for one line of a log, and without parameters, which name platforms."""
        method = self.method if self.method.isalpha() else "?"
        return f"{method[:16]} {quote(self.path[:200], safe=_PATH_CHARACTERS)}"

    def parameters(self) -> dict[str, str]:
        """Return the query's parameters; of a repeated one the first counts, and `x[]` is `x`, as is `x[0]`.

        Raises:
            Refusal: 400, there are too many.
        """
        if len(self.query) > MAX_QUERY:
            raise Refusal(Status.INVALID_REQUEST, f"the query has {len(self.query)} characters")
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError as error:
            raise Refusal(Status.INVALID_REQUEST, "the query has too many parameters") from error
        return {_INDEX.sub("", name): value for name, value in reversed(pairs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    tagged: bool = True
    """Whether it gets an entity tag; Express's own error page has none."""
    keep_until: datetime | None = None
    """Until when the same request may get this answer again; None where it must be found anew."""
    is_aging: bool = False
    """Whether what is in it should be renewed soon, though it still may be given."""


def named_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a request's headers by lower-case name. Of a repeated one the values are one list, as in the reference.

    So two tokens are no token. Only of the body's type the first one counts.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        if key not in found:
            found[key] = value
        elif key != "content-type":
            found[key] = f"{found[key]}, {value}"
    return found


def sentence(status: Status) -> Response:
    """Return the answer that consists of a status and its sentence."""
    return Response(status=status, headers=(("Content-Type", HTML),), body=SENTENCES[status].encode())


def json_answer(value: Any, *, status: int = Status.OK, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return a value as compact JSON."""
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Response(status=status, headers=(*headers, ("Content-Type", JSON)), body=body)


def warning(text: str) -> tuple[str, str]:
    """Return the header `Warning` with this sentence."""
    return ("Warning", f'299 - "{text}"')


def options(*methods: str) -> Response:
    """Return the answer to OPTIONS: the methods of the route, in `Allow` and in the body."""
    allowed = ",".join(methods)
    return Response(status=Status.OK, headers=(("Allow", allowed), ("Content-Type", HTML)), body=allowed.encode())


def cannot(request: Request) -> Response:
    """Return Express's page for a path or method that has no route."""
    path = quote(request.path, safe=_PATH_CHARACTERS)
    message = f"Cannot {request.method} {path}".translate(_HTML_ESCAPES)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>{message}</pre>\n</body>\n</html>\n"
    )
    headers = (
        ("Content-Security-Policy", "default-src 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Type", HTML),
    )
    return Response(status=404, headers=headers, body=page.encode(), tagged=False)


def finish(request: Request, response: Response) -> Response:
    """Return the answer as it leaves: with entity tag and length, as 304 where that is enough, for HEAD bodiless."""
    headers = list(response.headers)
    if response.tagged:
        tag = entity_tag(response.body)
        headers.append(("ETag", tag))
        if _is_fresh(request, response, tag):
            kept = [pair for pair in headers if pair[0].lower() not in _CONTENT_HEADERS]
            return Response(status=304, headers=tuple(kept))
    headers.append(("Content-Length", str(len(response.body))))
    return replace(response, headers=tuple(headers), body=b"" if request.method == "HEAD" else response.body)


def entity_tag(body: bytes) -> str:
    """Return the weak entity tag that Express gives a body: its length in hex and 27 characters of its SHA-1."""
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    return f'W/"{len(body):x}-{base64.b64encode(digest).decode()[:27]}"'


def _is_fresh(request: Request, response: Response, tag: str) -> bool:
    """Whether the client's copy is this very answer. Source: the rules of the `fresh` module that Express uses."""
    wanted = request.headers.get("if-none-match")
    if request.method not in ("GET", "HEAD") or not 200 <= response.status < 300 or not wanted:
        return False
    # There is never a Last-Modified, so that a condition on the date is never met.
    if _NO_CACHE.search(request.headers.get("cache-control", "")) or "if-modified-since" in request.headers:
        return False
    strong = tag.removeprefix("W/")
    return wanted.strip() == "*" or any(
        candidate.strip().removeprefix("W/") == strong for candidate in wanted.split(",")
    )
