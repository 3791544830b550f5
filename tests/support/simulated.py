"""Simulated worlds for tests: one enclave signer for the whole run, because RSA keys are slow to make."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from eaa.simulator.images import create_signer_key, sample_image

NOW: Final = datetime(2026, 11, 23, 12, 30, 15, tzinfo=UTC)
SEED: Final = bytes(range(32))
REPORT_DATA: Final = bytes(range(64))


@functools.cache
def signer_key() -> rsa.RSAPrivateKey:
    """The enclave signer of every test."""
    return create_signer_key()


@functools.cache
def sample_enclave(name: str = "sample", *, debug: bool = False) -> tuple[bytes, bytes]:
    """An image and its SIGSTRUCT."""
    return sample_image(name, now=NOW, signer_key=signer_key(), debug=debug)
