"""Where in the service a path leads, and which token a request there must carry.

`/pki/<hex digits>/` before any route names one PKI by the first digits of its root's SHA-256: for a machine whose
cache holds several, where a route's parameters do not say whose document is wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from eaa.pccs.wire import Request

ADMIN: Final = "admin-token"
USER: Final = "user-token"
UPLOAD: Final = "/platformcollateral"
REFRESH: Final = "/refresh"

_HEALTH: Final = re.compile(r"/healthz(?P<rest>/.*)?", re.IGNORECASE)
_MOUNT: Final = re.compile(
    r"(?:/pki/(?P<scope>[0-9a-f]{8,64}))?/(?P<product>sgx|tdx)/certification/v(?P<version>3|4)(?:/?(?P<rest>/.*))?",
    re.IGNORECASE,
)
_GUARDS: Final = {
    ("GET", "/platforms"): ADMIN,
    ("HEAD", "/platforms"): ADMIN,
    ("POST", "/platforms"): USER,
    ("PUT", "/appraisalpolicy"): ADMIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in the service a path leads."""

    product: str
    """SGX, TDX or HEALTH."""
    api_version: int
    route: str
    """What follows the mount, in lower case and without a final slash."""
    scope: str = ""
    """The first digits of the root whose PKI is asked for, lower-case hex; empty for any."""


def place_of(path: str) -> Place | None:
    """Return where a path leads, or None where Express would have no route either."""
    health = _HEALTH.fullmatch(path)
    if health is not None:
        return Place(product="HEALTH", api_version=0, route=(health["rest"] or "").lower().removesuffix("/"))
    match = _MOUNT.fullmatch(path)
    if match is None or (match["product"].upper(), match["version"]) == ("TDX", "3"):
        return None
    return Place(
        product=match["product"].upper(),
        api_version=int(match["version"]),
        route=(match["rest"] or "/").lower().removesuffix("/"),
        scope=(match["scope"] or "").lower(),
    )


def guard_of(request: Request, place: Place) -> str | None:
    """Return which token a request must carry. Two routes are closed with all below them, whatever the method."""
    if place.product != "SGX":
        return None
    if any(place.route == route or place.route.startswith(route + "/") for route in (UPLOAD, REFRESH)):
        return ADMIN
    return _GUARDS.get((request.method, place.route))
