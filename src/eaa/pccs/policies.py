"""Appraisal policies for Intel's quote appraisal library: kept and handed out, never interpreted by this service.

Source: Intel SGX PCCS 1.27, "appraisalpolicy". The policy is a JWT whose signature its consumer verifies.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from eaa.pccs.schema import POLICY, require
from eaa.pccs.uploads import load_json
from eaa.pccs.wire import Refusal, Status

_KINDS: Final[Mapping[str, int]] = {
    "3123ec35-8d38-4ea5-87a5-d6c48b567570": 0,  # SGX
    "9eec018b-7481-4b1c-8e1a-9f7c0c8c777f": 1,  # TDX 1.0
    "f708b97f-0fb2-4e6b-8b03-8a5bcd1221d3": 2,  # TDX 1.5
}
_TD_QE: Final = "3769258c-75e6-4bc7-8d72-d2b0e224cad2"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisalPolicy:
    """One policy for one platform model."""

    id: str
    """SHA-384 of the text, hex."""
    fmspc: str
    kind: int
    """0 for SGX, 1 for TDX 1.0, 2 for TDX 1.5."""
    is_default: bool
    """Whether it is handed out; one of each model is."""
    text: str = field(repr=False)

    @classmethod
    def parse(cls, body: bytes) -> AppraisalPolicy:
        """Read the body of PUT /appraisalpolicy. Raises Refusal (400)."""
        _, document = load_json(body, what="the policy")
        require(document, POLICY, where="the policy")
        text = document["policy"]
        return cls(
            id=hashlib.sha384(text.encode()).hexdigest(),
            fmspc=document["fmspc"].upper(),
            kind=_kind(text),
            is_default=document["is_default"],
            text=text,
        )


def _kind(token: str) -> int:
    """Return the kind of the first policy in the token's payload that is not the TD quoting enclave's."""
    try:
        payload = token.split(".")[1]
        raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        policies: Iterable[Any] = json.loads(json.loads(raw)["policy_payload"])["policy_array"]
        classes = [policy["environment"]["class_id"].lower() for policy in policies]
    except (binascii.Error, ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refusal(Status.INVALID_REQUEST, f"the policy is no token around policies: {error!r}") from error
    for found in classes:
        if found != _TD_QE:
            if found not in _KINDS:
                break
            return _KINDS[found]
    raise Refusal(Status.INVALID_REQUEST, "the policy is for no class that is known")
