"""MRENCLAVE of an SGX enclave image: an SGXS page stream, or the flat format of the 2021 skeleton enclave.

MRENCLAVE is SHA-256 over 64-byte records in launch order: one ECREATE, an EADD for each page, and an EEXTEND with
256 bytes of content for each measured part of a page. An SGXS file is that very stream, with two record kinds of
its own: UNMEASRD (content that is loaded but not hashed) and UNSIZED (in the place of ECREATE while the enclave's
size is still open).

Sources: Intel SDM vol. 3D, "Measurement of Enclave"; Fortanix, "SGX stream format".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from eaa.errors import MalformedInput, Misuse, Reason
from eaa.measure.sigstruct import SIGSTRUCT

MAX_IMAGE_SIZE: Final = 1 << 30
"""Bytes of an image file. Production enclaves are up to a few hundred MiB."""
MAX_FLAT_SIZE: Final = 1 << 30
"""Bytes that a flat image may map: every one of them is hashed."""
MAX_SSA_FRAME_SIZE: Final = 64
"""Pages of one state save frame; all state components known today need three."""
DEFAULT_XFRM: Final = 3
"""x87 and SSE, which every enclave has."""
DEFAULT_MISC_SELECT: Final = 0

PAGE: Final = 4096
_RECORD: Final = 64
_CHUNK: Final = 256
_ECREATE: Final = b"ECREATE\0"
_EADD: Final = b"EADD\0\0\0\0"
_EEXTEND: Final = b"EEXTEND\0"
_UNMEASURED: Final = b"UNMEASRD"
_UNSIZED: Final = b"UNSIZED\0"
_ELF: Final = b"\x7fELF"

_TCS_FLAGS: Final = 0x100
_REGULAR_RWX_FLAGS: Final = 0x207
_FLAT_METADATA: Final = 17
_DEFAULT_NULL_GUARD: Final = 16 << 20
_GPR_AREA: Final = 184
_EXINFO_AREA: Final = 16
_EXINFO: Final = 1
_TCS_OSSA: Final = slice(16, 24)
_TCS_OENTRY: Final = slice(32, 40)
_TCS_RESERVED_FROM: Final = 72
# End of each XSAVE state component in the standard format (CPUID leaf 0xD, EAX + EBX): fixed by the architecture.
# Source: Intel SDM vol. 1, "XSAVE-Managed Features and State-Component Bitmaps", as every shipped CPU enumerates them.
_XSAVE_COMPONENT_END: Final = {2: 832, 3: 1024, 4: 1088, 5: 1152, 6: 1664, 7: 2688, 9: 2696, 17: 2816, 18: 11008}


class ImageFormat(StrEnum):
    """How an enclave image is stored."""

    SGXS = "sgxs"
    FLAT = "flat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What an image will measure to, and what that depends on."""

    mr_enclave: bytes
    """32 bytes."""
    image_format: ImageFormat
    enclave_size: int
    """Bytes of address space, a power of two."""
    ssa_frame_size: int
    """Pages of one state save frame."""
    pages: int
    """Pages added at launch."""
    offset: int = 0
    """Bytes from the enclave's base to its first page."""
    xfrm: int | None = None
    """The XFRM that was assumed, where the measurement depends on it."""
    misc_select: int | None = None
    """The MISCSELECT that was assumed, where the measurement depends on it."""
    mmap_min_addr: int | None = None
    """The lowest address that was assumed mappable, where the measurement depends on it."""


def identify_image(raw: bytes) -> ImageFormat:
    """Return the format of an enclave image; raise MalformedInput (UNKNOWN_FORMAT) where it is none of ours."""
    if raw[:8] in (_ECREATE, _UNSIZED):
        return ImageFormat.SGXS
    if raw[:4] == _ELF:
        raise MalformedInput(
            Reason.UNKNOWN_FORMAT,
            "the image is an ELF file; its measurement is made by the SDK that loads it, and cannot be computed yet",
            hint="give an SGXS page stream or a flat image, or record the MRENCLAVE that the SDK's tool prints",
        )
    if _looks_flat(raw):
        return ImageFormat.FLAT
    raise MalformedInput(
        Reason.UNKNOWN_FORMAT,
        "the image is neither an SGXS page stream nor a flat image",
        hint="an SGXS file starts with ECREATE; a flat image starts with a TCS page and ends in 17 bytes of metadata",
    )


