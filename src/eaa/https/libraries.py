"""The few lines that some HTTP libraries need before they use a context of ours. Each is imported when it is asked for.

httpx, aiohttp, urllib3, urllib and aiohttp.web need none: they take the context itself, see docs/manual/https.md.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eaa.https.context import AttestedContext
from eaa.https.loops import refuse_foreign_event_loops

if TYPE_CHECKING:
    from hypercorn.config import Config
    from requests.adapters import HTTPAdapter


def requests_adapter(context: AttestedContext) -> HTTPAdapter:
    """Return what `requests.Session.mount` takes: its connections attest, whatever `verify` says."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415  the package works without requests

    class AttestedAdapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            options |= {"ssl_context": context, "assert_hostname": False}
            super().init_poolmanager(*args, **options)

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            options |= {"ssl_context": context, "assert_hostname": False}
            return super().proxy_manager_for(proxy, **options)

        def cert_verify(self, *_args: Any) -> None:
            """Leave the connection alone: there is no authority whose certificate would have to be found."""

    return AttestedAdapter()


def uvicorn_context_factory(context: AttestedContext) -> Callable[..., ssl.SSLContext]:
    """Return what `uvicorn.Config(ssl_context_factory=…)` takes; it looks at the event loop of uvicorn."""

    def make(_config: object, _default: object) -> ssl.SSLContext:
        refuse_foreign_event_loops()
        return context

    return make


def hypercorn_config(context: AttestedContext) -> Config:
    """Return a hypercorn configuration that serves with this context; set the rest as usual."""
    from hypercorn.config import Config  # noqa: PLC0415  the package works without hypercorn

    class AttestedConfig(Config):
        @property
        def ssl_enabled(self) -> bool:
            return True

        def create_ssl_context(self) -> ssl.SSLContext:
            refuse_foreign_event_loops()
            context.set_alpn_protocols(self.alpn_protocols)
            return context

    return AttestedConfig()
