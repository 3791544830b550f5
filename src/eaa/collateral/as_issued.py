"""Certificates and CRLs as Intel issues them, read in one go.

Every certificate of Intel's attestation PKI is built of the same fields in the same order, and so is every CRL, so that
one regular expression recognises it, and takes out what differs. That is faster than to walk through its elements, of
which a first verification would otherwise look at hundreds. What is not spelled to the byte as here is nothing to this
room: it answers None, and `eaa.collateral.x509` and `eaa.collateral.intel` walk, element by element, through
everything. They alone know what is wrong, and what is legal too. `tests/property/test_collateral_shortcuts.py` holds
what is read here against what they find.

An expression cannot compare a length with what it counts, so each length is compared afterwards, with where the match
says that its content begins and ends. Names and distribution points are left as they stand, for their readers.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

COMPONENTS: Final = 16
"""SVN components of a CPU, and of a TDX module."""
_MAX_CERTIFICATE_SIZE: Final = 2048
"""Bytes; Intel's have under 1300."""
_MAX_CRL_SIZE: Final = 16 * 1024
"""Bytes; Intel's have under 3500."""
_ALGORITHM: Final = "300a06082a8648ce3d040302"
P256_KEY: Final = "3059301306072a8648ce3d020106082a8648ce3d03010703420004"
"""How every key on P-256 begins that is told by both coordinates."""
_SGX_ARC: Final = "2a864886f84d010d01"


def _exactly(spelled: str) -> bytes:
    return re.escape(bytes.fromhex(spelled))


def _sgx_field(arcs: str, value: str, size: int) -> bytes:
    """Return the beginning of a field of the SGX extension up to the content of its value, of so many bytes."""
    oid = f"06{9 + len(arcs) // 2:02x}{_SGX_ARC}{arcs}"
    return _exactly(f"30{len(oid) // 2 + 2 + size:02x}{oid}{value}{size:02x}")


def _up_to(spelled: str) -> bytes:
    """Return what takes a SEQUENCE, and whatever follows it, up to the SEQUENCE that begins like this."""
    return rb"(\x30(?:[^\x30]++|\x30(?!%b))*+)" % _exactly(spelled[2:])


_DATE: Final = rb"\x17\x0d(\d{6}(?:[01]\d|2[0-3])\d{4})Z"
# More than 255, or it would be told in one byte.
_WIDE: Final = rb"\x82([\x01-\xff].)"
_SIGNS_CERTIFICATES: Final = bytes.fromhex("0106")
_YES: Final = b"\xff"
# Where lengths stand among the groups of the expressions.
_OF_FEW, _OF_FEWER, _OF_MANY, _OF_MORE, _OF_EXTENSION, _OF_SIGNATURE_SIZE = 9, 10, 11, 12, 18, 21
_OF_FIELD, _OF_TCB, _OF_CPU_SVN = 3, 4, 22
_BEFORE_SIGNATURE_SIZE: Final = 1 + len(_ALGORITHM) // 2
_CERTIFICATE: Final = re.compile(
    b"".join(
        (
            rb"\x30" + _WIDE + rb"\x30" + _WIDE + _exactly("a003020102"),
            rb"\x02(?:\x14(?=[\x01-\x7f])|\x15(?=\x00[\x80-\xff]))((?<=\x14).{20}|(?<=\x15).{21})",
            _exactly(_ALGORITHM),
            _up_to("301e170d") + rb"\x30\x1e" + _DATE + _DATE,
            _up_to("30593013") + rb"(" + _exactly(P256_KEY) + rb".{64})",
            rb"\xa3(?:\x81([\x80-\xff])\x30\x81([\x80-\xff])|" + _WIDE + rb"\x30" + _WIDE + rb")",
            _exactly("301f0603551d23041830168014") + rb"(.{20})",
            _up_to("301d0603551d0e"),
            _exactly("301d0603551d0e04160414") + rb"(.{20})",
            _exactly("300e0603551d0f0101ff04040302") + rb"(\x06\xc0|\x01\x06)",
            rb"\x30(?:\x0c" + _exactly("0603551d130101ff04023000"),
            rb"|\x12" + _exactly("0603551d130101ff040830060101ff0201") + rb"([\x00-\x7f]))",
            rb"(?:\x30" + _WIDE + _exactly(f"0609{_SGX_ARC}04") + _WIDE + rb"(\x30.{1,1023}))?",
            _exactly(_ALGORITHM) + rb"\x03([\x00-\x7f])\x00(\x30.{1,125})",
        )
    ),
    re.DOTALL,
)


