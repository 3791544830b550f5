"""Evidence of a software TEE: the production formats, made by a platform that is a folder of files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from eaa.attesters.quoted import finished_quote, require_report_data
from eaa.errors import Misuse, Reason
from eaa.simulator.platform import MAX_FILE, ROOT_FILE, SECRETS_FILE, Enclave, Platform

MAX_IMAGE: Final = 64 * 1024 * 1024
"""Bytes of an enclave image."""
MAX_SIGSTRUCT: Final = 4096


class SimulatedAttester:
    """Quotes of one enclave that was launched on a software platform."""

    name = "sgx_sim"
    tee = "sgx"
    is_immediate = True
    """There is no device to wait for: a quote is a fifth of a millisecond, and more where a thread makes it."""

    def __init__(self, enclave: Enclave) -> None:
        """Quote for this enclave."""
        self._enclave = enclave
        self._lock = threading.Lock()

    @classmethod
    def open(cls, simulator: Path, *, image: Path, sigstruct: Path | None = None) -> SimulatedAttester:
        """Load the platform and launch the image on it, as hardware would: the launch may be refused.

        Raises:
            Misuse: FILE_UNREADABLE; SIMULATOR_INVALID, what lies there is no platform.
            MalformedInput, VerificationError: the image or its SIGSTRUCT cannot be launched.
        """
        names = (ROOT_FILE, SECRETS_FILE)
        files = {name: _read(simulator / name, what="the simulator's file", maximum=MAX_FILE) for name in names}
        platform = Platform.from_files(files)
        signed = sigstruct or image.with_suffix(".sigstruct")
        return cls(
            platform.launch(
                _read(image, what="the enclave image", maximum=MAX_IMAGE),
                _read(signed, what="the image's SIGSTRUCT", maximum=MAX_SIGSTRUCT),
            )
        )

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote over these 64 bytes."""
        require_report_data(report_data)
        with self._lock:
            raw = self._enclave.quote(report_data)
        return finished_quote(raw, report_data=report_data, source="the software TEE")


def _read(path: Path, *, what: str, maximum: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(maximum + 1)
    except OSError as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"{what} {path} cannot be read: {error.strerror}",
            hint="`eaa simulator` makes platforms and sample images; check the path and its permissions",
        ) from error
    if len(raw) > maximum:
        raise Misuse(Reason.FILE_UNREADABLE, f"{what} {path} has more than {maximum} bytes")
    return raw
