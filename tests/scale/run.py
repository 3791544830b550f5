"""Very many platforms: taken over from a database of Intel's service, then asked for; what it takes, and what is left.

    make platforms COUNT=1000000

Prints the processor time of the import, the size of the database, the time to the first answer and of a look-up, and
the memory of the process that serves them.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eaa.pccs.importing import import_intel_sqlite
from eaa.pccs.records import Carried
from eaa.pccs.store import Store
from support.intel_database import qe_id, write
from support.pccs import NOW, V4, anchors, running_pccs, upload_document

LOOKUPS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured."""

    count: int
    imported: Carried
    import_seconds: float
    import_cpu: float
    bytes_stored: int
    start_seconds: float
    lookup_seconds: float
    """The mean, each for a platform that nobody asked for before."""
    statuses: frozenset[int]
    resident: int
    """Bytes of the process that answered."""

    def __str__(self) -> str:
        return (
            f"{self.count} platforms: imported in {self.import_seconds:.1f} s ({self.import_cpu:.1f} s of processor, "
            f"{self.import_cpu / self.count * 1e6:.0f} µs each), {self.bytes_stored / 2**20:.1f} MiB "
            f"({self.bytes_stored / self.count:.0f} bytes each); first answer after {self.start_seconds:.2f} s, "
            f"a look-up {self.lookup_seconds * 1e3:.2f} ms, {self.resident / 2**20:.0f} MiB resident"
        )


def run(count: int, folder: Path) -> Figures:
    """Import so many platforms into a new database in this folder, serve it, and ask for some of them."""
    write(folder / "intel.db", count=count).close()
    store = Store.open(folder / "pccs.sqlite")
    began, cpu = time.monotonic(), time.process_time()
    imported = import_intel_sqlite(folder / "intel.db", store, trust_anchors=anchors(), now=NOW)
    taken = (time.monotonic() - began, time.process_time() - cpu)
    store.close()
    (folder / "intel.db").unlink()
    size = sum(file.stat().st_size for file in folder.glob("pccs.sqlite*"))
    entry = upload_document()["platforms"][0]
    began = time.monotonic()
    with running_pccs(folder) as pccs:
        started = time.monotonic() - began
        chosen = random.Random(1).sample(range(1, count), min(LOOKUPS, count - 1))
        targets = [
            f"{V4}/pckcert?qeid={qe_id(index)}&cpusvn={entry['cpu_svn']}&pcesvn={entry['pce_svn']}&pceid=0000"
            for index in chosen
        ]
        began = time.monotonic()
        statuses = frozenset(pccs.get(target).status for target in targets)
        lookup = (time.monotonic() - began) / len(targets)
        status = Path(f"/proc/{pccs.process.pid}/status").read_text()
        resident = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    return Figures(
        count=count,
        imported=imported,
        import_seconds=taken[0],
        import_cpu=taken[1],
        bytes_stored=size,
        start_seconds=started,
        lookup_seconds=lookup,
        statuses=statuses,
        resident=resident,
    )


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to put the databases; about 8 GiB for a million")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="eaa-platforms-", dir=arguments.folder))
    try:
        figures = run(arguments.count, folder)
    finally:
        shutil.rmtree(folder)
    print(figures)
    if figures.imported.refused or figures.statuses != {200}:
        raise SystemExit(f"{len(figures.imported.refused)} rows refused, statuses {sorted(figures.statuses)}")


if __name__ == "__main__":
    main()
