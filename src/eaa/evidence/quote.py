"""DCAP quotes, versions 3, 4 and 5: bytes to frozen records and back, exactly.

Source: Intel SGX ECDSA QuoteLib Reference (version 3); Intel TDX DCAP Quoting Library API (versions 4 and 5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from eaa.errors import MalformedInput, Reason
from eaa.evidence.layout import Reader
from eaa.evidence.sgx import REPORT_SIZE, EnclaveReport
from eaa.evidence.tdx import TDReport, TDReport15, TDReport15Extended
from eaa.records import quick

MAX_QUOTE_SIZE: Final = 128 * 1024
"""The TDX driver's buffer; nothing that produces quotes returns more."""
MAX_CERTIFICATION_DATA: Final = 64 * 1024
MAX_QE_AUTH_DATA: Final = 64 * 1024 - 1
HEADER_SIZE: Final = 48
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
ECDSA_P256: Final = 2
"""The only attestation key type that Intel issues."""
BODY_DESCRIPTOR_SIZE: Final = 6
"""Bytes between header and body of a version 5 quote: the body's type, u16, and size, u32."""
QUOTE_VERSIONS: Final = (3, 4, 5)
_QE_REPORT_CERTIFICATION: Final = 6
# Version, attestation key type, TEE type, QE SVN and PCE SVN, QE vendor id, user data.
_HEADER: Final = struct.Struct("<H H I 4s 16s 20s")
_SIGNATURE_AND_KEY: Final = struct.Struct("<64s 64s")
_TYPE_AND_SIZE: Final = struct.Struct("<H I")
# Report, signature, size of the authentication data.
_QE_PART: Final = struct.Struct(f"<{REPORT_SIZE}s 64s H")
# All of it up to the QE's authentication data, with its own size in front; the later one with the outer type and size.
_AUTHENTICATION_DATA: Final = struct.Struct(f"<I 64s 64s {REPORT_SIZE}s 64s H")
_NESTED_AUTHENTICATION_DATA: Final = struct.Struct(f"<I 64s 64s H I {REPORT_SIZE}s 64s H")
_BEFORE_NESTED: Final = 64 + 64 + 2 + 4


class TEEType(IntEnum):
    """The TEE type word of a quote header."""

    SGX = 0x00
    TDX = 0x81


_TEE_TYPES: Final = {int(member): member for member in TEEType}


class BodyType(IntEnum):
    """What is quoted, in the body descriptor of a version 5 quote."""

    SGX_REPORT = 1
    TD_REPORT_10 = 2
    TD_REPORT_15 = 3
    TD_REPORT_15_EXTENDED = 4


class CertificationDataType(IntEnum):
    """What stands in a quote's certification data."""

    PPID_PLAIN = 1
    PPID_RSA_2048 = 2
    PPID_RSA_3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5


