"""What the service counts, and how it is told to Prometheus: closed sets of names and labels, and absolute times.

Nothing that a client has said is ever a label: a path that is no route of ours is `other`.
"""

from __future__ import annotations

import re
from typing import Final

ROUTES: Final = (
    "pckcert",
    "pckcrl",
    "tcb",
    "qe/identity",
    "qve/identity",
    "rootcacrl",
    "crl",
    "platforms",
    "platformcollateral",
    "refresh",
    "appraisalpolicy",
    "health",
    "openapi",
    "other",
)
"""What a request may be counted as."""
_MOUNTED: Final = re.compile(r"/(?:sgx|tdx)/certification/v[34]/(?P<route>[a-z/]{1,20}?)/?", re.IGNORECASE)


def route_of(path: str) -> str:
    """Return as what a request for this path is counted: one of ROUTES."""
    match = _MOUNTED.fullmatch(path)
    if match is not None:
        route = match["route"].lower()
        return route if route in ROUTES[:11] else "other"
    if path.lower().startswith("/healthz"):
        return "health"
    return "openapi" if path == "/openapi.json" else "other"
