"""What a service manager hears of each service, over real sockets, and what a cache says of its configuration."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from eaa.errors import Reason
from support.system import Site, run, running


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "a path" else f"@eaa-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(30)
        yield sock, name


@pytest.mark.parametrize("program", ["inclavared", "enclave-tls-server", "eaa-pccs"])
def test_a_manager_is_told_when_a_service_serves_lives_and_ends(
    site: Site, tmp_path: Path, manager: tuple[socket.socket, str], program: str
) -> None:
    sock, name = manager
    commands = {
        "inclavared": ("--listen", "tcp://127.0.0.1:0", *site.attested("relay"), *site.judging),
        "enclave-tls-server": ("--listen", "tcp://127.0.0.1:0", *site.attested("workload")),
        "eaa-pccs": ("serve", "--listen", "127.0.0.1:0", "--db", str(tmp_path / "db"), "--plain-http"),
    }
    heard: list[str] = []

    def hear(wanted: str) -> None:
        while not heard or wanted not in heard[-1]:
            heard.append(sock.recv(4096).decode())

    with running(program, *commands[program], env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"}) as service:
        hear("READY=1")
        # It may be told anything from now on.
        service.address()
        hear("WATCHDOG=1")
        service.process.send_signal(signal.SIGTERM)
        hear("STOPPING=1")
    assert len([said for said in heard if "READY=1" in said]) == 1


# --- eaa-pccs


def test_the_configuration_of_a_cache_is_checked_without_making_anything(tmp_path: Path) -> None:
    config, token = tmp_path / "pccs.toml", tmp_path / "token"
    token.write_text("a token that nobody guesses\n")
    token.chmod(0o600)
    config.write_text('db = "pccs.sqlite"\nadmin-token-file = "token"\nmode = "LAZY"\ntls-dir = "tls"\n')
    done = run("eaa-pccs", "serve", "--config", config, "--check-config", "--json")
    assert done.code == 0, done
    plan = done.answer
    assert (plan["db"], plan["mode"], plan["admin-token"]) == (str(tmp_path / "pccs.sqlite"), "LAZY", True)
    assert "nobody guesses" not in json.dumps(plan)
    assert {path.name for path in tmp_path.iterdir()} == {"pccs.toml", "token"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ('moed = "LAZY"', Reason.CONFIG_INVALID),
        ('mode = "EAGER"', Reason.CONFIG_INVALID),
        ('mode = "LAZY"\nrefresh-schedule = "now and then"', Reason.USAGE),
        ('mode = "LAZY"\nupstream = "nowhere"', Reason.ADDRESS_INVALID),
        ('tls-cert = "gone"\ntls-key = "gone"', Reason.FILE_UNREADABLE),
        ('tls-cert = "gone"', Reason.USAGE),
        ('trust-anchor = ["gone"]', Reason.FILE_UNREADABLE),
        ('admin-token-file = "gone"', Reason.FILE_UNREADABLE),
    ],
)
def test_a_cache_says_what_is_wrong_before_it_serves(tmp_path: Path, more: str, reason: Reason) -> None:
    config = tmp_path / "pccs.toml"
    config.write_text(more + "\n")
    done = run("eaa-pccs", "serve", "--config", config, "--check-config")
    assert (done.code, done.reason) == (2, reason), done
