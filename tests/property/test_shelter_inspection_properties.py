"""Junk is told from a fault of ours: whatever the bytes, an explanation, a problem with a reason, or UNKNOWN_FORMAT."""

from __future__ import annotations

import functools
import json

from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import MalformedInput, Reason
from eaa.identity import Identity
from eaa.shelter.inspection import inspect
from eaa.simulator.platform import Platform
from support.simulated import NOW, REPORT_DATA, SEED, sample_enclave


@functools.cache
def samples() -> list[bytes]:
    """One good file of each format."""
    platform = Platform.create(now=NOW, seed=SEED)
    image, sigstruct = sample_enclave()
    enclave = platform.launch(image, sigstruct)

    class Attester:
        name, tee = "sgx_sim", "sgx"

        def quote(self, report_data: bytes) -> bytes:
            return enclave.quote(report_data)

    collateral = platform.collateral(now=NOW)
    return [
        image[:9000],
        sigstruct,
        enclave.quote(REPORT_DATA),
        Identity(Attester(), clock=lambda: NOW).credentials().certificate,
        platform.pck_pem,
        collateral.to_json(),
        collateral.pck_crl,
        collateral.tcb_info,
        collateral.qe_identity,
        b"HCLA" + bytes(28) + b"\2\0\0\0" + bytes(48) + b"\1" + bytes(1131),
    ]


def explained(raw: bytes) -> str:
    """The format, or the reason; what is told is always JSON that a terminal can show."""
    try:
        found = inspect(raw)
    except MalformedInput as error:
        return error.reason.value
    told = json.dumps(found.facts, ensure_ascii=False)
    assert told.isprintable()
    assert told.encode()
    if found.problem is not None:
        assert found.problem.exit_code in (2, 3)
        assert found.problem.reason is not Reason.INTERNAL
    return found.format


@given(st.binary(max_size=3000))
def test_any_bytes_are_explained_or_unknown(raw: bytes) -> None:
    assert explained(raw)


@given(st.text(max_size=500))
def test_any_text_is_explained_or_unknown(text: str) -> None:
    assert explained(text.encode(errors="surrogatepass"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=10,
)
members = st.sampled_from(
    [
        *("tcbInfo", "enclaveIdentity", "signature", "fmspc", "tcbLevels", "mrsigner", "id", "version"),
        *("tcb_info", "qe_identity", "pck_crl", "root_ca_crl", "tcb_info_issuer_chain", "tdxModuleIdentities"),
    ]
)


@given(st.dictionaries(members, json_values | st.dictionaries(members, json_values), max_size=6))
def test_any_object_is_explained_or_unknown(document: dict[str, object]) -> None:
    assert explained(json.dumps(document).encode())


@given(st.data())
def test_a_file_cut_anywhere_is_explained_or_unknown(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(samples()))
    assert explained(raw[: data.draw(st.integers(0, len(raw)))])


@given(st.data())
def test_a_file_with_changed_bytes_is_explained_or_unknown(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from(samples())))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert explained(bytes(raw))


@given(st.data())
def test_a_file_with_a_part_of_another_inside_is_explained_or_unknown(data: st.DataObject) -> None:
    raw, other = (data.draw(st.sampled_from(samples())) for _ in range(2))
    at = data.draw(st.integers(0, len(raw)))
    assert explained(raw[:at] + other[data.draw(st.integers(0, len(other))) :][:200] + raw[at:])


def test_every_sample_is_what_it_is_meant_to_be() -> None:
    assert [explained(raw) for raw in samples()] == [
        *("enclave-image", "sigstruct", "quote", "ra-tls-certificate", "certificate"),
        *("collateral", "crl", "tcb-info", "qe-identity", "snp-report"),
    ]