def measure_image(
    raw: bytes,
    *,
    sigstruct: SIGSTRUCT | None = None,
    xfrm: int | None = None,
    misc_select: int | None = None,
    mmap_min_addr: int | None = None,
) -> Measurement:
    """Measure an image of either format.

    XFRM and MISCSELECT are the arguments, else the SIGSTRUCT's, else 3 and 0; `mmap_min_addr` is the argument, else
    the file's own. An SGXS stream depends on none of them.

    Raises:
        MalformedInput: UNKNOWN_FORMAT or IMAGE_MALFORMED.
        Misuse: XFRM has a state component of unknown size.
    """
    if identify_image(raw) is ImageFormat.SGXS:
        return measure_sgxs(raw)
    if xfrm is None:
        xfrm = sigstruct.xfrm if sigstruct else DEFAULT_XFRM
    if misc_select is None:
        misc_select = sigstruct.misc_select if sigstruct else DEFAULT_MISC_SELECT
    return measure_flat(raw, xfrm=xfrm, misc_select=misc_select, mmap_min_addr=mmap_min_addr)


# --- SGXS ---------------------------------------------------------------------------------------------------------


def measure_sgxs(stream: bytes) -> Measurement:
    """Measure an SGXS page stream, which must be canonical: pages ascending, content inside the page before it.

    Raises:
        MalformedInput: IMAGE_MALFORMED.
    """
    _require_size(len(stream))
    ssa_frame_size, enclave_size = _parse_ecreate(stream)
    walk = _PageWalk(enclave_size=enclave_size)
    digest = hashlib.sha256()
    view = memoryview(stream)
    hashed_up_to, at = 0, _RECORD
    while at < len(stream):
        length, measured = walk.step(stream, at)
        if not measured:
            digest.update(view[hashed_up_to:at])
            hashed_up_to = at + length
        at += length
    digest.update(view[hashed_up_to:])
    return Measurement(
        mr_enclave=digest.digest(),
        image_format=ImageFormat.SGXS,
        enclave_size=enclave_size,
        ssa_frame_size=ssa_frame_size,
        pages=walk.pages,
    )


class _PageWalk:
    """Steps over the records behind ECREATE and refuses what no processor could have measured."""

    def __init__(self, *, enclave_size: int) -> None:
        self.pages = 0
        self._enclave_size = enclave_size
        self._page = -1
        self._chunks: set[int] = set()

    def step(self, stream: bytes, at: int) -> tuple[int, bool]:
        """Return the length of the record at `at`, its content included, and whether it is hashed."""
        header = stream[at : at + _RECORD]
        tag, offset = header[:8], int.from_bytes(header[8:16], "little")
        if len(header) < _RECORD:
            raise _malformed(f"the stream ends inside the record at byte {at}")
        if tag == _EADD:
            self._add_page(offset, header, at)
            return _RECORD, True
        if tag not in (_EEXTEND, _UNMEASURED):
            raise _malformed(f"the record at byte {at} is of unknown kind {tag!r}")
        if len(stream) - at < _RECORD + _CHUNK:
            raise _malformed(f"the stream ends inside the content of the record at byte {at}")
        self._extend(offset, header, at)
        return _RECORD + _CHUNK, tag == _EEXTEND

    def _add_page(self, offset: int, header: bytes, at: int) -> None:
        if offset % PAGE or offset <= self._page or offset >= self._enclave_size:
            raise _malformed(
                f"the page at byte {at} has offset {offset:#x}: not a page above the one before it and inside "
                f"the enclave's {self._enclave_size:#x} bytes"
            )
        if any(header[24:]):
            raise _malformed(f"the page at byte {at} has reserved bytes that are not zero")
        self.pages += 1
        self._page = offset
        self._chunks.clear()

    def _extend(self, offset: int, header: bytes, at: int) -> None:
        within = offset - self._page
        if self._page < 0 or not 0 <= within < PAGE or within % _CHUNK or within in self._chunks:
            raise _malformed(f"the content at byte {at} has offset {offset:#x}: not a new part of the page before it")
        if any(header[16:]):
            raise _malformed(f"the content at byte {at} has reserved bytes that are not zero")
        self._chunks.add(within)


