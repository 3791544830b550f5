"""Evidence inside Occlum, through the ioctls of its /dev/sgx.

Source: Occlum src/libos/src/fs/dev_fs/dev_sgx (numbers and structures, the same from 0.21 on).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from eaa.attesters.quoted import REPORT_DATA_SIZE, finished_quote, require_report_data
from eaa.errors import Reason, Unavailable
from eaa.evidence.quote import MAX_QUOTE_SIZE

DETECT_DCAP_DRIVER: Final = 0x8004_7306
GET_DCAP_QUOTE_SIZE: Final = 0x8004_7307
GEN_DCAP_QUOTE: Final = 0xC018_7308

_Ioctl = Callable[[int, int, bytearray], object]
_HINTS: Final = {
    errno.EBUSY: "the quoting enclave is busy; try again",
    errno.EIO: "the host's DCAP driver is not ready; check its /dev/sgx/enclave and /dev/sgx/provision",
}


def _ioctl(descriptor: int, request: int, argument: bytearray) -> object:
    return fcntl.ioctl(descriptor, request, argument, True)  # noqa: FBT003  the library's own signature


class OcclumAttester:
    """Quotes of the Occlum enclave this process runs in."""

    name = "occlum"
    tee = "sgx"

    def __init__(self, device: Path, *, ioctl: _Ioctl = _ioctl) -> None:
        """Use the device at this path, /dev/sgx in Occlum. Nothing is opened yet."""
        self._device = device
        self._ioctl = ioctl
        self._lock = threading.Lock()

    def absence(self) -> str | None:
        """Return why no DCAP quote can be had here, or None when it can."""
        try:
            with self._open() as descriptor:
                found = self._read_word(descriptor, DETECT_DCAP_DRIVER)
        except OSError as error:
            # On a host, outside Occlum, this path may be a folder of drivers: it opens, and knows no such ioctl.
            return f"Occlum's {self._device}: {error.strerror}"
        return None if found else f"Occlum's {self._device} finds no DCAP driver on the host"

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over these 64 bytes. Raises Unavailable (QUOTE_UNAVAILABLE)."""
        require_report_data(report_data)
        try:
            with self._lock, self._open() as descriptor:
                raw = self._generate(descriptor, report_data)
        except OSError as error:
            raise Unavailable(
                Reason.QUOTE_UNAVAILABLE,
                f"Occlum gives no quote ({self._device}): {error.strerror}",
                hint=_HINTS.get(error.errno or 0, "check the host's AESM service and its quote provider"),
            ) from error
        return finished_quote(raw, report_data=report_data, source="Occlum")

    def _generate(self, descriptor: int, report_data: bytes) -> bytes:
        size = self._read_word(descriptor, GET_DCAP_QUOTE_SIZE)
        if not 0 < size <= MAX_QUOTE_SIZE:
            raise Unavailable(Reason.QUOTE_UNAVAILABLE, f"Occlum announces a quote of {size} bytes")
        # The structure holds addresses, so what they point to has to stay alive until the call returns. The size is
        # not written back: the quote ends where its own length field says.
        data = (ctypes.c_uint8 * REPORT_DATA_SIZE).from_buffer_copy(report_data)
        quote_size = ctypes.c_uint32(size)
        buffer = (ctypes.c_uint8 * size)()
        pointers = (ctypes.addressof(data), ctypes.addressof(quote_size), ctypes.addressof(buffer))
        self._ioctl(descriptor, GEN_DCAP_QUOTE, bytearray(struct.pack("=QQQ", *pointers)))
        return bytes(buffer)

    def _read_word(self, descriptor: int, request: int) -> int:
        word = bytearray(4)
        self._ioctl(descriptor, request, word)
        return int.from_bytes(word, "little")

    @contextmanager
    def _open(self) -> Iterator[int]:
        descriptor = os.open(self._device, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
