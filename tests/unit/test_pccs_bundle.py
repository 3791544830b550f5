"""Bundles: signed, byte-stable, and refused whole where a single byte is another."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from eaa.errors import EAAError, MalformedInput, Misuse, Reason, VerificationError
from eaa.pccs import transfer
from eaa.pccs.admission import admit
from eaa.pccs.bundle import PrivateKey, read_bundle, read_private_key, read_public_key, write_bundle
from eaa.pccs.intel_form import platform_collaterals
from eaa.pccs.parts import decode_part, encode_part
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.store import Store
from eaa.pccs.tables import pck_certs
from eaa.pccs.transfer import export_bundle, export_intel_form, import_bundle, import_intel_form, roots_of
from eaa.pccs.uploads import Upload, parse_upload
from eaa.verifier import INTEL
from support.pccs import NOW, anchors, encode, platform, upload_body, upload_document, with_tdx
from support.pccs_transcript import policy_text

FMSPC: Final = platform().model.fmspc.hex().upper()
POLICY: Final[dict[str, Any]] = {"fmspc": FMSPC, "is_default": True, "policy": policy_text().decode()}
KEYS: dict[str, PrivateKey] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "filled.sqlite")
    upload = parse_upload(encode(with_tdx(upload_document())), api_version=4)
    admit(upload, opened, trust_anchors=anchors(), now=NOW)
    yield opened
    opened.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "empty.sqlite")
    yield opened
    opened.close()


def bundle_of(store: Store, key: PrivateKey = KEYS["Ed25519"]) -> bytes:
    stream = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(store, stream, roots=roots_of(store, ""), key=key, scratch=Path(folder))
    return stream.getvalue()


def intel_form_of(store: Store) -> bytes:
    stream = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        export_intel_form(store, stream, root=store.pkis()[0].root, scratch=Path(folder))
    return stream.getvalue()


def fleet_of(store: Store, count: int) -> None:
    """Many platforms, of names that languages sort otherwise than bytes."""
    upload = parse_upload(upload_body(), api_version=4)
    (one,) = upload.platforms
    many = [replace(one, qe_id=f"{'-_~'[number % 3]}{number:05d}") for number in range(count)]
    store.apply(replace(upload, platforms=tuple(many)), now=NOW)


def contents(store: Store) -> list[bytes]:
    return sorted(encode_part(upload) for pki in store.pkis() for upload in store.contents(pki.root))


@pytest.mark.parametrize("kind", KEYS)
def test_what_is_imported_is_what_was_exported(store: Store, empty: Store, kind: str) -> None:
    bundle = bundle_of(store, KEYS[kind])
    public = KEYS[kind].public_key()
    carried = import_bundle(io.BytesIO(bundle), empty, key=public, trust_anchors=anchors(), now=NOW)
    assert carried.refused == []
    assert carried.platforms == 1
    assert contents(empty) == contents(store)
    assert bundle_of(empty, KEYS[kind]) == bundle


@pytest.mark.parametrize("kind", KEYS)
def test_the_same_content_has_the_same_bytes(store: Store, kind: str) -> None:
    assert bundle_of(store, KEYS[kind]) == bundle_of(store, KEYS[kind])


def test_parts_that_would_be_too_large_are_halved(store: Store, empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet_of(store, 40)
    monkeypatch.setattr(transfer, "MAX_PART", 40_000)
    bundle = bundle_of(store)
    parts = list(read_bundle(io.BytesIO(bundle), key=KEYS["Ed25519"].public_key()))
    listed = [len(json.loads(part)["platforms"]) for part in parts]
    assert sum(listed) == 41
    assert max(listed) < 41
    carried = import_bundle(
        io.BytesIO(bundle), empty, key=KEYS["Ed25519"].public_key(), trust_anchors=anchors(), now=NOW
    )
    assert (carried.platforms, carried.refused) == (41, [])


def test_appraisal_policies_come_along_but_with_no_single_pki(store: Store, empty: Store) -> None:
    store.put_policy(AppraisalPolicy.parse(json.dumps(POLICY).encode()), now=NOW)
    bundle, public = bundle_of(store), KEYS["Ed25519"].public_key()
    carried = import_bundle(io.BytesIO(bundle), empty, key=public, trust_anchors=anchors(), now=NOW)
    assert carried.policies == 1
    assert empty.policies(fmspc=POLICY["fmspc"]) == [POLICY["policy"]]
    assert bundle_of(empty) == bundle


def test_nothing_of_a_bundle_that_is_cut_off_or_changed_is_stored(store: Store, empty: Store) -> None:
    fleet_of(store, 600)
    whole = bundle_of(store)
    changed = bytearray(whole)
    changed[-2000] ^= 1
    for raw in (whole[:-1], whole[: len(whole) // 2], bytes(changed)):
        with pytest.raises(MalformedInput):
            import_bundle(io.BytesIO(raw), empty, key=KEYS["Ed25519"].public_key(), trust_anchors=anchors(), now=NOW)
    assert empty.pkis() == ()


def test_a_platform_without_a_certificate_keeps_none_of_the_others_out(store: Store, empty: Store) -> None:
    """A row that somebody else took away must not spoil a bundle for its reader."""
    fleet_of(store, 3)
    with store._write() as connection:
        connection.execute(pck_certs.delete().where(pck_certs.c.qe_id == "-00000"))
    bundle, public = bundle_of(store), KEYS["Ed25519"].public_key()
    carried = import_bundle(io.BytesIO(bundle), empty, key=public, trust_anchors=anchors(), now=NOW)
    assert (carried.platforms, carried.refused) == (3, [])


def test_it_is_a_tar_archive_like_any_other(store: Store) -> None:
    with tarfile.open(fileobj=io.BytesIO(bundle_of(store))) as archive:
        names = archive.getnames()
        assert names[:3] == ["manifest.json", "signature.json", "parts/000001.json"]
        assert {member.mtime for member in archive.getmembers()} == {0}
        first = archive.extractfile(names[2])
        assert first is not None
        assert json.loads(first.read())["root"] == store.pkis()[0].root


def test_a_bundle_signed_by_another_key_is_refused(store: Store, empty: Store) -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), KEYS["P-256"]):
        with pytest.raises(VerificationError) as caught:
            import_bundle(io.BytesIO(bundle_of(store)), empty, key=key.public_key(), trust_anchors=anchors(), now=NOW)
        assert caught.value.reason is Reason.BUNDLE_SIGNATURE
    assert empty.pkis() == ()


def small_bundle(folder: Path) -> bytes:
    parts = [folder / "a", folder / "b"]
    for path in parts:
        path.write_bytes(path.name.encode() * 700)
    stream = io.BytesIO()
    write_bundle(stream, parts, KEYS["Ed25519"])
    return stream.getvalue()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bundle(tmp_path_factory.mktemp("parts"))


def parts_of(raw: bytes) -> list[bytes]:
    return list(read_bundle(io.BytesIO(raw), key=KEYS["Ed25519"].public_key()))


def test_parts_come_out_in_order(small: bytes) -> None:
    assert parts_of(small) == [b"a" * 700, b"b" * 700]


@given(st.data())
def test_one_changed_byte_is_a_refusal(small: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(small) - 1))
    changed = bytearray(small)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EAAError) as caught:
        parts_of(bytes(changed))
    assert caught.value.reason in (Reason.BUNDLE_MALFORMED, Reason.BUNDLE_SIGNATURE)


@given(st.data())
def test_a_bundle_that_is_cut_off_or_goes_on_is_refused(small: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(small) - 1))
    for raw in (small[:cut], small + b"\0", small + small):
        with pytest.raises(MalformedInput):
            parts_of(raw)


@given(st.binary(max_size=2048))
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedInput):
        parts_of(raw)


def test_a_signature_does_not_make_documents_true(store: Store, empty: Store) -> None:
    """Attack: whoever has the operator's key brings documents of a PKI that is not trusted here."""
    carried = import_bundle(
        io.BytesIO(bundle_of(store)), empty, key=KEYS["Ed25519"].public_key(), trust_anchors=INTEL, now=NOW
    )
    assert (carried.documents, carried.platforms) == (0, 0)
    assert len(carried.refused) > 1
    assert empty.catalogue() == ()


