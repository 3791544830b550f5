"""Values at the very edge of a rule, and records that no parser makes."""

from __future__ import annotations

import dataclasses

import pytest

from eaa.collateral.intel import TCBInfo
from eaa.errors import Reason, VerificationError
from eaa.evidence.quote import TEEType
from eaa.verify.tcb import select_tdx_module
from support.dcap_world import World, compact


def test_a_module_without_a_major_version_has_no_identity_of_its_own() -> None:
    """Not even one that is named TDX_00: it is the entry for all such modules that counts."""
    info = TCBInfo.parse(compact(World(tee=TEEType.TDX, version=4).tcb_info))
    zero = dataclasses.replace(info.tdx_module_identities[0], id="TDX_00")
    info = dataclasses.replace(info, tdx_module=None, tdx_module_identities=(zero,))
    with pytest.raises(VerificationError) as caught:
        select_tdx_module(info, tee_tcb_svn=bytes(16))
    assert caught.value.reason is Reason.TDX_MODULE_MISMATCH
