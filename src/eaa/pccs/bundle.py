"""A bundle: parts in a tar archive, with a list of what they have to be, signed by an operator's key.

    manifest.json     {"format":"eaa-pccs bundle","parts":{"parts/000001.json":SHA-256,…},"version":1}
    signature.json    {"algorithm":…,"signature":…}: over the bytes of manifest.json
    parts/000001.json and so on, see `eaa.pccs.parts`

The same parts, signed by the same key, give the same bytes: nothing of a day, a user or a machine is in it. When it is
read, each header has to be the very one that would be written, so that there is no other archive than ours to get
wrong; nothing of a part is looked at before the signature holds and its digest fits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from eaa.errors import Misuse, Reason, VerificationError
from eaa.pccs.parts import MAX_PART, malformed

FORMAT: Final = "eaa-pccs bundle"
VERSION: Final = 1
MAX_PARTS: Final = 10_000
MAX_MANIFEST: Final = 2 * 1024 * 1024
MAX_SIGNATURE: Final = 1024
MAX_KEY: Final = 16 * 1024
"""Bytes of a key file."""
BLOCK: Final = 512
_MANIFEST: Final = "manifest.json"
_SIGNATURE: Final = "signature.json"
_END: Final = bytes(2 * BLOCK)
_ED25519: Final = "Ed25519"
_P256: Final = "ECDSA-P256-SHA256"
_SIZE: Final = re.compile(rb"[0-7]{11}")
_HOW_TO: Final = (
    "`openssl genpkey -algorithm ed25519 -out bundle.key` makes one, "
    "`openssl pkey -in bundle.key -pubout -out bundle.pub` what verifies it"
)

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


def read_private_key(path: Path) -> PrivateKey:
    """Return the key in a PEM file, Ed25519 or P-256. Raises Misuse (FILE_UNREADABLE)."""
    try:
        key = serialization.load_pem_private_key(_read_key(path), password=None)
    except (ValueError, TypeError) as error:
        raise _no_key(path, "it is no private key in PEM without a password") from error
    if isinstance(key, ed25519.Ed25519PrivateKey) or _is_p256(key):
        return key  # type: ignore[return-value]
    raise _no_key(path, "it is of another kind than Ed25519 and P-256")


def read_public_key(path: Path) -> PublicKey:
    """Return the public key in a PEM file, Ed25519 or P-256. Raises Misuse (FILE_UNREADABLE)."""
    try:
        key = serialization.load_pem_public_key(_read_key(path))
    except (ValueError, TypeError) as error:
        raise _no_key(path, "it is no public key in PEM") from error
    if isinstance(key, ed25519.Ed25519PublicKey) or _is_p256(key):
        return key  # type: ignore[return-value]
    raise _no_key(path, "it is of another kind than Ed25519 and P-256")


def _is_p256(key: object) -> bool:
    is_ec = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
    return is_ec and isinstance(key.curve, ec.SECP256R1)  # type: ignore[attr-defined]


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_KEY)
    except OSError as error:
        raise _no_key(path, error.strerror or str(error)) from error


def _no_key(path: Path, why: str) -> Misuse:
    return Misuse(Reason.FILE_UNREADABLE, f"the key {path} cannot be used: {why}", hint=_HOW_TO)


# --- writing


def write_bundle(stream: IO[bytes], parts: Sequence[Path], key: PrivateKey) -> None:
    """Write a bundle.

    Args:
        stream: binary.
        parts: files, each with one part.
        key: signs it.
    """
    names = {f"parts/{number:06d}.json": path for number, path in enumerate(parts, 1)}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}
    manifest = _json({"format": FORMAT, "version": VERSION, "parts": digests})
    _write(stream, _MANIFEST, manifest)
    _write(stream, _SIGNATURE, _json(_sign(manifest, key)))
    for name, path in names.items():
        _write(stream, name, path.read_bytes())
    stream.write(_END)


def _sign(manifest: bytes, key: PrivateKey) -> dict[str, str]:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"algorithm": _ED25519, "signature": key.sign(manifest).hex()}
    # RFC 6979: signed twice, it is the same signature.
    signature = key.sign(manifest, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return {"algorithm": _P256, "signature": signature.hex()}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(stream: IO[bytes], name: str, content: bytes) -> None:
    stream.write(_header(name, len(content)) + content + bytes(-len(content) % BLOCK))


def _header(name: str, size: int) -> bytes:
    """Return the header of a file in a tar archive, POSIX.1-1988, with nothing in it but name and size."""

    def field(text: bytes, length: int) -> bytes:
        return text.ljust(length, b"\0")

    fields = (
        (name.encode("ascii"), 100),
        (b"0000644\0", 8),
        (b"0000000\0", 8),
        (b"0000000\0", 8),
        (b"%011o\0" % size, 12),
        (b"00000000000\0", 12),
        (b" " * 8, 8),
        (b"0", 1),
        (b"", 100),
        (b"ustar\x0000", 8),
    )
    header = b"".join(field(*each) for each in fields).ljust(BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


# --- reading


def read_bundle(stream: IO[bytes], *, key: PublicKey) -> Iterator[bytes]:
    """Yield the parts of a bundle, each once the signature over all of them, and its own digest, have been found right.

    Args:
        stream: binary.
        key: the only one whose signature counts.

    Raises:
        MalformedInput: BUNDLE_MALFORMED, it is cut off, changed or something else.
        VerificationError: BUNDLE_SIGNATURE, this key did not sign it.
    """
    manifest = _member(stream, _MANIFEST, MAX_MANIFEST)
    _verify(manifest, _member(stream, _SIGNATURE, MAX_SIGNATURE), key)
    for name, digest in _listed(manifest):
        part = _member(stream, name, MAX_PART)
        if hashlib.sha256(part).hexdigest() != digest:
            raise malformed(f"{name} is not what was signed")
        yield part
    if stream.read(len(_END) + 1) != _END:
        raise malformed("something follows its last part")


def _member(stream: IO[bytes], name: str, maximum: int) -> bytes:
    header = stream.read(BLOCK)
    size = header[124:135]
    if len(header) != BLOCK or not _SIZE.fullmatch(size) or header != _header(name, int(size, 8)):
        raise malformed(f"there is no {name} where it has to be")
    if int(size, 8) > maximum:
        raise malformed(f"{name} has {int(size, 8)} bytes, the limit is {maximum}")
    length = int(size, 8)
    content = stream.read(length + -length % BLOCK)
    if len(content) != length + -length % BLOCK or any(content[length:]):
        raise malformed(f"{name} is cut off")
    return content[:length]


def _verify(manifest: bytes, raw: bytes, key: PublicKey) -> None:
    try:
        said = json.loads(raw)
        algorithm, signature = said["algorithm"], bytes.fromhex(said["signature"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise malformed("its signature cannot be read") from error
    expected = _ED25519 if isinstance(key, ed25519.Ed25519PublicKey) else _P256
    if algorithm != expected:
        raise _not_signed(f"it is signed with {expected if algorithm not in (_ED25519, _P256) else algorithm}")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, manifest)
        else:
            key.verify(signature, manifest, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _not_signed("the signature is another key's, or the bundle was changed") from error


def _not_signed(why: str) -> VerificationError:
    return VerificationError(
        Reason.BUNDLE_SIGNATURE,
        f"the bundle is not signed by this key: {why}",
        hint="--key names the public key of whoever exported it",
    )


def _listed(manifest: bytes) -> Iterable[tuple[str, str]]:
    """Return the parts that the manifest lists, in their order. Its signature holds, and still it may be another's."""
    try:
        said = json.loads(manifest)
        parts: dict[str, str] = said["parts"]
        is_known = (said["format"], said["version"]) == (FORMAT, VERSION)
        in_order = list(parts) == [f"parts/{number:06d}.json" for number in range(1, len(parts) + 1)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise malformed("its manifest cannot be read") from error
    if not is_known:
        raise malformed("it is of a version that this program does not know")
    if not in_order or len(parts) > MAX_PARTS:
        raise malformed("its manifest does not list parts one after the other")
    return parts.items()
