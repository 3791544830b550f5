"""Stand-ins for the interfaces of enclave runtimes, driven by the code that drives the real ones.

Gramine's pseudo-files are files under a path, and so are these: `quote` is a pipe, whose content is made each time it
is opened. Occlum's device has no such stand-in, because an ioctl cannot be faked by a file; there the call is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eaa.attesters.occlum import DETECT_DCAP_DRIVER, GEN_DCAP_QUOTE, GET_DCAP_QUOTE_SIZE

MakeQuote = Callable[[bytes], bytes]
"""From 64 bytes of report data to what the platform returns."""


@dataclass(slots=True, kw_only=True)
class Gramine:
    """The folder /dev/attestation, and what was done to it."""

    base: Path
    written: list[bytes] = field(default_factory=list)
    """Each value that user_report_data had when a quote was made."""


@contextmanager
def gramine(devices: Path, make: MakeQuote, *, kind: str = "dcap") -> Iterator[Gramine]:
    """Serve the pseudo-files of Gramine under `devices`/attestation."""
    fake = Gramine(base=devices / "attestation")
    fake.base.mkdir(parents=True)
    (fake.base / "attestation_type").write_text(kind)
    (fake.base / "user_report_data").write_bytes(bytes(64))
    pipe, next_pipe = fake.base / "quote", devices / "next"
    os.mkfifo(pipe)
    ended = threading.Event()

    def serve() -> None:
        while True:
            # Opening waits for a reader, as Gramine makes the quote when the file is opened. Whoever opens it next gets
            # a pipe of its own, even if this reader is not done.
            with contextlib.suppress(BrokenPipeError), pipe.open("wb") as stream:
                if ended.is_set():
                    return
                os.mkfifo(next_pipe)
                next_pipe.rename(pipe)
                report_data = (fake.base / "user_report_data").read_bytes()[:64]
                fake.written.append(report_data)
                stream.write(make(report_data))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        ended.set()
        while thread.is_alive():
            reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            thread.join(timeout=0.02)
            os.close(reader)


@dataclass(slots=True, kw_only=True)
class Occlum:
    """What answers the ioctls of /dev/sgx."""

    make: MakeQuote
    quote_size: int = 8192
    has_driver: bool = True
    fails_with: int = 0
    """An errno for GEN_DCAP_QUOTE."""
    requests: list[int] = field(default_factory=list)

    def __call__(self, descriptor: int, request: int, argument: bytearray) -> int:
        """Answer as Occlum's device does."""
        os.fstat(descriptor)
        self.requests.append(request)
        if request == DETECT_DCAP_DRIVER:
            argument[:] = int(self.has_driver).to_bytes(4, "little")
        elif request == GET_DCAP_QUOTE_SIZE:
            argument[:] = self.quote_size.to_bytes(4, "little")
        elif request == GEN_DCAP_QUOTE:
            self._generate(argument)
        else:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return 0

    def _generate(self, argument: bytearray) -> None:
        if self.fails_with:
            raise OSError(self.fails_with, os.strerror(self.fails_with))
        data, size, buffer = struct.unpack("=QQQ", argument)
        assert ctypes.string_at(size, 4) == self.quote_size.to_bytes(4, "little")
        quote = self.make(ctypes.string_at(data, 64))
        assert len(quote) <= self.quote_size
        # The rest of the buffer stays as it was, and the size is not written back.
        ctypes.memmove(buffer, quote, len(quote))