def _parse_ecreate(stream: bytes) -> tuple[int, int]:
    header = stream[:_RECORD]
    if header[:8] == _UNSIZED:
        raise _malformed("the stream is unsized: an enclave has no measurement before its size is fixed")
    if len(header) < _RECORD or header[:8] != _ECREATE:
        raise _malformed("the stream does not start with an ECREATE record")
    ssa_frame_size = int.from_bytes(header[8:12], "little")
    enclave_size = int.from_bytes(header[12:20], "little")
    if enclave_size < PAGE or enclave_size & (enclave_size - 1):
        raise _malformed(f"the enclave's size {enclave_size:#x} is not a power of two of at least one page")
    if not 0 < ssa_frame_size <= MAX_SSA_FRAME_SIZE or any(header[20:]):
        raise _malformed(f"the ECREATE record is not valid: {ssa_frame_size} pages of state, or reserved bytes set")
    return ssa_frame_size, enclave_size


# --- flat ---------------------------------------------------------------------------------------------------------


def measure_flat(image: bytes, *, xfrm: int, misc_select: int, mmap_min_addr: int | None = None) -> Measurement:
    """Measure a flat image: pages as they lie in memory, a TCS first, 17 bytes of metadata last.

    1. Read the metadata: u64 size to map (0: as needed), u8 null-dereference protection, u64 mmap_min_addr.
    2. Find offset and size: protected images start at mmap_min_addr (16 MiB where that is 0), others at 0.
    3. Relocate the TCS, which is page 0: OSSA behind the image, OENTRY moved by the offset.
    4. Measure every page: the file's, then zero pages for the state save area and the rest of the mapping.

    Args:
        image: the file.
        xfrm: the state components that the enclave may use; with `misc_select` it decides the size of a state frame.
        misc_select: MISCSELECT.
        mmap_min_addr: stands for the metadata's, where given.

    Raises:
        MalformedInput: IMAGE_MALFORMED.
        Misuse: XFRM has a state component of unknown size, or `mmap_min_addr` is no page address.
    """
    _require_size(len(image))
    if not _looks_flat(image):
        raise _malformed("the file has no TCS page in front or no metadata at its end: it is no flat image")

    # 1.
    to_map, protected, own_address = _flat_metadata(image)
    address = own_address if mmap_min_addr is None else mmap_min_addr
    if protected or mmap_min_addr is not None:
        _require_page_address(address, given=mmap_min_addr is not None)

    # 2.
    ssa_pages = _ssa_pages(xfrm, misc_select)
    file_size = _round_up(len(image))
    mapped = _round_up(to_map or len(image) + PAGE * ssa_pages)
    if not file_size <= mapped <= MAX_FLAT_SIZE:
        raise _malformed(
            f"the image asks to map {mapped} bytes: it has {len(image)}, and {MAX_FLAT_SIZE} are the limit"
        )
    offset = (address or _DEFAULT_NULL_GUARD) if protected else 0
    enclave_size = 1 << (offset + mapped - 1).bit_length()

    # 3.
    pages = bytearray(image.ljust(file_size, b"\0"))
    _relocate(pages, offset)

    # 4.
    digest = hashlib.sha256(_ecreate_record(ssa_pages, enclave_size))
    for at in range(0, mapped, PAGE):
        flags = _REGULAR_RWX_FLAGS if at else _TCS_FLAGS
        content = pages[at : at + PAGE] if at < file_size else bytes(PAGE)
        digest.update(_page_records(offset + at, flags, content))
    return Measurement(
        mr_enclave=digest.digest(),
        image_format=ImageFormat.FLAT,
        enclave_size=enclave_size,
        ssa_frame_size=ssa_pages,
        pages=mapped // PAGE,
        offset=offset,
        xfrm=xfrm,
        misc_select=misc_select,
        mmap_min_addr=address,
    )


