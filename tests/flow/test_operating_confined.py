"""Where a relay can live: as process 1 of a container, with no user of its own, and with nothing that it may write."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.system import BIN, Running, Site
from support.vectors import require

NOBODY = 65534
CONFINED = r"""
set -e
mount --make-rprivate /
nobody="setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs"
if ! $nobody env "$1" -c "" 2>/dev/null; then
  # The interpreter lies in a folder of root's: it is shown alone there, to whoever wants to run it.
  hold=$(mktemp -d)
  mount --bind "$2" "$hold"
  mount -t tmpfs -o mode=755 none "/$(echo "$2" | cut -d/ -f2)"
  mkdir -p "$2"
  mount --move "$hold" "$2"
fi
mount -o remount,bind,ro /
shift 2
exec $nobody env -i -C / HOME=/nonexistent PATH=/usr/bin:/bin "$@"
"""
"""Runs a command as nobody, with no capability and no way to get one, where no file system can be written."""


def relay_of(site: Site, folder: Path) -> tuple[str, ...]:
    """A relay whose files lie below a folder."""
    files = {
        "--simulator": folder / "tee",
        "--enclave": folder / "tee" / "relay.sgxs",
        "--trust-anchor": folder / "tee" / "root.pem",
        "--collateral": folder / site.collateral.name,
        "--reference-values": folder / site.values.name,
    }
    hops = ("--listen", "127.0.0.1:0", "--xfer", "127.0.0.1:1", "--mutual", "--attester", "sgx_sim")
    return (str(BIN / "inclavared"), *hops, *(str(part) for pair in files.items() for part in pair))


@contextmanager
def running_in(*command: str) -> Iterator[Running]:
    service = Running(*command)
    try:
        yield service
    finally:
        service.stop(signal.SIGKILL)


def test_as_process_1_it_ends_and_reloads_as_it_is_told(site: Site) -> None:
    """The kernel lets no signal through to process 1 that it does not handle."""
    unshare = shutil.which("unshare")
    inside = (str(unshare), "--pid", "--fork", "--kill-child", "--")
    works = unshare is not None and subprocess.run([*inside, "true"], capture_output=True, check=False).returncode == 0
    require("a PID namespace", available=works, how="run as root, with unshare of util-linux")
    with running_in(*inside, *relay_of(site, site.folder)) as relay:
        relay.address()
        children = Path(f"/proc/{relay.process.pid}/task/{relay.process.pid}/children").read_text().split()
        (process,) = [int(number) for number in children]
        assert re.search(r"^NSpid:\t\d+\t1$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
        os.kill(process, signal.SIGHUP)
        relay.wait_for("reloaded")
        os.kill(process, signal.SIGTERM)
        assert relay.process.wait(30) == 143


@pytest.fixture
def readable(site: Site) -> Iterator[Path]:
    """The site's files where a user can read them who can write nothing; not below pytest's folder, which is root's."""
    with tempfile.TemporaryDirectory(prefix="eaa-confined-") as name:
        folder = Path(name) / "site"
        shutil.copytree(site.folder, folder)
        Path(name).chmod(0o755)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o500 if path.is_dir() else 0o400)
        yield folder


def confined(*command: str) -> tuple[str, ...]:
    inside = (
        shutil.which("unshare") or "/usr/bin/unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        CONFINED,
        "sh",
    )
    return (*inside, sys.executable, sys.base_prefix, *command)


def test_it_needs_no_user_no_file_system_and_no_secret_on_a_disk(site: Site, request: pytest.FixtureRequest) -> None:
    """It is nobody, it can write nowhere, it reads again what it is told to, and it is attested."""
    probe = confined(sys.executable, "-c", "import eaa; open('/tmp/eaa-may-not-be-written', 'w')")
    there = shutil.which("unshare") is not None
    said = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False).stderr if there else ""
    require("a file system that is shown read-only", available="Read-only file system" in said, how=f"as root: {said}")
    readable: Path = request.getfixturevalue("readable")
    with site.workload() as behind:
        command = [part if part != "127.0.0.1:1" else behind.address() for part in relay_of(site, readable)]
        with running_in(*confined(*command)) as relay:
            address = relay.address()
            status = Path(f"/proc/{relay.process.pid}/status").read_text()
            assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}", status, re.MULTILINE)
            assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
            # A private key that is nowhere but in memory serves as well as any.
            assert site.shelter(address, "--json").answer["verdict"] == "accepted"
            relay.process.send_signal(signal.SIGHUP)
            relay.wait_for("reloaded")
            assert _files_open_for_writing(relay.process.pid) == []
            assert relay.stop() == 143


def _files_open_for_writing(process: int) -> list[str]:
    """The files of a disk that a process could write to, by what the kernel says of its descriptors."""
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        # Connections come and go while this looks.
        with contextlib.suppress(FileNotFoundError):
            about = Path("/proc") / str(process) / "fdinfo" / descriptor.name
            said = re.search(r"^flags:\t(\d+)", about.read_text(), re.MULTILINE)
            target = str(descriptor.readlink())
            assert said is not None
            if int(said[1], 8) & os.O_ACCMODE != os.O_RDONLY and target.startswith("/") and target[:5] != "/dev/":
                found.append(target)
    return found
