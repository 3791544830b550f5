"""Certificates and CRLs before two readers, ours and the library: what ours takes, the library takes and reads alike.

Ours may refuse more. It may not take one certificate that the library would refuse, nor see another name, date, key or
serial in it: then somebody could show two verifiers two things.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import QEIdentity, TCBInfo
from eaa.collateral.x509 import CRL, SGX_EXTENSION_OID, Certificate, parse_pem_chain
from eaa.errors import MalformedInput, Reason
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from support.dcap_world import World, compact, key_id, name_of, qe_identity, tcb_info, tlv
from support.vectors import AVAILABLE, ROOT

WORLD: Final = World()
WORLD.pck_crl.revoked = [1, 0x80, 1 << 158]
REFUSALS: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)


def real_ones() -> tuple[set[bytes], set[bytes]]:
    """Every certificate and CRL of the vectors."""
    certificates: set[bytes] = set()
    crls: set[bytes] = set()
    if not AVAILABLE:
        return certificates, crls
    for case in json.loads((ROOT / "cases.json").read_text(encoding="utf-8")):
        collateral = Collateral.from_json((ROOT / case["collateral"]).read_bytes())
        crls |= {collateral.root_ca_crl, collateral.pck_crl}
        chains = [
            collateral.pck_crl_issuer_chain,
            collateral.tcb_info_issuer_chain,
            collateral.qe_identity_issuer_chain,
        ]
        quote, _ = Quote.parse_prefix((ROOT / case["quote"]).read_bytes())
        if quote.certification_data_type == CertificationDataType.PCK_CHAIN:
            chains.append(quote.certification_data)
        certificates.update(der for chain in chains for der in parse_pem_chain(chain))
    return certificates, crls


REAL_CERTIFICATES, REAL_CRLS = real_ones()
CERTIFICATES: Final = sorted(
    REAL_CERTIFICATES | {each.der() for each in (WORLD.root, WORLD.pck_ca, WORLD.pck, WORLD.tcb_signer)}
)
CRLS: Final = sorted(REAL_CRLS | {WORLD.root_crl.der(), WORLD.pck_crl.der()})


def value_of(extensions: x509.Extensions, kind: type[Any]) -> Any:
    found = [item.value for item in extensions if isinstance(item.value, kind)]
    return found[0] if found else None


def as_the_library_reads(raw: bytes) -> dict[str, Any]:
    certificate = x509.load_der_x509_certificate(raw)
    extensions = certificate.extensions
    constraints = value_of(extensions, x509.BasicConstraints)
    usage = value_of(extensions, x509.KeyUsage)
    subject_key_id = value_of(extensions, x509.SubjectKeyIdentifier)
    authority = value_of(extensions, x509.AuthorityKeyIdentifier)
    sgx = [item.value.value for item in extensions if item.oid.dotted_string == SGX_EXTENSION_OID]
    flags = {"digitalSignature": "digital_signature", "keyCertSign": "key_cert_sign", "cRLSign": "crl_sign"}
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    return {
        "common_name": certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value,
        "issuer_common_name": certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value,
        "subject": certificate.subject.public_bytes(),
        "issuer": certificate.issuer.public_bytes(),
        "serial_number": certificate.serial_number,
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "public_key": key.public_numbers(),
        "subject_key_id": None if subject_key_id is None else subject_key_id.digest,
        "authority_key_id": None if authority is None else authority.key_identifier,
        "is_ca": None if constraints is None else constraints.ca,
        "path_length": None if constraints is None else constraints.path_length,
        "key_usage": usage and frozenset(name for name, flag in flags.items() if getattr(usage, flag)),
        "sgx_extension": sgx[0] if sgx else None,
        "tbs_bytes": certificate.tbs_certificate_bytes,
        "signature": certificate.signature,
    }


def crl_as_the_library_reads(raw: bytes) -> dict[str, Any]:
    crl = x509.load_der_x509_crl(raw)
    return {
        "issuer": crl.issuer.public_bytes(),
        "number": value_of(crl.extensions, x509.CRLNumber).crl_number,
        "authority_key_id": value_of(crl.extensions, x509.AuthorityKeyIdentifier).key_identifier,
        "this_update": crl.last_update_utc,
        "next_update": crl.next_update_utc,
        "revoked_serials": {entry.serial_number for entry in crl},
        "tbs_bytes": crl.tbs_certlist_bytes,
        "signature": crl.signature,
    }


def agree(raw: bytes, parse: Callable[[bytes], Any], library: Callable[[bytes], dict[str, Any]]) -> bool:
    """Whether ours takes it, after a comparison with what the library makes of it."""
    try:
        ours = parse(raw)
    except MalformedInput:
        return False
    with warnings.catch_warnings():
        # Of a country of three letters, for instance. Such texts mean nothing to us.
        warnings.simplefilter("ignore")
        theirs = library(raw)
    for name, value in theirs.items():
        mine = getattr(ours, name)
        assert (mine.public_numbers() if name == "public_key" else mine) == value, name
    return True


KINDS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[bytes], dict[str, Any]], list[bytes]]]] = {
    "certificate": (Certificate.parse, as_the_library_reads, CERTIFICATES),
    "CRL": (CRL.parse, crl_as_the_library_reads, CRLS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_read_the_same_in_what_is_real(kind: str) -> None:
    parse, library, corpus = KINDS[kind]
    assert all(agree(raw, parse, library) for raw in corpus)


def changed(raw: bytes, changes: list[tuple[float, int, int]]) -> bytes:
    """Bytes flipped, set, left out and put in."""
    mutant = bytearray(raw)
    for where, how, value in changes:
        at = int(where * len(mutant))
        if how == 0:
            mutant[at] ^= 1 << value % 8
        elif how == 1:
            mutant[at] = value
        elif how == 2:
            del mutant[at]
        else:
            mutant.insert(at, value)
    return bytes(mutant)


CHANGES: Final = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 0, 0, 1, 1, 2, 3]), st.integers(0, 255)),
    min_size=1,
    max_size=2,
)


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(0, 1000), changes=CHANGES)
def test_what_ours_takes_of_the_changed_the_library_takes_and_reads_the_same(
    kind: str, number: int, changes: list[tuple[float, int, int]]
) -> None:
    parse, library, corpus = KINDS[kind]
    agree(changed(corpus[number % len(corpus)], changes), parse, library)


@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_of_one_is_read_the_same_or_refused(kind: str) -> None:
    parse, library, _ = KINDS[kind]
    raw = WORLD.pck.der() if kind == "certificate" else WORLD.pck_crl.der()
    for at in range(len(raw)):
        for bit in range(8):
            agree(raw[:at] + bytes((raw[at] ^ 1 << bit,)) + raw[at + 1 :], parse, library)


# --- names

CN: Final = bytes.fromhex("0603550403")
OTHERS: Final = (bytes.fromhex("060355040a"), bytes.fromhex("0603550406"), bytes.fromhex("06022a03"), b"\x06\x01\x2a")
decoys = st.builds(lambda text: tlv(0x31, tlv(0x30, CN + tlv(0x0C, text))), st.binary(max_size=8))
texts = st.one_of(st.binary(max_size=20), decoys, st.integers(100, 300).map(lambda size: b"x" * size), st.just(b"CA"))
attributes = st.builds(
    lambda oid, tag, text: tlv(0x30, oid + tlv(tag, text)),
    st.sampled_from([CN, CN, *OTHERS]),
    st.sampled_from([0x0C, 0x13, 0x1E]),
    texts,
)
parts = st.lists(attributes, min_size=1, max_size=2).map(lambda items: tlv(0x31, b"".join(items)))
names = st.lists(parts, max_size=5).map(lambda items: tlv(0x30, b"".join(items)))


def one_part(text: bytes) -> bytes:
    return tlv(0x31, tlv(0x30, CN + tlv(0x0C, text)))


@given(names)
@example(tlv(0x30, one_part(b"Intel SGX Root CA")))
@example(tlv(0x30, one_part(b"x" * 118)))
@example(tlv(0x30, one_part(b"a") + one_part(b"b")))
@example(tlv(0x30, b""))
def test_both_read_one_common_name(name: bytes) -> None:
    """The longest part is a certificate's subject, in a certificate whose lengths fit."""
    raw = WORLD.root.der()
    old = name_of("Intel SGX Root CA").public_bytes()
    tbs = Certificate.parse(raw).tbs_bytes
    body = tbs[4:].replace(old, name)
    agree(tlv(0x30, tlv(0x30, body) + raw[4 + len(tbs) :]), Certificate.parse, as_the_library_reads)


