"""Files of operators: read with a bound, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from eaa.errors import Misuse, Reason, Unavailable
from eaa.program.files import config_home, read_bytes, read_text, read_trust_anchor, write_whole


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\xff")
    assert read_bytes(path, what="the file") == b"\x00\xff"


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    assert len(read_bytes(path, what="the file", maximum=10)) == 10
    with pytest.raises(Misuse) as caught:
        read_bytes(path, what="the file", maximum=9)
    assert caught.value.reason is Reason.FILE_UNREADABLE


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(Misuse) as caught:
        read_bytes(Path("/dev/zero"), what="the file", maximum=1000)
    assert caught.value.reason is Reason.FILE_UNREADABLE


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_bytes(b"")
    locked.chmod(0)
    paths = [tmp_path / "absent", tmp_path, *([locked] if os.geteuid() else [])]
    for path in paths:
        with pytest.raises(Misuse) as caught:
            read_bytes(path, what="the policy")
        assert caught.value.reason is Reason.FILE_UNREADABLE
        assert caught.value.message.startswith(f"the policy {path} cannot be read: ")


def test_text_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("grün".encode())
    assert read_text(path, what="the file") == "grün"
    path.write_bytes("grün".encode("latin-1"))
    with pytest.raises(Misuse) as caught:
        read_text(path, what="the file")
    assert caught.value.reason is Reason.FILE_UNREADABLE


# --- writing


def test_a_file_is_written_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_whole(path, b"new", mode=0o644)
        # Who has it open goes on reading what was there.
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(Unavailable) as caught:
        write_whole(path, b"new")
    assert caught.value.reason is Reason.PERMISSION_DENIED
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable) as caught:
        write_whole(tmp_path / "file" / "below", b"")
    assert caught.value.reason is Reason.PERMISSION_DENIED


# --- trust anchors


def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    dates = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    return dates.public_key(key.public_key()).sign(key, hashes.SHA256())


def test_a_trust_anchor_is_known_by_its_fingerprint(tmp_path: Path) -> None:
    root = certificate()
    path = tmp_path / "root.pem"
    path.write_bytes(root.public_bytes(Encoding.PEM))
    assert read_trust_anchor(path) == hashlib.sha256(root.public_bytes(Encoding.DER)).digest()


def test_a_trust_anchor_is_one_pem_certificate(tmp_path: Path) -> None:
    pem, der = certificate().public_bytes(Encoding.PEM), certificate().public_bytes(Encoding.DER)
    path = tmp_path / "root.pem"
    for content in (b"", b"junk", der, pem + certificate().public_bytes(Encoding.PEM), pem[:-40]):
        path.write_bytes(content)
        with pytest.raises(Misuse) as caught:
            read_trust_anchor(path)
        assert caught.value.reason is Reason.TRUST_ANCHOR_INVALID


def test_an_oversized_trust_anchor_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(bytes(64 * 1024 + 1))
    with pytest.raises(Misuse) as caught:
        read_trust_anchor(path)
    assert caught.value.reason is Reason.FILE_UNREADABLE


# --- configuration


def test_the_user_s_folder_follows_the_desktop_convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_home({"XDG_CONFIG_HOME": "/etc/xdg"}) == Path("/etc/xdg/eaa")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_home({}) == tmp_path / ".config" / "eaa"
    assert config_home({"XDG_CONFIG_HOME": ""}) == tmp_path / ".config" / "eaa"