class IssuedCertificate(NamedTuple):
    """What differs from one certificate to another."""

    serial: bytes
    """The content of an INTEGER; positive."""
    issuer: bytes
    """Begins like a Name."""
    not_before: bytes
    """YYMMDDHHMMSS, twelve digits, the hour from 00 to 23."""
    not_after: bytes
    subject: bytes
    """Begins like a Name."""
    spki: bytes
    """On P-256, uncompressed."""
    authority_key_id: bytes
    distribution_points: bytes
    """Begins like that extension."""
    subject_key_id: bytes
    signs_certificates: bool
    """Whether keyUsage is keyCertSign and cRLSign; else it is digitalSignature and nonRepudiation."""
    path_length: int | None
    """None where basicConstraints say that this is no CA."""
    sgx_extension: bytes | None
    tbs_bytes: bytes
    signature: bytes


def read_certificate(raw: bytes) -> IssuedCertificate | None:
    """Return the parts of a certificate; None where it is not spelled as Intel's are."""
    found = None if len(raw) > _MAX_CERTIFICATE_SIZE else _CERTIFICATE.fullmatch(raw)
    if found is None:
        return None
    (whole, tbs, serial, issuer, begins, ends, subject, spki, few, fewer, many, more, *rest) = found.groups()
    authority, points, subject_key, usage, path, extension, octets, sgx, size, signature = rest
    # The algorithm behind what is signed, and the header of the signature but for its size.
    end = found.start(_OF_SIGNATURE_SIZE) - _BEFORE_SIGNATURE_SIZE
    if (
        _number(whole) != len(raw) - 4
        or _number(tbs) != end - 8
        or _number(few or many) != end - found.end(_OF_FEW if few else _OF_MANY)
        or _number(fewer or more) != end - found.end(_OF_FEWER if few else _OF_MORE)
        or size[0] != len(signature) + 1
        or (sgx is not None and (_number(extension) != end - found.end(_OF_EXTENSION) or _number(octets) != len(sgx)))
    ):
        return None
    return IssuedCertificate(
        serial=serial,
        issuer=issuer,
        not_before=begins,
        not_after=ends,
        subject=subject,
        spki=spki,
        authority_key_id=authority,
        distribution_points=points,
        subject_key_id=subject_key,
        signs_certificates=usage == _SIGNS_CERTIFICATES,
        path_length=None if path is None else path[0],
        sgx_extension=sgx,
        tbs_bytes=raw[4:end],
        signature=signature,
    )


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


# A length in whichever of three groups its form has.
_LENGTH: Final = rb"(?:([\x00-\x7f])|\x81([\x80-\xff])|" + _WIDE + rb")"
_CRL: Final = re.compile(
    b"".join(
        (
            rb"\x30" + _LENGTH + rb"()\x30" + _LENGTH + _exactly("020101" + _ALGORITHM),
            rb"(\x30(?:[^\x17]++|\x17(?!\x0d))*+)" + _DATE + _DATE,
            rb"(?:\x30" + _LENGTH + rb"(.+))?",
            rb"()" + _exactly("a02f302d300a0603551d1404030201") + rb"([\x00-\x7f])",
            _exactly("301f0603551d23041830168014") + rb"(.{20})",
            _exactly(_ALGORITHM) + rb"\x03([\x00-\x7f])\x00(\x30.{1,125})",
        )
    ),
    re.DOTALL,
)
# Where lengths, and what they are compared with, stand among the groups of the expression.
_OF_CRL, _CRL_TBS, _OF_CRL_TBS, _OF_ENTRIES, _CRL_EXTENSIONS, _CRL_SIGNATURE_SIZE = 1, 4, 5, 11, 15, 18


class IssuedCRL(NamedTuple):
    """What differs from one CRL to another."""

    issuer: bytes
    """Begins like a Name."""
    this_update: bytes
    """YYMMDDHHMMSS, twelve digits, the hour from 00 to 23."""
    next_update: bytes
    entries: bytes | None
    """One behind the other, unread; None where nothing is revoked."""
    number: int
    authority_key_id: bytes
    tbs_bytes: bytes
    signature: bytes