def test_other_extensions_are_left_to_the_library() -> None:
    """They mean nothing to us; one that is no extension at all is refused all the same."""
    world = World()
    world.pck.extra.append((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False))
    assert agree(world.pck.der(), Certificate.parse, as_the_library_reads)
    world.pck.extra.append((x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x05\x00"), False))
    with pytest.raises(MalformedInput) as caught:
        Certificate.parse(world.pck.der())
    assert caught.value.reason is Reason.CERTIFICATE_MALFORMED


@pytest.mark.parametrize("size", [1, 20, 32, 123])
def test_key_identifiers_of_any_size_are_read(size: int) -> None:
    world = World()
    world.pck.authority_key_id = world.pck.subject_key_id = (key_id("pck") * 8)[:size]
    assert agree(world.pck.der(), Certificate.parse, as_the_library_reads)


# --- members of JSON documents

DOCUMENTS: Final[dict[str, tuple[Callable[[bytes], object], dict[str, Any], Reason]]] = {
    "TCB Info for SGX": (TCBInfo.parse, tcb_info(TEEType.SGX), Reason.TCB_INFO_MALFORMED),
    "TCB Info for TDX": (TCBInfo.parse, tcb_info(TEEType.TDX), Reason.TCB_INFO_MALFORMED),
    "QE identity": (QEIdentity.parse, qe_identity(TEEType.SGX), Reason.QE_IDENTITY_MALFORMED),
}


def objects_of(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_of(child)


def with_a_member_twice(document: dict[str, Any]) -> Iterator[bytes]:
    """Every member of every object once more, in turn, at the end of its object, as it is."""
    marker = "marker"
    for item in objects_of(document):
        for name, value in list(item.items()):
            item[marker] = value
            yield compact(document).replace(b'"marker":', json.dumps(name).encode() + b":")
            del item[marker]


@pytest.mark.parametrize("colon", [b'":', b'": ', b'" :', b'"\n:', b'"\t:'])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_member_that_stands_twice_anywhere_is_refused(name: str, colon: bytes) -> None:
    parse, document, reason = DOCUMENTS[name]
    document = copy.deepcopy(document)
    document["unknown"] = {"deep": [{"er": 1}, {"and": {"deeper": 2}}]}
    count = 0
    for raw in with_a_member_twice(document):
        count += 1
        with pytest.raises(MalformedInput) as caught:
            parse(raw.replace(b'":', colon))
        assert caught.value.reason is reason
        assert "twice" in caught.value.message
    assert count == sum(map(len, objects_of(document)))