Body = EnclaveReport | TDReport
"""What is quoted; the newer TD reports are TDReports too."""
_BODIES: Final[dict[BodyType, type[EnclaveReport | TDReport]]] = {
    BodyType.SGX_REPORT: EnclaveReport,
    BodyType.TD_REPORT_10: TDReport,
    BodyType.TD_REPORT_15: TDReport15,
    BodyType.TD_REPORT_15_EXTENDED: TDReport15Extended,
}
BODY_TYPES: Final = {body: kind for kind, body in _BODIES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteHeader:
    """The first 48 bytes of a quote."""

    version: int
    attestation_key_type: int
    tee_type: TEEType
    qe_svn_and_pce_svn: bytes = bytes(4)
    """Bytes 8 to 11. Informative: the order differs between versions, and no verifier may use them for the TCB."""
    qe_vendor_id: bytes = INTEL_QE_VENDOR_ID
    """16 bytes."""
    user_data: bytes = bytes(20)
    """20 bytes; the first 16 are the QE id in practice."""

    @classmethod
    def parse(cls, raw: bytes) -> QuoteHeader:
        """Raise MalformedInput unless `raw` is the header of a quote that this code understands."""
        version = int.from_bytes(raw[:2], "little")
        if version not in QUOTE_VERSIONS and len(raw) > 1:
            raise MalformedInput(
                Reason.QUOTE_VERSION_UNSUPPORTED,
                f"the input is no quote of version 3, 4 or 5: its version field says {version}",
                hint="`shelter inspect` tells what a file is",
            )
        if len(raw) != HEADER_SIZE:
            raise MalformedInput(
                Reason.QUOTE_MALFORMED,
                f"the header of a quote has {HEADER_SIZE} bytes, {len(raw)} were given",
                hint="the input was cut off or is something else; fetch it again",
            )
        _, key_type, tee_type, svns, vendor, user_data = _HEADER.unpack(raw)
        if key_type != ECDSA_P256:
            raise MalformedInput(
                Reason.ATTESTATION_KEY_TYPE_UNSUPPORTED,
                f"the quote's attestation key type is {key_type}; only 2 (ECDSA P-256) is defined for use",
            )
        known_tee_type = _tee_type(tee_type, version)
        if vendor != INTEL_QE_VENDOR_ID:
            raise MalformedInput(
                Reason.QE_VENDOR_UNKNOWN, f"the quote names QE vendor {vendor.hex()}; only Intel's is known"
            )
        return _new_header(
            version=version,
            attestation_key_type=key_type,
            tee_type=known_tee_type,
            qe_svn_and_pce_svn=svns,
            qe_vendor_id=vendor,
            user_data=user_data,
        )

    def encode(self) -> bytes:
        """Return the 48 bytes of this header."""
        return b"".join(
            (
                self.version.to_bytes(2, "little"),
                self.attestation_key_type.to_bytes(2, "little"),
                int(self.tee_type).to_bytes(4, "little"),
                self.qe_svn_and_pce_svn,
                self.qe_vendor_id,
                self.user_data,
            )
        )


_new_header: Final = quick(QuoteHeader)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One quote with its authentication data.

    `body` is an EnclaveReport for SGX, and a TDReport, TDReport15 or TDReport15Extended for TDX. Signatures and keys
    are raw: r||s and x||y, 32 bytes each, big-endian.
    """

    header: QuoteHeader
    body: Body
    signature: bytes
    """64 bytes, by the attestation key over `signed_bytes`."""
    attestation_key: bytes
    """64 bytes."""
    qe_report: EnclaveReport
    qe_report_signature: bytes
    """64 bytes, by the PCK over the 384 bytes of `qe_report`."""
    qe_auth_data: bytes
    certification_data_type: int
    """See CertificationDataType; a number outside it parses, and is refused by verification."""
    certification_data: bytes
    padding: int = 0
    """Zero bytes found after the quote's end and left out. Attesters return fixed buffers."""
    signed_bytes: bytes = field(repr=False)
    """Header, body descriptor where there is one, and body, exactly as they were received."""
    raw: bytes | None = field(default=None, init=False, compare=False, repr=False)
    """The whole quote as it was received, without padding; None for a record that was put together.

    No constructor takes it and `replace` drops it: a record that has it says what these bytes say.
    """

    @classmethod
    def parse(cls, raw: bytes) -> Quote:
        """Parse one quote; zero padding behind it is counted and trimmed, any other byte there is refused.

        Raises:
            MalformedInput: `raw` is not one quote. QUOTE_TRAILING_BYTES when only what follows it is wrong.
        """
        quote, trailing = cls.parse_prefix(raw)
        if trailing and trailing.strip(b"\0"):
            raise MalformedInput(
                Reason.QUOTE_TRAILING_BYTES,
                f"{len(trailing)} bytes follow the end of the quote, and they are not zero padding",
                hint="if you know what was appended to this file, `shelter verify --trim-trailing` leaves it out",
            )
        return quote

    @classmethod
    def parse_prefix(cls, raw: bytes) -> tuple[Quote, bytes]:
        """Parse the quote at the start of `raw`; return it and every byte that follows it, unjudged."""
        header, body, reader = _parse_signed_part(raw)
        signed_size = len(raw) - reader.remaining
        found = _split_authentication_data(raw, signed_size, version=header.version)
        if found is None:
            auth = reader.sized(4, MAX_QUOTE_SIZE, "the authentication data")
            found = len(raw) - reader.remaining, *_parse_authentication_data(auth, version=header.version)
        end, signature, attestation_key, qe_report, qe_report_signature, qe_auth_data, kind, certification_data = found
        trailing = raw[end:]
        quote = _new_quote(
            header=header,
            body=body,
            signature=signature,
            attestation_key=attestation_key,
            qe_report=EnclaveReport.parse(qe_report),
            qe_report_signature=qe_report_signature,
            qe_auth_data=qe_auth_data,
            certification_data_type=kind,
            certification_data=certification_data,
            padding=0 if not trailing or trailing.strip(b"\0") else len(trailing),
            signed_bytes=raw[:signed_size],
        )
        object.__setattr__(quote, "raw", raw[:end])
        return quote, trailing

    @property
    def body_type(self) -> BodyType:
        """What is quoted; versions before 5 do not spell it out."""
        return BODY_TYPES[type(self.body)]

    def encode_signed_part(self) -> bytes:
        """Return header, body descriptor where the version has one, and body: what the attestation key signs."""
        body = self.body.encode()
        if self.header.version < 5:
            return self.header.encode() + body
        return self.header.encode() + self.body_type.to_bytes(2, "little") + _u32_prefixed(body)

    def encode(self) -> bytes:
        """Return the quote's bytes, without padding."""
        qe = self.qe_report.encode() + self.qe_report_signature + _u16_prefixed(self.qe_auth_data)
        certification = self.certification_data_type.to_bytes(2, "little") + _u32_prefixed(self.certification_data)
        if self.header.version == 3:
            tail = qe + certification
        else:
            tail = _QE_REPORT_CERTIFICATION.to_bytes(2, "little") + _u32_prefixed(qe + certification)
        return self.encode_signed_part() + _u32_prefixed(self.signature + self.attestation_key + tail)


_new_quote: Final = quick(Quote)


def read_report_data(raw: bytes) -> bytes:
    """Return the 64 bytes of report data of a quote that is all there; its authentication data stays unread.

    Raises:
        MalformedInput: `raw` is no quote, or was cut off.
    """
    places = places_in(raw)
    if places is not None and raw[_VENDOR] == INTEL_QE_VENDOR_ID:
        end = places.authentication_data
        rest = len(raw) - end - _SIZE_FIELD
        if rest >= 0 and len(raw) <= MAX_QUOTE_SIZE and int.from_bytes(raw[end : end + _SIZE_FIELD], "little") <= rest:
            return raw[places.report_data : places.report_data + REPORT_DATA_SIZE]
    _, body, reader = _parse_signed_part(raw)
    reader.sized(4, MAX_QUOTE_SIZE, "the authentication data")
    return body.report_data


_VENDOR: Final = slice(12, 28)
_SIZE_FIELD: Final = 4
REPORT_DATA_SIZE: Final = 64
_KIND: Final = slice(8)
"""Version, attestation key type, and kind of TEE."""
_DESCRIPTOR: Final = slice(HEADER_SIZE, HEADER_SIZE + BODY_DESCRIPTOR_SIZE)
_DESCRIBES_BODY: Final = 5
"""The version that says of what kind its body is."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where parts of a quote begin, in bytes from its beginning."""

    report_data: int
    authentication_data: int

    @classmethod
    def of(cls, body: type[Body], *, version: int) -> Self:
        """Return the places of quotes of this version and with this kind of body."""
        begin = HEADER_SIZE + (BODY_DESCRIPTOR_SIZE if version == _DESCRIBES_BODY else 0)
        # The report data are the end of the reports that the newer kinds continue.
        first = EnclaveReport if body is EnclaveReport else TDReport
        return cls(begin + first.SIZE - REPORT_DATA_SIZE, begin + body.SIZE)


def _all_places() -> dict[bytes, Places]:
    """Return the places by what tells them: kind, and where there is one, the descriptor of the body."""
    found: dict[bytes, Places] = {}
    for body, number in BODY_TYPES.items():
        tee = TEEType.SGX if body is EnclaveReport else TEEType.TDX
        for version in QUOTE_VERSIONS:
            kind = struct.pack("<H H I", version, ECDSA_P256, tee)
            if version == _DESCRIBES_BODY:
                found[kind + struct.pack("<H I", number, body.SIZE)] = Places.of(body, version=version)
            elif body is EnclaveReport or (body is TDReport and version == 4):
                found[kind] = Places.of(body, version=version)
    return found


_PLACES: Final = _all_places()


def places_in(raw: bytes) -> Places | None:
    """Return where parts begin in what looks like a quote; None where it looks like none. Nothing else is read."""
    return _PLACES.get(raw[_KIND]) or _PLACES.get(raw[_KIND] + raw[_DESCRIPTOR])


def _parse_signed_part(raw: bytes) -> tuple[QuoteHeader, Body, Reader]:
    """Return header and body, and what reads on from there."""
    if len(raw) > MAX_QUOTE_SIZE:
        raise MalformedInput(
            Reason.QUOTE_MALFORMED, f"{len(raw)} bytes are too many for a quote, the limit is {MAX_QUOTE_SIZE}"
        )
    header = QuoteHeader.parse(raw[:HEADER_SIZE])
    reader = Reader(raw[HEADER_SIZE:], what="the quote", reason=Reason.QUOTE_MALFORMED)
    return header, _parse_body(reader, header), reader


def _parse_body(reader: Reader, header: QuoteHeader) -> Body:
    """Take the report: by the TEE type in versions 3 and 4, by the body descriptor in version 5."""
    if header.version < 5:
        body = EnclaveReport if header.tee_type is TEEType.SGX else TDReport
        return body.parse(reader.take(body.SIZE, "the report body"))
    number, size = reader.uint(2, "the body type"), reader.uint(4, "the body size")
    known = {int(kind): kind for kind in _BODIES}
    if number not in known:
        raise MalformedInput(
            Reason.QUOTE_BODY_UNSUPPORTED,
            f"the quote's body is of type {number}; 1 (SGX) and 2 to 4 (TDX) are defined",
        )
    kind = known[number]
    if (kind is BodyType.SGX_REPORT) is not (header.tee_type is TEEType.SGX):
        raise MalformedInput(
            Reason.QUOTE_MALFORMED,
            f"the header says that the quote is of {header.tee_type.name}, its body is of type {number}",
        )
    if size != _BODIES[kind].SIZE:
        raise MalformedInput(
            Reason.QUOTE_MALFORMED,
            f"the quote's body of type {number} declares {size} bytes, it has {_BODIES[kind].SIZE}",
        )
    return _BODIES[kind].parse(reader.take(size, "the report body"))


def _tee_type(word: int, version: int) -> TEEType:
    known = _TEE_TYPES
    if word not in known or (version == 3 and word != TEEType.SGX):
        raise MalformedInput(
            Reason.TEE_TYPE_UNSUPPORTED, f"a quote of version {version} with TEE type {word:#x} is not defined"
        )
    return known[word]


_AuthenticationData = tuple[bytes, bytes, bytes, bytes, bytes, int, bytes]
"""Signature, attestation key, QE report, its signature, QE authentication data, certification data's type and data."""


def _split_authentication_data(raw: bytes, at: int, *, version: int) -> tuple[int, *_AuthenticationData] | None:
    """Return where the quote ends, and what `_parse_authentication_data` returns; None where any size does not fit.

    In a sound quote each size follows from the others, so that all of them are compared at once.
    """
    layout = _AUTHENTICATION_DATA if version == 3 else _NESTED_AUTHENTICATION_DATA
    inner = at + layout.size
    if inner > len(raw):
        return None
    size, signature, attestation_key, *outer, qe_report, qe_report_signature, qe_size = layout.unpack_from(raw, at)
    behind = inner + qe_size + _TYPE_AND_SIZE.size
    if behind > len(raw):
        return None
    kind, data_size = _TYPE_AND_SIZE.unpack_from(raw, inner + qe_size)
    end = behind + data_size
    if end > len(raw) or end != at + 4 + size or data_size > MAX_CERTIFICATION_DATA:
        return None
    if outer and outer != [_QE_REPORT_CERTIFICATION, size - _BEFORE_NESTED]:
        return None
    qe_auth_data, data = raw[inner : inner + qe_size], raw[behind:end]
    return end, signature, attestation_key, qe_report, qe_report_signature, qe_auth_data, kind, data


def _parse_authentication_data(auth: bytes, *, version: int) -> _AuthenticationData:
    """Take apart the signature data: version 3 in one row, later ones with the QE's part inside type 6."""
    reader = Reader(auth, what="the quote's authentication data", reason=Reason.QUOTE_MALFORMED)
    signature, attestation_key = reader.unpack(_SIGNATURE_AND_KEY, "the quote signature and the attestation key")
    if version > 3:
        outer_type, size = reader.unpack(_TYPE_AND_SIZE, "the outer certification data's type and size")
        if outer_type != _QE_REPORT_CERTIFICATION:
            raise MalformedInput(
                Reason.QUOTE_MALFORMED,
                f"the outer certification data of a version {version} quote is of type {outer_type}; it must be of 6",
            )
        inner = reader.bounded(size, MAX_QUOTE_SIZE, "the QE report certification data")
        reader.end()
        reader = Reader(inner, what="the QE report certification data", reason=Reason.QUOTE_MALFORMED)
    qe_report, qe_report_signature, size = reader.unpack(_QE_PART, "the QE report and its signature")
    qe_auth_data = reader.bounded(size, MAX_QE_AUTH_DATA, "the QE authentication data")
    certification_data_type, size = reader.unpack(_TYPE_AND_SIZE, "the certification data's type and size")
    certification_data = reader.bounded(size, MAX_CERTIFICATION_DATA, "the certification data")
    reader.end()
    return (
        signature,
        attestation_key,
        qe_report,
        qe_report_signature,
        qe_auth_data,
        certification_data_type,
        certification_data,
    )


def _u16_prefixed(payload: bytes) -> bytes:
    return len(payload).to_bytes(2, "little") + payload


def _u32_prefixed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + payload