def read_crl(raw: bytes) -> IssuedCRL | None:
    """Return the parts of a CRL; None where it is not spelled as Intel's are."""
    found = None if len(raw) > _MAX_CRL_SIZE else _CRL.fullmatch(raw)
    if found is None:
        return None
    issuer, begins, ends, entries, number, authority, size, signature = found.group(8, 9, 10, 14, 16, 17, 18, 19)
    end = found.start(_CRL_SIGNATURE_SIZE) - _BEFORE_SIGNATURE_SIZE
    if (
        not _ends_at(len(raw), found, _OF_CRL)
        or not _ends_at(end, found, _OF_CRL_TBS)
        or size[0] != len(signature) + 1
        or (entries is not None and not _ends_at(found.start(_CRL_EXTENSIONS), found, _OF_ENTRIES))
    ):
        return None
    return IssuedCRL(
        issuer=issuer,
        this_update=begins,
        next_update=ends,
        entries=entries,
        number=number[0],
        authority_key_id=authority,
        tbs_bytes=raw[found.start(_CRL_TBS) : end],
        signature=signature,
    )


def _ends_at(end: int, found: re.Match[bytes], length: int) -> bool:
    """Whether what follows a length, told in one of three groups, ends there."""
    form = next(group for group in range(length, length + 3) if found[group] is not None)
    return found.end(form) + _number(found[form]) == end


def _tcb() -> bytes:
    """Return the fields of a TCB: components as INTEGERs of one byte or, from 128 on, of two; PCESVN in one; CPUSVN."""
    components = [
        rb"(?:%b(?=[\x00-\x7f])|%b\x00(?=[\x80-\xff]))(.)"
        % (_sgx_field(f"02{number:02x}", "02", 1), _sgx_field(f"02{number:02x}", "02", 2))
        for number in range(1, COMPONENTS + 1)
    ]
    pce_svn = _sgx_field("0211", "02", 1) + rb"([\x00-\x7f])"
    return b"".join(components) + pce_svn + _sgx_field("0212", "04", 16) + rb"(.{16})"


_SGX_EXTENSION: Final = re.compile(
    b"".join(
        (
            rb"\x30" + _WIDE,
            _sgx_field("01", "04", 16) + rb"(.{16})",
            rb"\x30" + _WIDE + _exactly(f"060a{_SGX_ARC}02") + rb"\x30" + _WIDE + _tcb(),
            _sgx_field("03", "04", 2) + rb"(.{2})",
            _sgx_field("04", "04", 6) + rb"(.{6})",
            _sgx_field("05", "0a", 1) + rb"([\x00-\x02])",
            rb"(?:" + _sgx_field("06", "04", 16) + rb"(.{16})",
            _sgx_field("07", "30", 54),
            *[_sgx_field(f"07{number:02x}", "01", 1) + rb"([\x00\xff])" for number in (1, 2, 3)],
            rb")?",
        )
    ),
    re.DOTALL,
)


class IssuedSGXExtension(NamedTuple):
    """What a PCK certificate says of its platform."""

    ppid: bytes
    components: bytes
    """16 SVNs."""
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes | None
    flags: tuple[bool | None, ...]
    """Dynamic platform, cached keys, SMT."""


def read_sgx_extension(raw: bytes) -> IssuedSGXExtension | None:
    """Return what an SGX extension says; None where it is not spelled as Intel's are."""
    found = _SGX_EXTENSION.fullmatch(raw)
    if found is None:
        return None
    whole, ppid, field, tcb, *components, pce_svn, cpu_svn, pce_id, fmspc, kind, instance, one, two, three = (
        found.groups()
    )
    # Of the TCB, the field is told to begin where its size ends, and so is what is inside.
    end = found.end(_OF_CPU_SVN)
    if (
        _number(whole) != len(raw) - 4
        or _number(field) != end - found.end(_OF_FIELD)
        or _number(tcb) != end - found.end(_OF_TCB)
    ):
        return None
    return IssuedSGXExtension(
        ppid=ppid,
        components=b"".join(components),
        pce_svn=pce_svn[0],
        cpu_svn=cpu_svn,
        pce_id=pce_id,
        fmspc=fmspc,
        sgx_type=kind[0],
        platform_instance_id=instance,
        flags=(None, None, None) if instance is None else (one == _YES, two == _YES, three == _YES),
    )
