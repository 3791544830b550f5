"""Collateral of any bytes: it is read, or it is malformed; no parser raises anything else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eaa import der
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import (
    CRL,
    Certificate,
    PCKCertificate,
    QEIdentity,
    SignedMember,
    TCBInfo,
    join_signed_document,
    parse_pem_chain,
    pck_certificate_of,
    split_signed_document,
)
from eaa.errors import MalformedInput, VerificationError
from eaa.evidence.quote import TEEType
from eaa.verify.dcap import TrustAnchors, verify_quote
from support.dcap_world import World, compact, qe_identity, tcb_info

WORLD = World()
QUOTE = WORLD.quote()
COLLATERAL = WORLD.collateral()
ANCHORS: TrustAnchors = WORLD.trust_anchors

CORPUS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "certificate": (Certificate.parse, WORLD.pck_ca.der()),
    "PCK certificate": (PCKCertificate.parse, WORLD.pck.der()),
    "CRL": (CRL.parse, WORLD.pck_crl.der()),
    "PEM chain": (parse_pem_chain, COLLATERAL.pck_crl_issuer_chain),
    "certification data": (pck_certificate_of, QUOTE.certification_data),
    "TCB Info for SGX": (TCBInfo.parse, compact(tcb_info(TEEType.SGX))),
    "TCB Info for TDX": (TCBInfo.parse, compact(tcb_info(TEEType.TDX))),
    "QE identity": (QEIdentity.parse, COLLATERAL.qe_identity),
    "signed document": (
        lambda raw: split_signed_document(raw, "tcbInfo"),
        join_signed_document("tcbInfo", COLLATERAL.tcb_info, COLLATERAL.tcb_info_signature),
    ),
    "collateral file": (Collateral.from_json, COLLATERAL.to_json()),
    "DER": (lambda raw: der.read_all(raw, what="a test"), WORLD.pck.der()),
}


def reads_or_is_malformed(parse: Callable[[bytes], object], raw: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        parse(raw)


@pytest.mark.parametrize("name", CORPUS)
def test_the_good_bytes_are_read(name: str) -> None:
    parse, raw = CORPUS[name]
    parse(raw)


@pytest.mark.parametrize("name", sorted(set(CORPUS) - {"DER", "PEM chain", "certification data"}))
def test_every_strict_prefix_is_malformed(name: str) -> None:
    parse, raw = CORPUS[name]
    for length in range(len(raw.rstrip())):
        with pytest.raises(MalformedInput):
            parse(raw[:length])


@pytest.mark.parametrize("name", CORPUS)
@given(junk=st.binary(max_size=500))
def test_junk_is_malformed(name: str, junk: bytes) -> None:
    reads_or_is_malformed(CORPUS[name][0], junk)


@pytest.mark.parametrize("name", CORPUS)
@given(where=st.floats(0, 1, exclude_max=True), change=st.binary(max_size=4), drop=st.integers(0, 4))
def test_changed_bytes_are_read_or_malformed(name: str, where: float, change: bytes, drop: int) -> None:
    parse, raw = CORPUS[name]
    at = int(where * len(raw))
    reads_or_is_malformed(parse, raw[:at] + change + raw[at + drop :])


@pytest.mark.parametrize("name", ["certificate", "PCK certificate", "CRL"])
def test_no_single_changed_byte_upsets_a_der_parser(name: str) -> None:
    parse, raw = CORPUS[name]
    for at in range(len(raw)):
        for value in {0x00, 0x80, 0xFF, raw[at] ^ 1, raw[at] ^ 0x20} - {raw[at]}:
            reads_or_is_malformed(parse, raw[:at] + bytes((value,)) + raw[at + 1 :])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, child in children for place in paths_of(child, (*path, name)))][:400]


DOCUMENTS: dict[str, tuple[Callable[[bytes], object], dict[str, Any]]] = {
    "TCB Info for SGX": (TCBInfo.parse, tcb_info(TEEType.SGX)),
    "TCB Info for TDX": (TCBInfo.parse, tcb_info(TEEType.TDX)),
    "QE identity": (QEIdentity.parse, qe_identity(TEEType.SGX)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@given(data=st.data(), value=JSON_VALUES)
def test_any_value_in_any_place_is_read_or_malformed(name: str, data: st.DataObject, value: Any) -> None:
    parse, document = DOCUMENTS[name]
    changed = json.loads(json.dumps(document))
    *parents, last = data.draw(st.sampled_from(paths_of(document)[1:]))
    target = changed
    for parent in parents:
        target = target[parent]
    target[last] = value
    reads_or_is_malformed(parse, json.dumps(changed).encode("utf-8", "surrogatepass"))


@given(
    member=st.sampled_from(["tcbInfo", "enclaveIdentity"]),
    body=st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4),
    signature=st.binary(min_size=64, max_size=64),
)
def test_joined_documents_come_apart_again(member: SignedMember, body: dict[str, Any], signature: bytes) -> None:
    raw = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    assert split_signed_document(join_signed_document(member, raw, signature), member) == (raw, signature)


FIELDS = [
    field.name for field in dataclasses.fields(Collateral) if field.init and field.name != "pck_certificate_chain"
]


@pytest.mark.parametrize("field", FIELDS)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_a_collateral_can_be_changed(field: str, where: float, bit: int) -> None:
    """Everything in it is signed; only the spelling of PEM around a certificate is free."""
    value = bytearray(getattr(COLLATERAL, field))
    value[int(where * len(value))] ^= 1 << bit
    changes: dict[str, Any] = {field: bytes(value)}
    changed = dataclasses.replace(COLLATERAL, **changes)
    try:
        facts = verify_quote(QUOTE, changed, trust_anchors=ANCHORS, now=WORLD.now)
    except (MalformedInput, VerificationError):
        return
    assert field.endswith("_chain")
    assert facts == verify_quote(QUOTE, COLLATERAL, trust_anchors=ANCHORS, now=WORLD.now)