def _relocate(pages: bytearray, offset: int) -> None:
    """Write the TCS, which is page 0, as the loader does: the state save area begins behind the file's pages."""
    entry = int.from_bytes(pages[_TCS_OENTRY], "little") + offset
    pages[_TCS_OSSA] = (offset + len(pages)).to_bytes(8, "little")
    pages[_TCS_OENTRY] = (entry % (1 << 64)).to_bytes(8, "little")


def _looks_flat(raw: bytes) -> bool:
    """Whether `raw` starts with an unused TCS with at least one state frame, and ends in possible metadata."""
    if len(raw) < PAGE + _FLAT_METADATA or raw[-9] not in (0, 1):
        return False
    state, state_frames = raw[:8], int.from_bytes(raw[28:32], "little")
    return not any(state) and state_frames > 0 and not any(raw[_TCS_RESERVED_FROM:PAGE])


def _flat_metadata(image: bytes) -> tuple[int, bool, int]:
    metadata = image[-_FLAT_METADATA:]
    return int.from_bytes(metadata[:8], "little"), bool(metadata[8]), int.from_bytes(metadata[9:], "little")


def _require_page_address(address: int, *, given: bool) -> None:
    if address % PAGE == 0 and 0 <= address <= MAX_FLAT_SIZE:
        return
    message = f"mmap_min_addr {address:#x} is no page address up to {MAX_FLAT_SIZE:#x}"
    raise Misuse(Reason.USAGE, message) if given else _malformed(message)


def _ssa_pages(xfrm: int, misc_select: int) -> int:
    """Return the pages of one state save frame: extended state, general registers, and EXINFO where selected."""
    tail = _GPR_AREA + (_EXINFO_AREA if misc_select & _EXINFO else 0)
    needed = PAGE
    for component in range(2, xfrm.bit_length()):
        if not xfrm >> component & 1:
            continue
        if component not in _XSAVE_COMPONENT_END:
            raise Misuse(Reason.USAGE, f"XFRM {xfrm:#x} has state component {component}, whose size is not known")
        needed = max(needed, _XSAVE_COMPONENT_END[component] + tail)
    return _round_up(needed) // PAGE


# --- records ------------------------------------------------------------------------------------------------------


def _ecreate_record(ssa_frame_size: int, enclave_size: int) -> bytes:
    return (_ECREATE + ssa_frame_size.to_bytes(4, "little") + enclave_size.to_bytes(8, "little")).ljust(_RECORD, b"\0")


def _page_records(offset: int, flags: int, content: bytes | bytearray) -> bytes:
    """Return what is hashed for one wholly measured page: EADD, then sixteen times EEXTEND with 256 bytes."""
    records = [(_EADD + offset.to_bytes(8, "little") + flags.to_bytes(8, "little")).ljust(_RECORD, b"\0")]
    for at in range(0, PAGE, _CHUNK):
        records.append((_EEXTEND + (offset + at).to_bytes(8, "little")).ljust(_RECORD, b"\0"))
        records.append(bytes(content[at : at + _CHUNK]))
    return b"".join(records)


def encode_sgxs(pages: list[tuple[int, int, bytes]], *, ssa_frame_size: int, enclave_size: int) -> bytes:
    """Return the SGXS stream of wholly measured pages, each (offset, SECINFO flags, 4096 bytes), ascending."""
    return _ecreate_record(ssa_frame_size, enclave_size) + b"".join(_page_records(*page) for page in pages)


def _round_up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _require_size(size: int) -> None:
    if size > MAX_IMAGE_SIZE:
        raise _malformed(f"the image has {size} bytes, the limit is {MAX_IMAGE_SIZE}")


def _malformed(message: str) -> MalformedInput:
    return MalformedInput(Reason.IMAGE_MALFORMED, message)
