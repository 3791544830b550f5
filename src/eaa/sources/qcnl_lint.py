"""What is odd about a quote provider configuration that can be read: Intel's library says nothing of any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from eaa.sources.qcnl import MAX_CACHE_HOURS, QCNLConfig, blank_comments, is_json

KEYS: Final = (
    "pccs_url",
    "use_secure_cert",
    "collateral_service",
    "tcb_update_type",
    "pccs_api_version",
    "retry_times",
    "retry_delay",
    "local_pck_url",
    "pck_cache_expire_hours",
    "verify_collateral_cache_expire_hours",
    "local_cache_only",
    "custom_request_options",
)
_LINE: Final = re.compile(r"\s*([A-Za-z_]+)\s*=\s*(.*?)\s*")
_LOOPBACK: Final = re.compile(r"http://(?:127\.|localhost[:/]|\[::1\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """Something that is probably not what was meant."""

    what: str
    remedy: str


def oddities(text: str, config: QCNLConfig) -> Iterator[Oddity]:
    """Yield what is odd about a file that `eaa.sources.qcnl.parse_qcnl` has read."""
    written = _written(text)
    for key in written:
        if key.lower() not in KEYS:
            yield Oddity(
                what=f"{key} is no key that is known, and is ignored", remedy="correct its spelling, or remove it"
            )
    if not config.use_secure_cert:
        yield Oddity(
            what="use_secure_cert is false: anybody on the way can pass for the service, and withhold documents",
            remedy="set it to true, and add the service's CA to this machine's (update-ca-certificates)",
        )
    for key, url in _urls(config):
        yield from _odd_url(key, url)
    for key in ("pck_cache_expire_hours", "verify_collateral_cache_expire_hours"):
        raw = written.get(key, written.get(key.upper(), 0))
        if str(raw).isdecimal() and int(str(raw)[:9]) > MAX_CACHE_HOURS:
            yield Oddity(
                what=f"{key} is more than {MAX_CACHE_HOURS}, and cut down to it", remedy=f"write {MAX_CACHE_HOURS}"
            )
    if config.local_cache_only:
        yield Oddity(
            what="local_cache_only is true: PCK certificates come from files that Intel's own tool made, or not at all",
            remedy="set it to false unless this machine has no network; otherwise keep $HOME/.dcap-qcnl filled",
        )


def _urls(config: QCNLConfig) -> Iterator[tuple[str, str]]:
    named = (
        ("pccs_url", config.pccs_url),
        ("collateral_service", config.collateral_service),
        ("local_pck_url", config.local_pck_url),
    )
    seen: set[str] = set()
    for key, url in named:
        if url is not None and url not in seen:
            seen.add(url)
            yield key, url


def _odd_url(key: str, url: str) -> Iterator[Oddity]:
    if not url.endswith("/"):
        yield Oddity(
            what=f"{key} does not end in a slash, and Intel's library appends to it as it is", remedy=f"write {url}/"
        )
    if "/certification/v3" in url:
        yield Oddity(
            what=f"{key} asks for version 3 of the API, which Intel has ended", remedy="write v4 in place of v3"
        )
    if url.startswith("http://") and not _LOOPBACK.match(url):
        yield Oddity(
            what=f"{key} is plain http: anybody on the way sees which machines ask, and can withhold documents",
            remedy="serve https there, and write https://",
        )


def _written(text: str) -> dict[str, Any]:
    """Return the keys as they are written, whichever form the file has."""
    if is_json(text):
        document = json.loads(blank_comments(text))
        return document if isinstance(document, dict) else {}
    matches = (_LINE.fullmatch(line) for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {match[1]: match[2] for match in matches if match}
