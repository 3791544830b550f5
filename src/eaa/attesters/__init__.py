"""Evidence for 64 bytes of report data, from the TEE this process runs in or from a software one."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from eaa.errors import Misuse, Reason, Unavailable

__all__ = ["Attester", "open_attester"]

DEVICES: Final = Path("/dev")
"""Where the files of enclave runtimes lie."""
_OFFERED: Final = "sgx_ecdsa (the TEE this process runs in), sgx_sim (a software TEE) or nullattester (no evidence)"


class Attester(Protocol):
    """One source of evidence.

    One that waits for no device or service, and makes a quote in well below a millisecond, may have `is_immediate =
    True`: it is then asked where the quote is wanted, which holds up all else that happens there for as long. All
    others are asked in a thread.
    """

    @property
    def name(self) -> str:
        """What produces the quotes, for logs."""
        ...

    @property
    def tee(self) -> str:
        """`sgx` or `tdx`."""
        ...

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote, without padding, whose report data are these 64 bytes.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE, the platform gives none, or gives one for other report data.
        """
        ...


def open_attester(
    name: str,
    *,
    simulator: Path | None = None,
    enclave: Path | None = None,
    sigstruct: Path | None = None,
    devices: Path = DEVICES,
) -> Attester | None:
    """Return the attester of this name, ready to quote; None for `nullattester`.

    Args:
        name: a name of the reference programs, or `sgx_sim`.
        simulator: the software TEE's folder, for `sgx_sim`.
        enclave: the enclave image to launch in it, for `sgx_sim`.
        sigstruct: that image's SIGSTRUCT; by default the file beside it that ends in `.sigstruct`.
        devices: where the files of enclave runtimes lie.

    Raises:
        Misuse: NOT_IMPLEMENTED_VALUE, a name that is not answered here; SIMULATOR_INVALID; FILE_UNREADABLE.
        Unavailable: TEE_NOT_FOUND.
    """
    if name == "nullattester":
        return None
    if name == "sgx_sim":
        return _open_simulated(simulator, enclave, sigstruct)
    if name == "sgx_ecdsa":
        return _open_sgx(devices)
    raise Misuse(Reason.NOT_IMPLEMENTED_VALUE, f"the attester {name} is not implemented", hint=f"choose {_OFFERED}")


def _open_simulated(simulator: Path | None, enclave: Path | None, sigstruct: Path | None) -> Attester:
    if simulator is None or enclave is None:
        missing = "--simulator DIR" if simulator is None else "--enclave IMAGE"
        raise Misuse(
            Reason.USAGE,
            f"the attester sgx_sim needs {missing}",
            hint="`eaa simulator` makes platforms and sample images",
        )
    # Imported late: a workload in a real TEE has no use for the software one.
    from eaa.attesters.simulated import SimulatedAttester  # noqa: PLC0415

    return SimulatedAttester.open(simulator, image=enclave, sigstruct=sigstruct)


def _open_sgx(devices: Path) -> Attester:
    """Return the attester of the enclave runtime that is here: Gramine is asked first, then Occlum."""
    from eaa.attesters.gramine import GramineAttester  # noqa: PLC0415
    from eaa.attesters.occlum import OcclumAttester  # noqa: PLC0415

    gramine = GramineAttester(devices / "attestation")
    occlum = OcclumAttester(devices / "sgx")
    absences = []
    for attester in (gramine, occlum):
        absence = attester.absence()
        if absence is None:
            return attester
        absences.append(absence)
    raise Unavailable(
        Reason.TEE_NOT_FOUND,
        f"this process runs in no SGX enclave that can be attested: {'; '.join(absences)}",
        hint='start it inside Gramine (sgx.remote_attestation = "dcap") or Occlum, '
        "or use the software TEE: --attester sgx_sim --simulator DIR --enclave IMAGE",
    )
