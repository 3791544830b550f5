"""Every failure of this project: one tree of exceptions, one stable reason code each.

A reason code is API. It is never renamed and never reused for another meaning. The type says who has to act
and decides the exit code of a program; the sentence gives the facts; the hint says what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why something was refused or failed. The value is the code printed, logged and sent in `--json`."""

    # Bytes that are not what they claim to be (MalformedInput).
    QUOTE_MALFORMED = "QUOTE_MALFORMED"
    QUOTE_TRAILING_BYTES = "QUOTE_TRAILING_BYTES"
    QUOTE_VERSION_UNSUPPORTED = "QUOTE_VERSION_UNSUPPORTED"
    ATTESTATION_KEY_TYPE_UNSUPPORTED = "ATTESTATION_KEY_TYPE_UNSUPPORTED"
    TEE_TYPE_UNSUPPORTED = "TEE_TYPE_UNSUPPORTED"
    QUOTE_BODY_UNSUPPORTED = "QUOTE_BODY_UNSUPPORTED"
    QE_VENDOR_UNKNOWN = "QE_VENDOR_UNKNOWN"
    CERTIFICATION_DATA_UNSUPPORTED = "CERTIFICATION_DATA_UNSUPPORTED"
    EVIDENCE_MALFORMED = "EVIDENCE_MALFORMED"
    DER_MALFORMED = "DER_MALFORMED"
    CERTIFICATE_MALFORMED = "CERTIFICATE_MALFORMED"
    SGX_EXTENSION_MALFORMED = "SGX_EXTENSION_MALFORMED"
    CRL_MALFORMED = "CRL_MALFORMED"
    TCB_INFO_MALFORMED = "TCB_INFO_MALFORMED"
    QE_IDENTITY_MALFORMED = "QE_IDENTITY_MALFORMED"
    COLLATERAL_MALFORMED = "COLLATERAL_MALFORMED"
    IMAGE_MALFORMED = "IMAGE_MALFORMED"
    SIGSTRUCT_MALFORMED = "SIGSTRUCT_MALFORMED"
    EVENT_LOG_MALFORMED = "EVENT_LOG_MALFORMED"
    ARCHIVE_MALFORMED = "ARCHIVE_MALFORMED"
    UNKNOWN_FORMAT = "UNKNOWN_FORMAT"

    # Well formed, but a signature, chain, revocation or date says no (VerificationError).
    ROOT_UNTRUSTED = "ROOT_UNTRUSTED"
    CERTIFICATE_CHAIN = "CERTIFICATE_CHAIN"
    CERTIFICATE_ROLE = "CERTIFICATE_ROLE"
    CERTIFICATE_SIGNATURE = "CERTIFICATE_SIGNATURE"
    CERTIFICATE_EXPIRED = "CERTIFICATE_EXPIRED"
    CERTIFICATE_NOT_YET_VALID = "CERTIFICATE_NOT_YET_VALID"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    CERTIFICATE_AMBIGUOUS = "CERTIFICATE_AMBIGUOUS"
    EVIDENCE_AMBIGUOUS = "EVIDENCE_AMBIGUOUS"
    CRL_ISSUER = "CRL_ISSUER"
    CRL_SIGNATURE = "CRL_SIGNATURE"
    CRL_EXPIRED = "CRL_EXPIRED"
    CRL_NOT_YET_VALID = "CRL_NOT_YET_VALID"
    TCB_INFO_SIGNATURE = "TCB_INFO_SIGNATURE"
    TCB_INFO_EXPIRED = "TCB_INFO_EXPIRED"
    TCB_INFO_NOT_YET_VALID = "TCB_INFO_NOT_YET_VALID"
    TCB_INFO_MISMATCH = "TCB_INFO_MISMATCH"
    QE_IDENTITY_SIGNATURE = "QE_IDENTITY_SIGNATURE"
    QE_IDENTITY_EXPIRED = "QE_IDENTITY_EXPIRED"
    QE_IDENTITY_NOT_YET_VALID = "QE_IDENTITY_NOT_YET_VALID"
    QE_IDENTITY_MISMATCH = "QE_IDENTITY_MISMATCH"
    QE_REPORT_SIGNATURE = "QE_REPORT_SIGNATURE"
    QE_REPORT_BINDING = "QE_REPORT_BINDING"
    QUOTE_SIGNATURE = "QUOTE_SIGNATURE"
    PCK_CERTIFICATE_MISSING = "PCK_CERTIFICATE_MISSING"
    PCK_CERTIFICATE_MISMATCH = "PCK_CERTIFICATE_MISMATCH"
    TDX_MODULE_MISMATCH = "TDX_MODULE_MISMATCH"
    TCB_NOT_SUPPORTED = "TCB_NOT_SUPPORTED"
    TCB_REVOKED = "TCB_REVOKED"
    SIGSTRUCT_SIGNATURE = "SIGSTRUCT_SIGNATURE"
    ENCLAVE_LAUNCH = "ENCLAVE_LAUNCH"
    REPORT_MAC = "REPORT_MAC"

    # Appraisal: genuine, but not what policy and reference values ask for (a check of a Rejected result).
    NO_EVIDENCE = "NO_EVIDENCE"
    REPORT_DATA_MISMATCH = "REPORT_DATA_MISMATCH"
    CLAIMS_MISMATCH = "CLAIMS_MISMATCH"
    EPOCH_NOT_CURRENT = "EPOCH_NOT_CURRENT"
    EPOCH_TOO_LONG = "EPOCH_TOO_LONG"
    EPOCH_KEY_REUSED = "EPOCH_KEY_REUSED"
    EPOCH_SIGNATURE = "EPOCH_SIGNATURE"
    BINDING_TOO_WEAK = "BINDING_TOO_WEAK"
    NO_REFERENCE_VALUE = "NO_REFERENCE_VALUE"
    ROLE_MISMATCH = "ROLE_MISMATCH"
    TRUST_ANCHOR_MISMATCH = "TRUST_ANCHOR_MISMATCH"
    MEASUREMENT_MISMATCH = "MEASUREMENT_MISMATCH"
    SIGNER_MISMATCH = "SIGNER_MISMATCH"
    PRODUCT_MISMATCH = "PRODUCT_MISMATCH"
    SVN_TOO_LOW = "SVN_TOO_LOW"
    CONFIGURATION_MISMATCH = "CONFIGURATION_MISMATCH"
    DEBUG_ENCLAVE = "DEBUG_ENCLAVE"
    TD_ATTRIBUTE_MISSING = "TD_ATTRIBUTE_MISSING"
    TD_ATTRIBUTE_NOT_ALLOWED = "TD_ATTRIBUTE_NOT_ALLOWED"
    SERVICE_TD_NOT_ALLOWED = "SERVICE_TD_NOT_ALLOWED"
    TDX_MODULE_NOT_ALLOWED = "TDX_MODULE_NOT_ALLOWED"
    EVENT_LOG_MISMATCH = "EVENT_LOG_MISMATCH"
    TCB_STATUS_NOT_ALLOWED = "TCB_STATUS_NOT_ALLOWED"
    ADVISORY_NOT_ALLOWED = "ADVISORY_NOT_ALLOWED"
    PLATFORM_NOT_ALLOWED = "PLATFORM_NOT_ALLOWED"
    PLATFORM_NOT_PINNED = "PLATFORM_NOT_PINNED"
    EVALUATION_NUMBER_TOO_LOW = "EVALUATION_NUMBER_TOO_LOW"
    COLLATERAL_EXPIRED = "COLLATERAL_EXPIRED"

    # The other end of a connection (PeerMisbehaved; PEER_REJECTED_US is a rejection).
    TLS_HANDSHAKE = "TLS_HANDSHAKE"
    TLS_RECORD = "TLS_RECORD"
    PEER_IS_LEGACY = "PEER_IS_LEGACY"
    PEER_CLOSED = "PEER_CLOSED"
    PEER_TIMEOUT = "PEER_TIMEOUT"
    MESSAGE_MALFORMED = "MESSAGE_MALFORMED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    MESSAGE_UNEXPECTED = "MESSAGE_UNEXPECTED"
    LEVEL_NOT_OFFERED = "LEVEL_NOT_OFFERED"
    PEER_REJECTED_US = "PEER_REJECTED_US"

    # Not now, perhaps later (Unavailable).
    ADDRESS_UNRESOLVED = "ADDRESS_UNRESOLVED"
    CONNECTION_FAILED = "CONNECTION_FAILED"
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    PCCS_UNREACHABLE = "PCCS_UNREACHABLE"
    PCCS_ERROR = "PCCS_ERROR"
    COLLATERAL_NOT_FOUND = "COLLATERAL_NOT_FOUND"
    COLLATERAL_PENDING = "COLLATERAL_PENDING"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    TEE_NOT_FOUND = "TEE_NOT_FOUND"
    QUOTE_UNAVAILABLE = "QUOTE_UNAVAILABLE"
    WORKLOAD_UNAVAILABLE = "WORKLOAD_UNAVAILABLE"
    APPLICATION_UNAVAILABLE = "APPLICATION_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    FILE_LOCKED = "FILE_LOCKED"
    OUTPUT_FAILED = "OUTPUT_FAILED"

    # The caller or operator has to change something (Misuse).
    USAGE = "USAGE"
    NOT_IMPLEMENTED_VALUE = "NOT_IMPLEMENTED_VALUE"
    ADDRESS_INVALID = "ADDRESS_INVALID"
    FILE_UNREADABLE = "FILE_UNREADABLE"
    CONFIG_INVALID = "CONFIG_INVALID"
    POLICY_INVALID = "POLICY_INVALID"
    REFERENCE_VALUES_INVALID = "REFERENCE_VALUES_INVALID"
    REFERENCE_VALUE_EXISTS = "REFERENCE_VALUE_EXISTS"
    NO_VALUE_FOR_ROLE = "NO_VALUE_FOR_ROLE"
    EVALUATION_FLOOR_INVALID = "EVALUATION_FLOOR_INVALID"
    PLATFORM_PINS_INVALID = "PLATFORM_PINS_INVALID"
    TRUST_ANCHOR_INVALID = "TRUST_ANCHOR_INVALID"
    TRUST_ANCHORS_MIXED = "TRUST_ANCHORS_MIXED"
    QCNL_INVALID = "QCNL_INVALID"
    DATABASE_INVALID = "DATABASE_INVALID"
    COLLATERAL_ENDS_SOON = "COLLATERAL_ENDS_SOON"
    CLOCK_SKEW = "CLOCK_SKEW"
    BUNDLE_MALFORMED = "BUNDLE_MALFORMED"
    BUNDLE_SIGNATURE = "BUNDLE_SIGNATURE"
    SIMULATOR_INVALID = "SIMULATOR_INVALID"
    RESULT_FOR_OTHER_EVIDENCE = "RESULT_FOR_OTHER_EVIDENCE"
    GATE_CLOSED = "GATE_CLOSED"
    EVENT_LOOP_BYPASSES_TLS = "EVENT_LOOP_BYPASSES_TLS"
    TLS_SELF_TEST_FAILED = "TLS_SELF_TEST_FAILED"
    NOT_CONFIRMED = "NOT_CONFIRMED"

    # Our bug.
    INTERNAL = "INTERNAL"


