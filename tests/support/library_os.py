"""Run a program as a library OS would: one process, for ever. Whatever makes another one, or becomes one, is killed.

    python -m support.library_os PROGRAM|MODULE [OPTION ...]

A seccomp filter is laid over this process before anything of ours is imported; threads are the only thing that may be
made. clone3 is answered with ENOSYS, as a filter cannot look behind its pointer: the C library then uses clone.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{filter,seccomp,audit}.h.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import platform
import struct
import sys
from importlib.metadata import entry_points
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
KILL_PROCESS: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
CLONE_THREAD: Final = 0x00010000

_LOAD: Final = 0x20
"""BPF_LD | BPF_W | BPF_ABS."""
_EQUAL: Final = 0x15
"""BPF_JMP | BPF_JEQ | BPF_K."""
_HAS_BIT: Final = 0x45
"""BPF_JMP | BPF_JSET | BPF_K."""
_RETURN: Final = 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; the low half of a little-endian argument comes first."""

ARCHITECTURES: Final = {
    "x86_64": (0xC000003E, {"fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone": 56, "clone3": 435}),
    "aarch64": (0xC00000B7, {"execve": 221, "execveat": 281, "clone": 220, "clone3": 435}),
}


def is_supported() -> bool:
    """Whether this machine's system calls are known here."""
    return sys.platform == "linux" and platform.machine() in ARCHITECTURES


def _filter() -> list[bytes]:
    def row(code: int, value: int, *, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, value)

    architecture, numbers = ARCHITECTURES[platform.machine()]
    forbidden = [number for name, number in numbers.items() if name not in ("clone", "clone3")]
    rows = [row(_LOAD, _ARCHITECTURE), row(_EQUAL, architecture, true=1), row(_RETURN, KILL_PROCESS)]
    rows.append(row(_LOAD, _NUMBER))
    for number in forbidden:
        rows += [row(_EQUAL, number, false=1), row(_RETURN, KILL_PROCESS)]
    rows += [row(_EQUAL, numbers["clone3"], false=1), row(_RETURN, ERRNO | errno.ENOSYS)]
    rows += [row(_EQUAL, numbers["clone"], true=1), row(_RETURN, ALLOW)]
    rows += [row(_LOAD, _FIRST_ARGUMENT), row(_HAS_BIT, CLONE_THREAD, false=1), row(_RETURN, ALLOW)]
    return [*rows, row(_RETURN, KILL_PROCESS)]


def enter() -> None:
    """Lay the filter over this process. There is no way back."""
    rows = _filter()
    code = ctypes.create_string_buffer(b"".join(rows))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    program = Program(len(rows), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the seccomp filter cannot be installed")


def main() -> None:
    enter()
    program = sys.argv.pop(1)
    if "." in program:
        importlib.import_module(program).main()
        return
    (entry,) = entry_points(group="console_scripts", name=program)
    entry.load()()


if __name__ == "__main__":
    main()
