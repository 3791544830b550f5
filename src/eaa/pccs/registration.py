"""Platforms that report themselves (POST /platforms), and the queue in which they wait to be provisioned.

Source: Intel SGX PCCS 1.27, "Platform Registration" (members, what is required with and without a manifest).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Final

from eaa.pccs.schema import REGISTRATION, violations
from eaa.pccs.uploads import leading_bytes, load_json
from eaa.pccs.wire import Refusal, Status


class Waiting(IntEnum):
    """What became of a registration; the numbers are the reference's."""

    NEW = 0
    NOT_AVAILABLE = 1
    """The vendor has no certificate for one of its TCBs."""
    TAKEN = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One platform, as it reported itself. Upper-case hex, but for the last two: lower-case, as they are handed out."""

    qe_id: str = field(repr=False)
    pce_id: str
    cpu_svn: str
    pce_svn: str
    platform_manifest: str = field(repr=False)
    enc_ppid: str = field(repr=False)

    @classmethod
    def parse(cls, body: bytes) -> Registration:
        """Read the body of a registration. Raises Refusal (400)."""
        _, document = load_json(body, what="the registration")
        problem = next(violations(document, REGISTRATION, where="the registration"), None)
        if problem:
            raise Refusal(Status.INVALID_REQUEST, problem)
        manifest = document.get("platform_manifest") or ""
        named = {name: document.get(name, "") for name in ("cpu_svn", "pce_svn", "enc_ppid")}
        if not manifest and not all(named.values()):
            raise Refusal(
                Status.INVALID_REQUEST, "without a manifest, a registration needs cpu_svn, pce_svn and enc_ppid"
            )
        if manifest:
            # The manifest says all that the others would.
            named = dict.fromkeys(named, "")
        return cls(
            qe_id=document["qe_id"].upper(),
            pce_id=document["pce_id"].upper(),
            cpu_svn=named["cpu_svn"].upper(),
            pce_svn=named["pce_svn"].upper(),
            platform_manifest=leading_bytes(manifest).lower(),
            enc_ppid=named["enc_ppid"].lower(),
        )

    @property
    def fetch_name(self) -> str:
        """Name its fetch; another PPID or manifest for the same ids is another fetch, which may end otherwise."""
        asked = hashlib.sha256(f"{self.enc_ppid.lower()}/{self.platform_manifest}".encode()).hexdigest()[:16]
        return f"platform/{asked}/{self.pce_id}/{self.qe_id}"

    def to_json(self) -> dict[str, str]:
        """Return its members."""
        return asdict(self)


QUEUE_ORDER: Final = ("enc_ppid", "platform_manifest", "qe_id", "pce_id", "cpu_svn", "pce_svn")
"""In which order the queue hands the members out: the reference's."""