def test_what_is_past_its_time_is_refused(store: Store, empty: Store) -> None:
    later = NOW + timedelta(days=4000)
    carried = import_bundle(
        io.BytesIO(bundle_of(store)), empty, key=KEYS["Ed25519"].public_key(), trust_anchors=anchors(), now=later
    )
    assert carried.refused
    assert carried.documents == 0


def test_a_part_cannot_name_another_root_than_its_own() -> None:
    """Attack: documents of one PKI that are to be stored as another's."""
    upload = parse_upload(upload_body(), api_version=4)
    levels = {each.fmspc: each.tcb_info for each in upload.platforms}
    decoded = decode_part(encode_part(upload), levels=levels)
    assert isinstance(decoded, Upload)
    assert encode_part(decoded) == encode_part(upload)
    with pytest.raises(MalformedInput) as caught:
        decode_part(encode_part(replace(upload, root="00" * 32)), levels=levels)
    assert caught.value.reason is Reason.BUNDLE_MALFORMED


def _members(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield value, name
            yield from _members(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _members(inner)


@pytest.mark.parametrize("junk", [None, 7, [], {}, "zz", True, ["x"], {"x": "y"}])
def test_a_part_of_another_form_is_malformed(junk: object) -> None:
    upload = parse_upload(upload_body(), api_version=4)
    levels = {each.fmspc: each.tcb_info for each in upload.platforms}
    count = len(list(_members(json.loads(encode_part(upload)))))
    for index in range(count):
        document = json.loads(encode_part(upload))
        holder, name = list(_members(document))[index]
        holder[name] = junk  # type: ignore[index]
        # Some junk fits: text stands for other text until it is verified.
        with contextlib.suppress(MalformedInput):
            decode_part(json.dumps(document).encode(), levels=levels)


def test_intels_form_goes_out_and_in_again(store: Store, empty: Store) -> None:
    body = intel_form_of(store)
    carried = import_intel_form(body, empty, trust_anchors=anchors(), now=NOW)
    assert carried.platforms == 1
    assert {(each.key, each.body) for each in empty.catalogue()} == {
        (each.key, each.body) for each in store.catalogue()
    }
    assert intel_form_of(empty) == body


def test_intels_form_is_what_intels_tools_write() -> None:
    upload = parse_upload(upload_body(), api_version=4)
    ours, theirs = json.loads(platform_collaterals([upload])), upload_document()
    assert ours["platforms"][0].keys() == theirs["platforms"][0].keys()
    assert ours["collaterals"].keys() - {"rootcacrl_cdp"} == theirs["collaterals"].keys() - {"rootcacrl_cdp"}
    assert ours["collaterals"]["tcbinfos"] == theirs["collaterals"]["tcbinfos"]


def test_intels_form_that_does_not_verify_is_refused(empty: Store) -> None:
    with pytest.raises(EAAError) as caught:
        import_intel_form(upload_body(), empty, trust_anchors=INTEL, now=NOW)
    assert caught.value.reason is Reason.COLLATERAL_MALFORMED


def test_keys_come_from_pem_files(tmp_path: Path) -> None:
    for name, key in KEYS.items():
        private, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pub"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        assert type(read_private_key(private)) is type(key)
        assert type(read_public_key(public)) is type(key.public_key())
        for read, path in (
            (read_private_key, public),
            (read_public_key, private),
            (read_public_key, tmp_path / "none"),
        ):
            with pytest.raises(Misuse) as caught:
                read(path)
            assert caught.value.reason is Reason.FILE_UNREADABLE


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_other_curves_are_refused(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    path = tmp_path / "key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(Misuse):
        read_private_key(path)


def test_a_prefix_of_a_root_names_a_pki(store: Store) -> None:
    (pki,) = store.pkis()
    assert roots_of(store, pki.root[:6].upper()) == (pki.root,)
    with pytest.raises(Misuse) as caught:
        roots_of(store, "f" * 20)
    assert caught.value.reason is Reason.COLLATERAL_NOT_FOUND
    assert platform().model.fmspc
