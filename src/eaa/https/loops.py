"""Whether TLS objects are made from our context by the documented way, or by somebody who builds their own.

Some packages replace asyncio's transports by faster ones that take OpenSSL's structure out of an `ssl.SSLContext` and
build a TLS object of their own on it. Such an object has none of the hooks of this room. It cannot connect with our
contexts, which trust nobody; but who starts a program like that should be told at once, and why.

Others, gevent and eventlet among them, put classes of their own in the place of those of `ssl`.
"""

from __future__ import annotations

import inspect
import ssl
import sys
from typing import Any, Final

from eaa.errors import Misuse, Reason

KNOWN_MAKERS: Final = frozenset({"asyncio", "uvloop"})
"""Packages whose event loops were tried: they call `wrap_bio`."""

_WHERE_TLS_BEGINS: Final = (
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "connect_accepted_socket",
    "start_tls",
    "_make_ssl_transport",
)


def foreign_ssl_classes() -> list[str]:
    """Return the packages whose classes stand where those of `ssl` should be; none is as it has to be."""
    return sorted({_maker_of(kind) for kind in (ssl.SSLContext, ssl.SSLObject, ssl.SSLSocket)} - {"ssl"})


def refuse_foreign_event_loops() -> None:
    """Look at the classes of `ssl`, at the running event loop, and at the one that the current policy makes.

    Raises:
        Misuse: EVENT_LOOP_BYPASSES_TLS.
    """
    if strangers := foreign_ssl_classes():
        raise Misuse(
            Reason.EVENT_LOOP_BYPASSES_TLS,
            f"the ssl module of this process was patched by {', '.join(strangers)}, whose connections do not go "
            "through the context that attests",
            hint="install no patch that replaces ssl and sockets: attested connections need Python's own",
        )
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        # Nobody can have replaced what nobody has loaded.
        return
    loop = asyncio._get_running_loop()  # noqa: SLF001  documented, for those who build loops
    if loop is not None:
        refuse_foreign_event_loop(loop)
        return
    new_loop = asyncio.new_event_loop()
    try:
        refuse_foreign_event_loop(new_loop)
    finally:
        new_loop.close()


def refuse_foreign_event_loop(loop: Any) -> None:
    """Raise Misuse, EVENT_LOOP_BYPASSES_TLS, unless this loop's TLS is asyncio's or uvloop's own."""
    strangers = sorted({maker for name in _WHERE_TLS_BEGINS for maker in _makers(loop, name)} - KNOWN_MAKERS)
    if (protocol := _maker_of(sys.modules["asyncio.sslproto"].SSLProtocol)) not in KNOWN_MAKERS:
        strangers.append(protocol)
    if strangers:
        raise Misuse(
            Reason.EVENT_LOOP_BYPASSES_TLS,
            f"the event loop {type(loop).__qualname__} makes its TLS connections in code of {', '.join(strangers)}, "
            "which is not known to go through the context that attests",
            hint="use asyncio's own event loop or uvloop, and install no patch that replaces their transports",
        )


def _makers(loop: Any, name: str) -> set[str]:
    """Return the packages that a method of a loop comes from: the class it stands in, and its code."""
    if name in getattr(loop, "__dict__", {}):
        return {"an attribute of the loop"}
    for owner in type(loop).__mro__:
        if name in vars(owner):
            return {_maker_of(owner), _maker_of(vars(owner)[name])}
    return set()


def _maker_of(thing: Any) -> str:
    """Return the package whose code this is. A wrapper's `__module__` names what it wraps; its globals do not."""
    module = thing.__globals__["__name__"] if inspect.isfunction(thing) else getattr(thing, "__module__", None)
    return str(module).partition(".")[0] if module else "uvloop"