class EAAError(Exception):
    """Base of all failures: a reason code, one sentence with the facts, and what to do next.

    Attributes:
        reason: the stable code.
        message: one sentence, no trailing full stop.
        hint: the next step, or None where there is none to give.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, reason: Reason, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Rejection(EAAError):
    """Appraisal said no: of a peer by us, or of us by a peer. `result` holds every check where we judged."""

    exit_code = 1

    def __init__(self, reason: Reason, message: str, *, hint: str | None = None, result: object = None) -> None:
        super().__init__(reason, message, hint=hint)
        self.result = result


class Misuse(EAAError):
    """Usage, configuration, a policy or a reference-value file is wrong: fix the caller."""

    exit_code = 2


class MalformedInput(EAAError):
    """The bytes are not what they claim to be."""

    exit_code = 3


class VerificationError(EAAError):
    """Well formed, but a signature, chain, revocation or date says no."""

    exit_code = 3


class PeerMisbehaved(EAAError):
    """The other end broke the protocol, stalled, or went away."""

    exit_code = 3


class Unavailable(EAAError):
    """Network, PCCS, device, port or permission: may succeed when tried again."""

    exit_code = 4


class Unanswered(Unavailable):
    """Nobody has answered: no connection, no end of an answer, or a server that says it cannot serve now."""
