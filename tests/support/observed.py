"""Run one of the services as it is, and tell on SIGUSR1 how many tasks live in it.

    python -m support.observed PROGRAM [OPTION ...]
    python -m support.observed MODULE.WITH.A.MAIN [ARGUMENT ...]

EAA_TEST_PATIENCE=SECONDS cuts its patience with peers short, so that a test of stalling peers need not wait as long as
an operator would.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from importlib.metadata import entry_points

from eaa.aio import attestation, stream
from eaa.aio.net import Service
from eaa.workload import application, service

_start = Service.start


def _observed_start(service: Service) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)
    _start(service)


def _tell() -> None:
    sys.stderr.write(f"tasks: {len(asyncio.all_tasks())}\n")


def _be_impatient(patience: float) -> None:
    constants = (
        (stream, "HANDSHAKE_TIMEOUT"),
        (attestation, "EXCHANGE_TIMEOUT"),
        (application, "APPLICATION_TIMEOUT"),
    )
    for module, name in constants:
        assert hasattr(module, name)
        setattr(module, name, patience)
    # A relay gives a client up before its workload gives the channel up, as it is with an operator's patience.
    assert hasattr(service, "CHANNEL_PATIENCE")
    service.CHANNEL_PATIENCE = 2 * patience  # type: ignore[misc]


def main() -> None:
    if "EAA_TEST_PATIENCE" in os.environ:
        _be_impatient(float(os.environ["EAA_TEST_PATIENCE"]))
    Service.start = _observed_start  # type: ignore[method-assign, assignment]
    program = sys.argv.pop(1)
    if "." in program:
        importlib.import_module(program).main()
        return
    (entry,) = entry_points(group="console_scripts", name=program)
    entry.load()()


if __name__ == "__main__":
    main()
