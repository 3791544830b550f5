"""What every test stands on: no setting of the machine reaches it, and properties are searched the same way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# A deadline measures the machine, and so does the check for slow data; the tests of several workers share two cores.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Nothing may fail by luck: the same examples each time and everywhere, and none remembered from another run. Whoever
# wants to find something new asks for other examples: `make properties`, or `--hypothesis-profile search`.
settings.register_profile("same", _UNTIMED, derandomize=True, database=None, print_blob=True)
settings.register_profile("search", _UNTIMED)
settings.load_profile("same")

# Tests start some thousand processes: where none may keep what it compiled, each compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# They start processes, or go again and again where tests/unit has been: to trace them takes time, and a branch that was
# taken a thousand times is taken.
_NOT_TRACED = ("attacks", "chaos", "flow", "fuzz", "model", "mutants", "mutation", "property", "scale", "soak")

pytest_plugins = ["support.site_fixture"]

_OURS_OF_THE_BUILD = ("EAA_VECTORS", "EAA_REQUIRE_ALL")
_READ_BY_PROGRAMS = (
    *("QCNL_CONF_PATH", "AZDCAP_CACHE", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SSLKEYLOGFILE"),
    *("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
)


@pytest.fixture(scope="session", autouse=True)
def _settings_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Take away what a developer's own settings would change, for our processes and for those that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            ours = name.startswith("EAA_") and name not in _OURS_OF_THE_BUILD
            if ours or name.upper() in _READ_BY_PROGRAMS:
                patch.delenv(name)
        # A name that nobody knows is asked for once: where no name service answers, that takes half a minute otherwise.
        patch.setenv("RES_OPTIONS", "timeout:1 attempts:1")
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_programs() -> None:
    """Let signals have their usual effect on programs that tests start: what is ignored is inherited as ignored.

    `nohup` ignores SIGHUP, and a shell without job control SIGINT for what it runs in the background.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Trace nothing where tests repeat themselves.

    Not by the marker `no_cover` of pytest-cov: that starts another tracer afterwards, and the one that was kept here
    traces no more. It cost each process all that came after the first such test, which differed from run to run.
    """
    if item.path.parent.name not in _NOT_TRACED:
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
