"""Values at the very edge of a rule, and records that no parser makes."""

from __future__ import annotations

import dataclasses

import pytest

from eaa.collateral.intel import PCKCertificate, TCBInfo
from eaa.errors import MalformedInput, Reason, VerificationError
from eaa.evidence.quote import TEEType
from eaa.evidence.tdx import TDReport
from eaa.verify import dcap
from eaa.verify.dcap import (
    Known,
    parse_pck_chain,
    verify_certification_data,
    verify_collateral,
    verify_pck_chain,
    verify_revocation_lists,
)
from eaa.verify.tcb import select_tdx_module
from support.dcap_world import NOW, World, compact, pem


def test_a_module_without_a_major_version_has_no_identity_of_its_own() -> None:
    """Not even one that is named TDX_00: it is the entry for all such modules that counts."""
    info = TCBInfo.parse(compact(World(tee=TEEType.TDX, version=4).tcb_info))
    zero = dataclasses.replace(info.tdx_module_identities[0], id="TDX_00")
    info = dataclasses.replace(info, tdx_module=None, tdx_module_identities=(zero,))
    with pytest.raises(VerificationError) as caught:
        select_tdx_module(info, tee_tcb_svn=bytes(16))
    assert caught.value.reason is Reason.TDX_MODULE_MISMATCH


def test_a_pck_certificate_that_was_parsed_before_speaks_only_for_itself() -> None:
    """Another platform's certificate, offered as the known one, must not lend its TCB to this one."""
    world = World()
    quote, collateral = world.quote(), world.collateral()
    other = World()
    assert other.pck.sgx is not None
    other.pck.sgx.components = [255] * 16
    chain = parse_pck_chain(quote)
    lists = verify_revocation_lists(collateral, root=chain.root)
    own = verify_pck_chain(chain, lists)
    for known in (PCKCertificate.parse(other.pck.der()), own.document, None):
        verified = verify_pck_chain(chain, lists, known=known)
        assert verified == own
        assert verified.document.record == chain.pck


def test_a_certificate_that_was_parsed_before_stands_for_its_own_bytes_alone() -> None:
    one, other = World(), World()
    other.pck.serial = one.pck.serial + 1
    known = PCKCertificate.parse(one.pck.der()).record
    assert parse_pck_chain(one.quote(), known_pck=known).pck is known
    assert parse_pck_chain(other.quote(), known_pck=known).pck.der == other.pck.der()
    certificates: Known = {}
    first = parse_pck_chain(one.quote(), known=certificates)
    again = parse_pck_chain(other.quote(), known=certificates)
    assert again.pck.der == other.pck.der()
    assert (again.ca is first.ca, again.root is first.root) == (True, True)
    assert len(certificates) == 4


def test_what_was_parsed_of_a_collateral_is_known_afterwards() -> None:
    world, certificates = World(), Known()
    verify_collateral(world.collateral(), trust_anchors=world.trust_anchors, now=NOW, known=certificates)
    assert {certificate.der for certificate in certificates.values()} >= {world.root.der(), world.pck_ca.der()}
    assert parse_pck_chain(world.quote(), known=certificates).root in certificates.values()


def test_of_all_certificates_only_vendors_roots_are_read_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only so many of them, however they are spelled."""
    world = World()
    monkeypatch.setattr(dcap, "_vendor_roots", {})
    parse_pck_chain(world.quote())
    assert not dcap._vendor_roots
    monkeypatch.setattr(dcap, "INTEL_ROOTS", world.trust_anchors.fingerprints)
    monkeypatch.setattr(dcap, "_MAX_VENDOR_ROOTS", 1)
    root = parse_pck_chain(world.quote()).root
    assert list(dcap._vendor_roots.values()) == [root]
    assert parse_pck_chain(world.quote()).root is root
    other = World()
    other.root.serial = world.root.serial + 1
    monkeypatch.setattr(dcap, "INTEL_ROOTS", other.trust_anchors.fingerprints)
    assert parse_pck_chain(other.quote()).root.fingerprint in other.trust_anchors.fingerprints
    assert list(dcap._vendor_roots.values()) == [root]


def test_a_leaf_is_one_certificate() -> None:
    world = World()
    world.certification_data_type = 4
    world.certification_data = pem(world.pck.der(), world.pck_ca.der())
    with pytest.raises(MalformedInput) as caught:
        verify_certification_data(world.quote(), PCKCertificate.parse(world.pck.der()))
    assert caught.value.reason is Reason.CERTIFICATE_MALFORMED


def test_a_mask_of_another_length_masks_nothing() -> None:
    """Parsers refuse such an identity; a record made by hand must not leave bytes unlooked at."""
    assert dcap._masked(b"\xff\x0f", b"\xf0\xff") == b"\xf0\x0f"
    with pytest.raises(ValueError, match="2 bytes cannot be masked by 1"):
        dcap._masked(b"\xff\x0f", b"\xff")


def test_what_tells_a_tcb_is_taken_from_the_body() -> None:
    """An enclave's body has none of it, and a domain's before 1.5 knows one module only."""
    assert dcap.tcb_inputs(World().quote()) == ()
    for version, count in ((4, 3), (5, 4)):
        quote = World(tee=TEEType.TDX, version=version).quote()
        body = quote.body
        assert isinstance(body, TDReport)
        found = dcap.tcb_inputs(quote)
        assert found[:3] == (body.mr_signer_seam, body.seam_attributes, body.tee_tcb_svn)
        assert found[3] == getattr(body, "tee_tcb_svn_2", None)
        assert len([one for one in found if one is not None]) == count
