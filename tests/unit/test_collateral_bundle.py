"""The collateral file: one JSON object, read strictly and written as it was read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from eaa.collateral.bundle import MAX_COLLATERAL_SIZE, MAX_DOCUMENT_SIZE, Collateral
from eaa.errors import MalformedInput, Reason
from support.dcap_world import World
from support.vectors import cases, vector

GOOD = World().collateral()


@pytest.mark.parametrize("case", cases()[:3], ids=lambda case: case["id"])
def test_a_real_file_is_read_and_written_again(case: dict[str, Any]) -> None:
    raw = vector(case["collateral"]).read_bytes()
    collateral = Collateral.from_json(raw)
    assert json.loads(collateral.to_json()) == {
        name: value for name, value in json.loads(raw).items() if value is not None
    }
    assert Collateral.from_json(collateral.to_json()) == collateral


@pytest.mark.parametrize("chain", [None, GOOD.pck_crl_issuer_chain])
def test_a_pck_chain_may_be_in_it(chain: bytes | None) -> None:
    collateral = dataclasses.replace(GOOD, pck_certificate_chain=chain)
    assert Collateral.from_json(collateral.to_json()) == collateral


def test_a_member_of_null_is_absent() -> None:
    document = json.loads(GOOD.to_json()) | {"pck_certificate_chain": None}
    assert Collateral.from_json(json.dumps(document).encode()) == GOOD


def with_signatures_inside(**changes: Any) -> dict[str, Any]:
    """The members of Intel's own structure, whose documents are as a PCS serves them."""
    document: dict[str, Any] = json.loads(GOOD.to_json()) | {"version": 3}
    for name, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity")):
        document[name] = f'{{"{member}":{document[name]},"signature":"{document.pop(f"{name}_signature")}"}}'
    document |= changes
    return document


def test_documents_may_hold_their_signatures_as_intel_serves_them() -> None:
    assert Collateral.from_json(json.dumps(with_signatures_inside()).encode()) == GOOD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tcb_info": '{"tcbInfo":{}}'}, Reason.TCB_INFO_MALFORMED),
        ({"qe_identity": '{"enclaveIdentity":{},"signature":"00"}'}, Reason.QE_IDENTITY_MALFORMED),
        ({"tcb_info": '{"version":3}'}, Reason.COLLATERAL_MALFORMED),
        ({"qe_identity": None}, Reason.COLLATERAL_MALFORMED),
    ],
)
def test_a_signature_is_inside_or_beside_and_nowhere_else(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(json.dumps(with_signatures_inside(**changes)).encode())
    assert caught.value.reason is reason


MEMBERS = sorted(json.loads(GOOD.to_json()))


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    "value",
    [None, 1, [], "\ud800", "0" * (MAX_DOCUMENT_SIZE + 2)],
    ids=["absent", "number", "list", "half a surrogate pair", "too long"],
)
def test_an_odd_member_is_refused(member: str, value: object) -> None:
    document = json.loads(GOOD.to_json()) | {member: value}
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(json.dumps(document).encode())
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


@pytest.mark.parametrize("member", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"])
@pytest.mark.parametrize("value", ["0", "zz", "00 00", " 00", "00\n", "0x00"])
def test_bytes_are_in_hex(member: str, value: str) -> None:
    document = json.loads(GOOD.to_json()) | {member: value}
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(json.dumps(document).encode())
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


@pytest.mark.parametrize(
    "respell",
    [
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"[]", id="an array"),
        pytest.param(lambda _: b"[" * 200_000, id="deep"),
        pytest.param(lambda raw: raw[:-3], id="cut off"),
        pytest.param(lambda raw: raw + b"x", id="text behind"),
        pytest.param(lambda raw: raw.replace(b"{", b'{"pck_crl": "",', 1), id="a member twice"),
        pytest.param(lambda raw: raw + b" " * MAX_COLLATERAL_SIZE, id="too long"),
        pytest.param(lambda raw: b"\xff" + raw, id="no UTF-8"),
        pytest.param(lambda raw: raw.decode().encode("utf-16"), id="UTF-16"),
        pytest.param(lambda raw: b"\xef\xbb\xbf" + raw, id="a byte order mark"),
    ],
)
def test_what_is_no_collateral_file_is_refused(respell: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(respell(GOOD.to_json()))
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


def test_what_a_pccs_takes_is_known_and_sent_there() -> None:
    """`eaa simulator collateral` writes it by default."""
    with pytest.raises(MalformedInput) as caught:
        Collateral.from_json(b'{"platforms": [], "collaterals": {}}')
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED
    assert "eaa-pccs upload" in (caught.value.hint or "")
