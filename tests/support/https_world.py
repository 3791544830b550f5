"""A software platform, identities on it, and verifiers of them, for attested contexts in one process."""

from __future__ import annotations

import functools
import hashlib
from datetime import UTC, datetime
from typing import Any, Final

from eaa.appraise.policy import Policy, PolicyFile
from eaa.appraise.reference_values import ReferenceValue, ReferenceValues
from eaa.appraise.result import Attests, BindingLevel, Role
from eaa.attesters.simulated import SimulatedAttester
from eaa.collateral.bundle import Collateral
from eaa.errors import Reason, Unavailable
from eaa.identity import Identity
from eaa.measure.sgx import measure_sgxs
from eaa.simulator.platform import Platform
from eaa.verifier import TrustAnchors, Verifier
from support.simulated import sample_enclave

POLICY: Final = PolicyFile(default=Policy(minimum_binding=BindingLevel.CERT))
"""A certificate can do no better than level `cert`."""
MEASURED: Final = {"workload": Role.WORKLOAD, "client": Role.CLIENT}
"""Enclaves with a reference value, and its role. `impostor` has none."""


class Source:
    """Collateral that is there, until a test says otherwise."""

    def __init__(self) -> None:
        self.fails = False
        self.asked = 0

    def fetch(self, **_model: object) -> Collateral:
        self.asked += 1
        if self.fails:
            raise Unavailable(Reason.PCCS_UNREACHABLE, "a test switched the network off")
        return platform().collateral(now=datetime.now(UTC))


@functools.cache
def platform() -> Platform:
    """The machine everybody runs on."""
    return Platform.create(now=datetime.now(UTC))


@functools.cache
def attester(enclave: str) -> SimulatedAttester:
    """Who quotes for an enclave of this name."""
    return SimulatedAttester(platform().launch(*sample_enclave(enclave)))


def new_identity(enclave: str) -> Identity:
    """A new key with evidence; `bare` is one without."""
    return Identity(None if enclave == "bare" else attester(enclave))


identity = functools.cache(new_identity)
"""The same for all who share it."""


def values() -> ReferenceValues:
    """What is expected."""
    anchor = hashlib.sha256(platform().root_der).digest()
    return ReferenceValues(
        tuple(
            ReferenceValue(
                name=name,
                role=role,
                attests=Attests.PROCESS,
                trust_anchor=anchor,
                mr_enclave=measure_sgxs(sample_enclave(name)[0]).mr_enclave,
            )
            for name, role in MEASURED.items()
        )
    )


def new_verifier(source: Source | None = None, *, policy: PolicyFile = POLICY, **options: Any) -> Verifier:
    """A verifier that has seen nothing."""
    anchors = TrustAnchors(frozenset({hashlib.sha256(platform().root_der).digest()}))
    return Verifier(source or Source(), trust_anchors=anchors, policy=policy, reference_values=values(), **options)


@functools.cache
def verifier() -> Verifier:
    """A verifier that has the platform's collateral already."""
    made = new_verifier()
    quote = identity("workload").credentials().quote
    assert quote is not None
    made.judge(quote, role=Role.WORKLOAD, session=None)
    return made
