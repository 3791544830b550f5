"""Sample enclave images: small, real page streams, measured and signed like any other.

What the code inside does is leave again at once (EEXIT). Nothing executes it here; evidence is about its bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from eaa.errors import Misuse, Reason
from eaa.evidence.sgx import SGXAttribute
from eaa.measure.sgx import DEFAULT_XFRM, PAGE, encode_sgxs, measure_sgxs
from eaa.measure.sigstruct import EXPONENT, MODULUS_SIZE, SIGSTRUCT, bcd_date

MAX_NAME: Final = 256
"""Bytes of a sample's name."""

_TCS, _REG_RX, _REG_RW = 0x100, 0x205, 0x203
_CODE, _DATA, _SSA, _END = PAGE, 2 * PAGE, 3 * PAGE, 4 * PAGE
# cld; mov rbx, rcx (the address after EENTER); mov eax, 4 (EEXIT); enclu
_LEAVE_AGAIN: Final = bytes.fromhex("fc 4889cb b804000000 0f01d7")


def create_signer_key() -> rsa.RSAPrivateKey:
    """Return a new key that can sign enclaves: RSA-3072 with exponent 3. Takes about a quarter of a second."""
    return rsa.generate_private_key(public_exponent=EXPONENT, key_size=MODULUS_SIZE * 8)


def sample_image(
    name: str,
    *,
    now: datetime,
    signer_key: rsa.RSAPrivateKey | None = None,
    prod_id: int = 1,
    svn: int = 1,
    debug: bool = False,
) -> tuple[bytes, bytes]:
    """Return a sample enclave as (SGXS page stream, SIGSTRUCT).

    Args:
        name: is part of the enclave's data, so that another name is another MRENCLAVE; the same name is the same.
        now: the day of signing.
        signer_key: decides MRSIGNER; a new one where None.
        prod_id: ISVPRODID, u16.
        svn: ISVSVN, u16.
        debug: sign for a debug enclave, whose memory the host can read. Otherwise it cannot be launched as one.
    """
    image = _image(name)
    flags = SGXAttribute.MODE64BIT | (SGXAttribute.DEBUG if debug else 0)
    unsigned = SIGSTRUCT(
        raw_date=bcd_date(now.date()),
        misc_mask=0xFFFFFFFF,
        attributes=int(flags).to_bytes(8, "little") + DEFAULT_XFRM.to_bytes(8, "little"),
        attributes_mask=b"\xff" * 16,
        enclave_hash=measure_sgxs(image).mr_enclave,
        isv_prod_id=prod_id,
        isv_svn=svn,
    )
    return image, unsigned.sign(signer_key or create_signer_key()).encode()


def _image(name: str) -> bytes:
    label = name.encode()
    if not 0 < len(label) <= MAX_NAME:
        raise Misuse(Reason.USAGE, f"a sample's name has 1 to {MAX_NAME} bytes, {len(label)} were given")
    pages = [
        (0, _TCS, _thread_control()),
        (_CODE, _REG_RX, _LEAVE_AGAIN.ljust(PAGE, b"\xcc")),
        (_DATA, _REG_RW, (b"EAA sample enclave\0" + label).ljust(PAGE, b"\0")),
        (_SSA, _REG_RW, bytes(PAGE)),
    ]
    return encode_sgxs(pages, ssa_frame_size=1, enclave_size=_END)


def _thread_control() -> bytes:
    """Return a TCS page: one state save frame, entry at the code page. Source: Intel SDM vol. 3D, "TCS"."""
    page = bytearray(PAGE)
    page[16:24] = _SSA.to_bytes(8, "little")
    page[28:32] = (1).to_bytes(4, "little")
    page[32:40] = _CODE.to_bytes(8, "little")
    page[64:72] = b"\xff" * 8
    return bytes(page)
