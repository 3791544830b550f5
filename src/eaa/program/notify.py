"""Telling the service manager how a service is: sd_notify's datagrams, where there is somebody to be told.

Source: sd_notify(3) and sd_watchdog_enabled(3); the protocol is declared stable.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)

logger = logging.getLogger(__name__)


class Notifier:
    """Sends to the socket that $NOTIFY_SOCKET names, or nowhere. It never waits and never raises."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        self._address = _address_of(variables.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(variables) if self._address else None
        """Seconds between two signs of life that the manager wants; None where it wants none."""

    def ready(self, status: str = "") -> None:
        """Say that the service serves, for the first time or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the service has begun to end."""
        self._send("STOPPING=1", "STATUS=Draining")

    def alive(self) -> None:
        """Say that the service's event loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # A manager that does not read must not hold up a service.
                sock.setblocking(False)  # noqa: FBT003  the standard library's signature
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("the service manager cannot be told: %s", error.strerror)


def _address_of(named: str) -> str | None:
    """Return the socket's address; a name that begins with @ is an abstract one. Others are of no kind we know."""
    if named.startswith("@"):
        return "\0" + named[1:]
    return named if named.startswith("/") else None


def _watchdog_interval(variables: Mapping[str, str]) -> float | None:
    """Return half of the time after which the manager takes this process for dead, as is advised."""
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = variables.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if _MICROSECONDS.fullmatch(text) else None
