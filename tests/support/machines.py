"""Several machines of one vendor: the same measurement on each of them, and nothing else to tell them apart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from eaa.simulator.platform import ROOT_FILE, SECRETS_FILE, Platform
from support.system import Site


def platform_of(folder: Path) -> Platform:
    """The machine that is stored there."""
    return Platform.from_files({name: (folder / name).read_bytes() for name in (ROOT_FILE, SECRETS_FILE)})


def another_machine(site: Site, folder: Path) -> Path:
    """Make another machine of the site's vendor, of the same model, and return its folder."""
    folder.mkdir(mode=0o700)
    made = Platform.create(now=datetime.now(UTC), pki=platform_of(site.tee).pki)
    for name, content in made.to_files().items():
        (folder / name).write_bytes(content)
    return folder


def ppid_of(folder: Path) -> str:
    """How a machine is named in a policy."""
    return f"ppid:{platform_of(folder).ppid.hex()}"
