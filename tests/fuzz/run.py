"""Fuzz every target, several at a time, and print how often each was run.

Each target has a process of its own, with atheris where that is installed, and a small random loop where it is not.
Inputs that find something new are kept in `.fuzz/`, and so are findings.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

TESTS: Final = Path(__file__).resolve().parents[1]
WORKPLACE: Final = TESTS.parent / ".fuzz"
"""Not under version control."""
MAX_MEMORY: Final = 2048
"""MiB that a target's process may take, instrumentation included."""
MAX_SECONDS: Final = 30
"""Wall seconds for one input, on a machine that has other things to do."""
HAS_ATHERIS: Final = importlib.util.find_spec("atheris") is not None
_EXECUTED: Final = re.compile(r"(?:stat::number_of_executed_units:|executed) +(\d+)")

if TYPE_CHECKING:
    from fuzz.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one target's process."""

    name: str
    executions: int
    exit_code: int
    output: str


def fuzz_with_atheris(name: str, seconds: int) -> None:
    """Run one target until the time is over. It ends the process, as libFuzzer does."""
    atheris: Any = importlib.import_module("atheris")
    # Only what is imported now is instrumented, so nothing of ours may have been imported before.
    with atheris.instrument_imports(include=["eaa"], enable_loader_override=False):
        target = _targets()[name]
    warnings.simplefilter("error")
    corpus, findings = WORKPLACE / "corpus" / name, WORKPLACE / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options: dict[str, int | str] = {
        "max_total_time": seconds,
        "max_len": 65536,
        "timeout": MAX_SECONDS,
        "rss_limit_mb": MAX_MEMORY,
        "print_final_stats": 1,
        "verbosity": 0,
        "artifact_prefix": f"{findings}/{name}-",
    }
    if os.environ.get("CI"):
        # A build looks the same way each time; whoever fuzzes at home or for long looks somewhere else.
        options["seed"] = 1
    arguments = [name, str(corpus), *(f"-{option}={value}" for option, value in options.items())]
    call = importlib.import_module("fuzz.targets").call
    atheris.Setup(arguments, lambda data: call(target, data))
    atheris.Fuzz()


def fuzz_at_random(name: str, seconds: int) -> int:
    """Do the same without guidance; return the exit code."""
    loop = importlib.import_module("fuzz.loop")
    warnings.simplefilter("error")
    target, executed, end = _targets()[name], 0, time.monotonic() + seconds
    for data in loop.inputs(target, Random(1 if os.environ.get("CI") else time.time_ns())):
        if time.monotonic() > end:
            break
        executed += 1
        finding = loop.examine(target, data)
        if finding is not None:
            sys.stderr.write(f"{finding.problem}\n{data.hex()}\n")
            return 1
    sys.stderr.write(f"executed {executed}\n")
    return 0


def _targets() -> dict[str, Target]:
    """Imported late: atheris instruments what is imported under its eyes."""
    found: dict[str, Target] = importlib.import_module("fuzz.targets").TARGETS
    return found


def run_target(name: str, seconds: int) -> Result:
    """Fuzz one target in a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds)]
    # The order of sets is part of what guides a fuzzer.
    same = {"PYTHONHASHSEED": "0"} if os.environ.get("CI") else {}
    finished = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env={**os.environ, **same}
    )
    executed = _EXECUTED.search(finished.stderr)
    return Result(
        name=name,
        executions=int(executed[1]) if executed else 0,
        exit_code=finished.returncode,
        output=finished.stdout + finished.stderr,
    )


def run_targets(names: list[str], *, seconds: int, jobs: int) -> int:
    """Fuzz these targets, print a line for each, and return the exit code."""
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda name: run_target(name, seconds), names):
            good = result.exit_code == 0 and result.executions > 0
            sys.stdout.write(f"{result.executions:10}  {result.name}{'' if good else '  FAILED'}\n")
            sys.stdout.flush()
            if not good:
                failed.append(result.name)
                told = [line for line in result.output.splitlines() if not line.startswith("INFO: ")]
                sys.stdout.write("\n".join(told)[-6000:] + "\n")
    engine = "atheris" if HAS_ATHERIS else "a random loop: atheris is not installed"
    sys.stdout.write(f"{len(names)} targets, {seconds} s each, with {engine}; {len(failed)} failed\n")
    return 1 if failed else 0


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them where none is named")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", metavar="TARGET", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if chosen.child and HAS_ATHERIS:
        fuzz_with_atheris(chosen.child, chosen.seconds)
    if chosen.child:
        return fuzz_at_random(chosen.child, chosen.seconds)
    known = list(_targets())
    unknown = [name for name in chosen.targets if name not in known]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(known)}")
    return run_targets(chosen.targets or known, seconds=chosen.seconds, jobs=chosen.jobs)


if __name__ == "__main__":
    sys.exit(main())
