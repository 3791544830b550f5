"""The oracle matrix: 130 worlds with at most one thing odd about them, and what three verifiers say of each.

A row is its text, the world rebuilt by the simulator, our answer (a status, or the reason to refuse), the answer of
Intel's own library (its four calls together; a word without `=` is that of the quote call) and that of dcap-qvl. Where
ours refuses what both others accept, the row says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from eaa.collateral.intel import TCBStatus
from eaa.errors import Reason
from eaa.evidence.quote import BodyType, CertificationDataType
from eaa.evidence.tdx import TDAttribute
from eaa.simulator.faults import Fault
from eaa.simulator.quoting import QuoteLayout
from eaa.simulator.world import TDXWorld, World
from support.simulated import NOW, SEED, sample_enclave

AnyWorld = World | TDXWorld
F: Final = Fault
R: Final = Reason

UP: Final = TCBStatus.UP_TO_DATE
HARDENING: Final = TCBStatus.SW_HARDENING_NEEDED
CONFIG: Final = TCBStatus.CONFIGURATION_NEEDED
CONFIG_HARDENING: Final = TCBStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED
OLD: Final = TCBStatus.OUT_OF_DATE
OLD_CONFIG: Final = TCBStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
RELAUNCH: Final = TCBStatus.TD_RELAUNCH_ADVISED
RELAUNCH_CONFIG: Final = TCBStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the matrix."""

    text: str
    make: Callable[[], AnyWorld]
    ours: TCBStatus | Reason
    intel: str
    dcap_qvl: str
    """A status, or a part of the error that it prints."""
    why: str = ""
    """Why ours refuses what both others accept."""
    appraisal: Reason | None = None
    """The check that fails under a policy of defaults, where verification has nothing against it."""


def row(text: str, make: Callable[[], AnyWorld], ours: TCBStatus | Reason, intel: str, other: str, **more: Any) -> Row:
    return Row(text=text, make=make, ours=ours, intel=intel, dcap_qvl=other, **more)


def sgx(*faults: Fault, **options: Any) -> Callable[[], World]:
    """An enclave's world, with a quote of version 3 unless it is said."""
    return partial(World.create, now=NOW, enclave=sample_enclave(), faults=faults, seed=SEED, **options)


def sgx_debug() -> World:
    return World.create(now=NOW, enclave=sample_enclave("debugged", debug=True), seed=SEED)


def tdx(*faults: Fault, **options: Any) -> Callable[[], TDXWorld]:
    """A trust domain's world: TD report 1.0 in a quote of version 4."""
    return partial(TDXWorld.create, now=NOW, faults=faults, seed=SEED, kind=BodyType.TD_REPORT_10, **options)


def tdx15(*faults: Fault, **options: Any) -> Callable[[], TDXWorld]:
    """A trust domain's world: TD report 1.5 in a quote of version 5."""
    return partial(TDXWorld.create, now=NOW, faults=faults, seed=SEED, kind=BodyType.TD_REPORT_15, **options)


def tdx5(kind: BodyType) -> Callable[[], TDXWorld]:
    return partial(TDXWorld.create, now=NOW, seed=SEED, kind=kind, layout=QuoteLayout(version=5))


V4: Final = QuoteLayout(version=4)
V5: Final = QuoteLayout(version=5)
LEAF: Final = QuoteLayout(certification=CertificationDataType.PCK_LEAF)
SEPT: Final = TDAttribute.SEPT_VE_DISABLE
QE_OLD: Final[dict[str, Any]] = {"qe_status": "OutOfDate", "qe_advisory_ids": ("INTEL-SA-00615",)}
QE_NOTED: Final[dict[str, Any]] = {"qe_advisory_ids": ("INTEL-SA-00615",)}
MODULE_0: Final = bytes((7, 0, 10, *(0,) * 13))

NO_TEE: Final = "Invalid TEE type"
ONLY_3: Final = "SGX TEE quote must have version 3"
BAD_CHAIN: Final = "Failed to verify certificate chain"
BAD_ROOT_CRL: Final = "Failed to parse root CA CRL"
BAD_INFO: Final = "tcbinfo=SGX_TCB_INFO_INVALID UNSUPPORTED_TCB_INFO_FORMAT"
BAD_INFO_FORMAT: Final = "tcbinfo=SGX_TCB_INFO_UNSUPPORTED_FORMAT UNSUPPORTED_TCB_INFO_FORMAT"
BAD_IDENTITY: Final = "qeid=SGX_ENCLAVE_IDENTITY_INVALID UNSUPPORTED_QE_IDENTITY_FORMAT"
BAD_IDENTITY_VERSION: Final = "qeid=SGX_ENCLAVE_IDENTITY_UNSUPPORTED_VERSION UNSUPPORTED_QE_IDENTITY_FORMAT"
BAD_QUOTE: Final = "UNSUPPORTED_QUOTE_FORMAT"
UNTRUSTED: Final = "TCB_SIGNING_CERT_CHAIN_UNTRUSTED"

ROWS: Final = [
    # Versions and bodies.
    row("sgx v3 ok", sgx(), UP, "OK", "UpToDate"),
    row("tdx v4 ok (module 1)", tdx(), UP, "OK", "UpToDate"),
    row("tdx v5 td1.5 ok", tdx15(), UP, "OK", "UpToDate"),
    row("tdx v5 body2 (td1.0)", tdx5(BodyType.TD_REPORT_10), UP, "OK", "UpToDate"),
    row("sgx v4 quote", sgx(layout=V4), UP, "OK", ONLY_3),
    row("sgx v5 quote body1", sgx(layout=V5), UP, "OK", ONLY_3),
    row("tdx quote v3 header", tdx(F.TD_IN_VERSION_3), R.TEE_TYPE_UNSUPPORTED, BAD_QUOTE, NO_TEE),
    row("v5 body type 9", tdx15(F.UNKNOWN_BODY_TYPE), R.QUOTE_BODY_UNSUPPORTED, BAD_QUOTE, "Unsupported body type"),
    row("tdx v5 body4 (td1.5 ex, 885 B)", tdx5(BodyType.TD_REPORT_15_EXTENDED), UP, "OK", "UpToDate"),
    row("tcbType 1", sgx(F.TCB_INFO_TYPE), R.TCB_INFO_MALFORMED, BAD_INFO, "UpToDate"),
    # What stands behind and between.
    row("trailing zero bytes", sgx(F.HARMLESS_TRAILING_ZEROS), UP, "OK", "UpToDate"),
    row(
        "trailing nonzero bytes",
        sgx(F.TRAILING_BYTES),
        R.QUOTE_TRAILING_BYTES,
        "OK",
        "UpToDate",
        why="nothing signs them, and whoever carries them along may come to believe them",
    ),
    row("auth len shorter by 1", sgx(F.AUTH_DATA_TOO_SHORT), R.QUOTE_MALFORMED, BAD_QUOTE, "Could not decode"),
    row("auth len longer by 1", sgx(F.AUTH_DATA_TOO_LONG), R.QUOTE_MALFORMED, BAD_QUOTE, "Not enough data"),
    row(
        "slack inside auth data v3",
        sgx(F.AUTH_DATA_SLACK),
        R.QUOTE_MALFORMED,
        "OK",
        "UpToDate",
        why="unsigned bytes inside of a quote: it would have many spellings",
    ),
    row(
        "slack inside auth data v4 (outer size ok)",
        tdx(F.AUTH_DATA_SLACK),
        R.QUOTE_MALFORMED,
        "OK",
        "UpToDate",
        why="unsigned bytes inside of a quote: it would have many spellings",
    ),
    row(
        "outer cert size too long",
        tdx(F.OUTER_CERTIFICATION_TOO_LONG),
        R.QUOTE_MALFORMED,
        BAD_QUOTE,
        "Failed to decode quote",
    ),
    row("cert data trailing NUL", sgx(), UP, "OK", "UpToDate"),
    row("outer cert type 5 in v4", tdx(F.OUTER_CERTIFICATION_TYPE), R.QUOTE_MALFORMED, BAD_QUOTE, "UpToDate"),
    row("inner cert type 4 (leaf only, col chain)", sgx(layout=LEAF), UP, "OK", "Unsupported DCAP PCK cert format: 4"),
    row(
        "inner cert type 7",
        sgx(F.CERTIFICATION_DATA_UNKNOWN),
        R.CERTIFICATION_DATA_UNSUPPORTED,
        BAD_QUOTE,
        "Unsupported DCAP PCK cert format: 7",
    ),
    row("empty qe auth data", sgx(F.HARMLESS_EMPTY_QE_AUTH_DATA), UP, "OK", "Invalid QE auth data length"),
    row("qe auth data 64 bytes", sgx(F.HARMLESS_LONG_QE_AUTH_DATA), UP, "OK", "Invalid QE auth data length"),
    # The header.
    row(
        "att key type 3",
        sgx(F.UNKNOWN_ATTESTATION_KEY_TYPE),
        R.ATTESTATION_KEY_TYPE_UNSUPPORTED,
        BAD_QUOTE,
        "Unsupported DCAP attestation key type",
    ),
    row("vendor id wrong", sgx(F.UNKNOWN_QE_VENDOR), R.QE_VENDOR_UNKNOWN, BAD_QUOTE, "Unknown QE vendor ID"),
    row("tee type 0x81 in v3", sgx(F.TDX_IN_VERSION_3), R.TEE_TYPE_UNSUPPORTED, BAD_QUOTE, NO_TEE),
    row("tee type 7", sgx(F.UNKNOWN_TEE_TYPE), R.TEE_TYPE_UNSUPPORTED, BAD_QUOTE, NO_TEE),
    row("header pcesvn/qesvn differ from cert", sgx(F.HARMLESS_HEADER_SVNS), UP, "OK", "UpToDate"),
    # Signatures and bindings.
    row(
        "quote signed by other key",
        sgx(F.QUOTE_SIGNED_BY_OTHER_KEY),
        R.QUOTE_SIGNATURE,
        "INVALID_QUOTE_SIGNATURE",
        "ISV enclave report signature is invalid",
    ),
    row(
        "att key not bound",
        sgx(F.FOREIGN_ATTESTATION_KEY),
        R.QE_REPORT_BINDING,
        "INVALID_QE_REPORT_DATA",
        "QE report hash mismatch",
    ),
    row(
        "QE rd tail nonzero",
        sgx(F.QE_REPORT_DATA_TAIL),
        R.QE_REPORT_BINDING,
        "OK",
        "UpToDate",
        why="no quoting enclave of Intel's writes anything there: this one is another",
    ),
    row(
        "QE report signed by other key",
        sgx(F.QE_REPORT_SIGNED_BY_OTHER_KEY),
        R.QE_REPORT_SIGNATURE,
        "INVALID_QE_REPORT_SIGNATURE",
        "Signature is invalid for qe_report in quote",
    ),
    row(
        "tcb info signed by other",
        sgx(F.TCB_INFO_SIGNED_BY_OTHER_KEY),
        R.TCB_INFO_SIGNATURE,
        "tcbinfo=TCB_INFO_INVALID_SIGNATURE OK",
        "Signature is invalid for tcb_info",
    ),
    row(
        "qe identity signed by other",
        sgx(F.QE_IDENTITY_SIGNED_BY_OTHER_KEY),
        R.QE_IDENTITY_SIGNATURE,
        "qeid=SGX_ENCLAVE_IDENTITY_INVALID_SIGNATURE OK",
        "Signature is invalid for qe_identity",
    ),
    row(
        "tcb info body altered",
        sgx(F.TCB_INFO_STATUS_ALTERED),
        R.TCB_INFO_SIGNATURE,
        BAD_INFO,
        "Failed to decode TcbInfo",
    ),
    row(
        "tcb info body whitespace added",
        sgx(F.TCB_INFO_WHITESPACE),
        R.TCB_INFO_SIGNATURE,
        "OK",
        "Signature is invalid for tcb_info",
    ),
    row(
        "intermediate not signed by root",
        sgx(F.CA_SIGNED_BY_OTHER_KEY),
        R.CERTIFICATE_SIGNATURE,
        "pck=SGX_INTERMEDIATE_CA_INVALID_ISSUER OK",
        BAD_CHAIN,
    ),
    row(
        "untrusted root (same name)",
        sgx(F.FOREIGN_ROOT),
        R.ROOT_UNTRUSTED,
        f"pck=SGX_PCK_CERT_CHAIN_UNTRUSTED tcbinfo=SGX_{UNTRUSTED} qeid=SGX_{UNTRUSTED} OK",
        BAD_ROOT_CRL,
    ),
    # Revocation.
    row("pck revoked", sgx(F.LEAF_REVOKED), R.CERTIFICATE_REVOKED, "pck=SGX_PCK_REVOKED PCK_REVOKED", BAD_CHAIN),
    row(
        "intermediate revoked in root crl",
        sgx(F.CA_REVOKED),
        R.CERTIFICATE_REVOKED,
        "pck=SGX_INTERMEDIATE_CA_REVOKED OK",
        BAD_CHAIN,
    ),
    row(
        "tcb signer revoked",
        sgx(F.SIGNER_REVOKED),
        R.CERTIFICATE_REVOKED,
        "tcbinfo=SGX_TCB_SIGNING_CERT_REVOKED qeid=SGX_TCB_SIGNING_CERT_REVOKED OK",
        BAD_CHAIN,
    ),
    row("root revoked in own crl", sgx(F.ROOT_REVOKED), R.CERTIFICATE_REVOKED, "OK", "CertRevoked"),
    row(
        "pck crl signed by other",
        sgx(F.PCK_CRL_SIGNED_BY_OTHER_KEY),
        R.CRL_SIGNATURE,
        "pck=SGX_CRL_INVALID_SIGNATURE OK",
        BAD_CHAIN,
    ),
    row(
        "root crl signed by other",
        sgx(F.ROOT_CRL_SIGNED_BY_OTHER_KEY),
        R.CRL_SIGNATURE,
        "pck=SGX_CRL_INVALID_SIGNATURE tcbinfo=SGX_CRL_INVALID_SIGNATURE qeid=SGX_CRL_INVALID_SIGNATURE OK",
        BAD_ROOT_CRL,
    ),
    row("pck crl expired", sgx(F.PCK_CRL_EXPIRED), R.CRL_EXPIRED, "pck=SGX_CRL_EXPIRED OK", "CrlExpired"),
    row(
        "root crl expired",
        sgx(F.ROOT_CRL_EXPIRED),
        R.CRL_EXPIRED,
        "pck=SGX_CRL_EXPIRED tcbinfo=SGX_CRL_EXPIRED qeid=SGX_CRL_EXPIRED OK",
        "CrlExpired",
    ),
    row("pck crl in future", sgx(F.PCK_CRL_NOT_YET_VALID), R.CRL_NOT_YET_VALID, "pck=SGX_CRL_EXPIRED OK", "UpToDate"),
    row(
        "root crl in future",
        sgx(F.ROOT_CRL_NOT_YET_VALID),
        R.CRL_NOT_YET_VALID,
        "pck=SGX_CRL_EXPIRED tcbinfo=SGX_CRL_EXPIRED qeid=SGX_CRL_EXPIRED OK",
        "UpToDate",
    ),
    # Dates.
    row(
        "tcb info expired",
        sgx(F.TCB_INFO_EXPIRED),
        R.TCB_INFO_EXPIRED,
        "tcbinfo=SGX_TCB_INFO_EXPIRED OK",
        "TCBInfo expired",
    ),
    row(
        "qe identity expired",
        sgx(F.QE_IDENTITY_EXPIRED),
        R.QE_IDENTITY_EXPIRED,
        "qeid=SGX_ENCLAVE_IDENTITY_EXPIRED OK",
        "QE Identity expired",
    ),
    row(
        "tcb info not yet issued",
        sgx(F.TCB_INFO_NOT_YET_VALID),
        R.TCB_INFO_NOT_YET_VALID,
        "OK",
        "TCBInfo issue date is in the future",
    ),
    row(
        "qe identity not yet issued",
        sgx(F.QE_IDENTITY_NOT_YET_VALID),
        R.QE_IDENTITY_NOT_YET_VALID,
        "OK",
        "QE Identity issue date is in the future",
    ),
    row("pck not yet valid", sgx(F.LEAF_NOT_YET_VALID), R.CERTIFICATE_NOT_YET_VALID, "OK", "CertNotValidYet"),
    row("pck expired", sgx(F.LEAF_EXPIRED), R.CERTIFICATE_EXPIRED, "pck=SGX_PCK_CERT_CHAIN_EXPIRED OK", "CertExpired"),
    row("ca expired", sgx(F.CA_EXPIRED), R.CERTIFICATE_EXPIRED, "pck=SGX_PCK_CERT_CHAIN_EXPIRED OK", "CertExpired"),
    row(
        "signer expired",
        sgx(F.SIGNER_EXPIRED),
        R.CERTIFICATE_EXPIRED,
        "tcbinfo=SGX_SIGNING_CERT_CHAIN_EXPIRED qeid=SGX_SIGNING_CERT_CHAIN_EXPIRED OK",
        "CertExpired",
    ),
    row("signer not yet valid", sgx(F.SIGNER_NOT_YET_VALID), R.CERTIFICATE_NOT_YET_VALID, "OK", "CertNotValidYet"),
    row("now == tcb nextUpdate", sgx(F.HARMLESS_LAST_SECOND), UP, "OK", "UpToDate"),
    row("eval numbers differ (ti 17, qe 5)", sgx(F.HARMLESS_EVALUATION_NUMBERS), UP, "OK", "UpToDate"),
    # Which document belongs to which platform.
    row("fmspc mismatch", sgx(F.TCB_INFO_FMSPC), R.TCB_INFO_MISMATCH, "TCB_INFO_MISMATCH", "Fmspc mismatch"),
    row("pceid mismatch", sgx(F.TCB_INFO_PCE_ID), R.TCB_INFO_MISMATCH, "TCB_INFO_MISMATCH", "UpToDate"),
    row(
        "tcb id TDX for SGX quote",
        sgx(F.TCB_INFO_ID_TDX),
        R.TCB_INFO_MISMATCH,
        BAD_INFO,
        "SGX quote with non-SGX TCB info",
    ),
    row("tcb id QVE", sgx(F.TCB_INFO_ID_UNKNOWN), R.TCB_INFO_MALFORMED, BAD_INFO, "SGX quote with non-SGX TCB info"),
    row(
        "tcb info SGX for TDX quote",
        tdx(F.TD_TCB_INFO_ID_SGX),
        R.TCB_INFO_MISMATCH,
        BAD_INFO,
        "TDX quote with non-TDX TCB info",
    ),
    row(
        "qe identity TD_QE for SGX",
        sgx(F.QE_IDENTITY_ID_TD_QE),
        R.QE_IDENTITY_MISMATCH,
        "QE_IDENTITY_MISMATCH",
        "Unsupported QE Identity id/version",
    ),
    row(
        "qe identity QE for TDX",
        tdx(F.TD_QE_IDENTITY_ID_QE),
        R.QE_IDENTITY_MISMATCH,
        "QE_IDENTITY_MISMATCH",
        "Unsupported QE Identity id/version",
    ),
    row(
        "qe identity QVE",
        sgx(F.QE_IDENTITY_ID_QVE),
        R.QE_IDENTITY_MISMATCH,
        "QE_IDENTITY_MISMATCH",
        "Unsupported QE Identity id/version",
    ),
    row("qe mrsigner wrong", sgx(F.QE_MR_SIGNER), R.QE_IDENTITY_MISMATCH, "QE_IDENTITY_MISMATCH", "MRSIGNER mismatch"),
    row("qe prodid wrong", sgx(F.QE_PROD_ID), R.QE_IDENTITY_MISMATCH, "QE_IDENTITY_MISMATCH", "ISVPRODID mismatch"),
    row("qe misc set", sgx(F.QE_MISC_SELECT), R.QE_IDENTITY_MISMATCH, "QE_IDENTITY_MISMATCH", "MISCSELECT mismatch"),
    row(
        "qe debug attr", sgx(F.QE_DEBUG), R.QE_IDENTITY_MISMATCH, "QE_IDENTITY_MISMATCH", "QE report validation failed"
    ),
    row(
        "pck CN other",
        sgx(F.LEAF_COMMON_NAME),
        R.CERTIFICATE_ROLE,
        "pck=SGX_PCK_MISSING INVALID_PCK_CERT",
        "UpToDate",
    ),
    row(
        "root CN other",
        sgx(F.ROOT_COMMON_NAME),
        R.CERTIFICATE_ROLE,
        "pck=SGX_ROOT_CA_MISSING tcbinfo=SGX_ROOT_CA_MISSING qeid=SGX_ROOT_CA_MISSING OK",
        "UpToDate",
    ),
    row(
        "tcb signer CN other",
        sgx(F.SIGNER_COMMON_NAME),
        R.CERTIFICATE_ROLE,
        "tcbinfo=SGX_TCB_SIGNING_CERT_MISSING qeid=SGX_TCB_SIGNING_CERT_MISSING OK",
        "UpToDate",
    ),
    # What the quoted code is.
    row("sgx app debug", sgx_debug, UP, "OK", "Debug mode is enabled", appraisal=R.DEBUG_ENCLAVE),
    row(
        "td debug",
        tdx(attributes=SEPT | TDAttribute.DEBUG),
        UP,
        "OK",
        "Debug mode is enabled",
        appraisal=R.DEBUG_ENCLAVE,
    ),
    row(
        "td no SEPT_VE_DISABLE",
        tdx(attributes=0),
        UP,
        "OK",
        "SEPT_VE_DISABLE is not enabled",
        appraisal=R.TD_ATTRIBUTE_MISSING,
    ),
    row(
        "td PKS bit30",
        tdx(attributes=SEPT | TDAttribute.PKS),
        UP,
        "OK",
        "UpToDate",
        appraisal=R.TD_ATTRIBUTE_NOT_ALLOWED,
    ),
    row(
        "td migratable bit29",
        tdx(attributes=SEPT | TDAttribute.MIGRATABLE),
        UP,
        "OK",
        "TD migration is enabled",
        appraisal=R.TD_ATTRIBUTE_NOT_ALLOWED,
    ),
    row(
        "seam attr nonzero",
        tdx(F.TD_SEAM_ATTRIBUTES),
        R.TDX_MODULE_MISMATCH,
        "TDX_MODULE_MISMATCH",
        "SEAMATTRIBUTES mismatch",
    ),
    row(
        "mrsignerseam nonzero",
        tdx(F.TD_SEAM_SIGNER),
        R.TDX_MODULE_MISMATCH,
        "TDX_MODULE_MISMATCH",
        "MRSIGNER mismatch",
    ),
    row(
        "mrservicetd nonzero",
        tdx15(mr_service_td=b"\x01" * 48),
        UP,
        "OK",
        "Invalid MR service TD",
        appraisal=R.SERVICE_TD_NOT_ALLOWED,
    ),
    # Convergence.
    row("platform UpToDate", sgx(), UP, "OK", "UpToDate"),
    row("platform UpToDate + QE OutOfDate", sgx(**QE_OLD), OLD, "TCB_OUT_OF_DATE", "OutOfDate"),
    row("platform SWHardeningNeeded", sgx(tcb_status=HARDENING), HARDENING, "TCB_SW_HARDENING_NEEDED", HARDENING),
    row(
        "platform SWHardeningNeeded + QE OutOfDate",
        sgx(tcb_status=HARDENING, **QE_OLD),
        OLD,
        "TCB_OUT_OF_DATE",
        "OutOfDate",
    ),
    row("platform ConfigurationNeeded", sgx(tcb_status=CONFIG), CONFIG, "TCB_CONFIGURATION_NEEDED", CONFIG),
    row(
        "platform ConfigurationNeeded + QE OutOfDate",
        sgx(tcb_status=CONFIG, **QE_OLD),
        OLD_CONFIG,
        "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED",
        OLD_CONFIG,
    ),
    row(
        "platform ConfigurationAndSWHardeningNeeded",
        sgx(tcb_status=CONFIG_HARDENING),
        CONFIG_HARDENING,
        "TCB_CONFIGURATION_AND_SW_HARDENING_NEEDED",
        CONFIG_HARDENING,
    ),
    row(
        "platform ConfigurationAndSWHardeningNeeded + QE OutOfDate",
        sgx(tcb_status=CONFIG_HARDENING, **QE_OLD),
        OLD_CONFIG,
        "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED",
        OLD_CONFIG,
    ),
    row("platform OutOfDate", sgx(tcb_status=OLD), OLD, "TCB_OUT_OF_DATE", OLD),
    row("platform OutOfDate + QE OutOfDate", sgx(tcb_status=OLD, **QE_OLD), OLD, "TCB_OUT_OF_DATE", OLD),
    row(
        "platform OutOfDateConfigurationNeeded",
        sgx(tcb_status=OLD_CONFIG),
        OLD_CONFIG,
        "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED",
        OLD_CONFIG,
    ),
    row(
        "platform OutOfDateConfigurationNeeded + QE OutOfDate",
        sgx(tcb_status=OLD_CONFIG, **QE_OLD),
        OLD_CONFIG,
        "TCB_OUT_OF_DATE_CONFIGURATION_NEEDED",
        OLD_CONFIG,
    ),
    row("platform Revoked", sgx(tcb_status="Revoked"), R.TCB_REVOKED, "TCB_REVOKED", "TCB status is invalid: Revoked"),
    row(
        "platform Revoked + QE OutOfDate",
        sgx(tcb_status="Revoked", **QE_OLD),
        R.TCB_REVOKED,
        "TCB_REVOKED",
        "TCB status is invalid: Revoked",
    ),
    row(
        "platform Bogus",
        sgx(F.TCB_INFO_STATUS_UNKNOWN),
        R.TCB_INFO_MALFORMED,
        BAD_INFO,
        "Failed to decode TcbInfo",
    ),
    # Levels.
    row(
        "QE level ConfigurationNeeded",
        sgx(F.QE_IDENTITY_STATUS_NOT_FOR_ENCLAVES, **QE_NOTED),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY,
        "UpToDate",
    ),
    row("QE level Revoked", sgx(qe_status="Revoked"), R.TCB_REVOKED, "TCB_REVOKED", "TCB status is invalid: Revoked"),
    row(
        "QE level SWHardeningNeeded",
        sgx(F.QE_IDENTITY_STATUS_SW_HARDENING),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY,
        "Unrecognized TCB status SWHardeningNeeded",
    ),
    row(
        "QE level OutOfDateConfigurationNeeded",
        sgx(F.QE_IDENTITY_STATUS_OUT_OF_DATE_CONFIGURATION, **QE_NOTED),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY,
        "UpToDate",
    ),
    row(
        "QE svn below all",
        sgx(F.QE_SVN_BELOW_ALL),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "is below minimum required",
    ),
    row(
        "platform below all",
        sgx(F.TCB_BELOW_ALL_LEVELS),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "No matching TCB level found",
    ),
    row(
        "pcesvn below",
        sgx(F.PCE_SVN_BELOW_ALL_LEVELS),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "No matching TCB level found",
    ),
    row("one component lower", sgx(F.OUTDATED_COMPONENT), OLD, "TCB_OUT_OF_DATE", "OutOfDate"),
    row("15 components", sgx(F.TCB_INFO_15_COMPONENTS), R.TCB_INFO_MALFORMED, BAD_INFO_FORMAT, "expected 16, got 15"),
    row("17 components", sgx(F.TCB_INFO_17_COMPONENTS), R.TCB_INFO_MALFORMED, BAD_INFO_FORMAT, "expected 16, got 17"),
    row("levels ascending", sgx(F.HARMLESS_TCB_LEVELS_ASCENDING), UP, "OK", "UpToDate"),
    # TDX modules.
    row(
        "tdx: comps[0]=9 > svn, module 1 (skip 0,1)",
        tdx(F.HARMLESS_TD_MODULES_COMPONENT),
        UP,
        "OK",
        "UpToDate",
    ),
    row(
        "tdx: module 0, comps[0]=9",
        tdx(F.HARMLESS_TD_MODULES_COMPONENT, tee_tcb_svn=MODULE_0),
        OLD,
        "TCB_OUT_OF_DATE",
        "OutOfDate",
    ),
    row("tdx module svn 1 -> OutOfDate", tdx(F.OUTDATED_TD_MODULE), OLD, "TCB_OUT_OF_DATE", "OutOfDate"),
    row(
        "tdx module svn 0 below",
        tdx(F.TD_MODULE_BELOW_ALL),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "TDX module ISVSVN 0 is below minimum required",
    ),
    row(
        "tdx module id missing",
        tdx(F.TD_MODULE_UNKNOWN),
        R.TDX_MODULE_MISMATCH,
        "TDX_MODULE_MISMATCH",
        "No TDX module identity with id TDX_02 found",
    ),
    row(
        "tdx module identities absent",
        tdx(F.TD_MODULE_IDENTITIES_MISSING),
        R.TDX_MODULE_MISMATCH,
        "TDX_MODULE_MISMATCH",
        "No TDX module identity with id TDX_01 found",
    ),
    row(
        "tdx module Revoked",
        tdx(tdx_module_status="Revoked"),
        R.TCB_REVOKED,
        "TCB_REVOKED",
        "TCB status is invalid: Revoked",
    ),
    row(
        "tdx module SWHardeningNeeded",
        tdx(F.TD_MODULE_STATUS_NOT_FOR_MODULES),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "Unrecognized TCB status SWHardeningNeeded in TDX mod",
    ),
    # Two modules: the one of the launch, and the one that runs now.
    row(
        "tdx15 svn old, svn2 new -> relaunch",
        tdx15(F.RELAUNCH_TD_MODULE),
        RELAUNCH,
        "TCB_TD_RELAUNCH_ADVISED",
        RELAUNCH,
    ),
    row(
        "tdx15 svn old, svn2 new, cfg needed",
        tdx15(F.RELAUNCH_TD_MODULE, tcb_status=CONFIG),
        RELAUNCH_CONFIG,
        "TCB_TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED",
        RELAUNCH_CONFIG,
    ),
    row("tdx15 svn new, svn2 old", tdx15(F.HARMLESS_TD_CURRENT_MODULE_OLD), UP, "OK", "UpToDate"),
    row(
        "tdx15 svn2 below",
        tdx15(F.TD_CURRENT_MODULE_BELOW_ALL),
        R.TCB_NOT_SUPPORTED,
        "TCB_NOT_SUPPORTED",
        "Failed to evaluate the current TDX TCB",
    ),
    row("tdx15 svn2 zeros (module 0)", tdx15(F.HARMLESS_TD_CURRENT_MODULE_ZERO), UP, "OK", "UpToDate"),
    row("tdx15 relaunch + QE OutOfDate", tdx15(F.RELAUNCH_TD_MODULE, **QE_OLD), OLD, "TCB_OUT_OF_DATE", "OutOfDate"),
    # Versions of documents.
    row(
        "tcb info v2 id for tdx",
        tdx(F.TD_TCB_INFO_VERSION_2),
        R.TCB_INFO_MALFORMED,
        BAD_INFO_FORMAT,
        "TDX quote with non-TDX TCB info",
    ),
    row(
        "qe identity v1",
        sgx(F.QE_IDENTITY_VERSION_1),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY_VERSION,
        "Unsupported QE Identity id/version",
    ),
    row(
        "qe identity v3",
        sgx(F.QE_IDENTITY_VERSION_3),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY_VERSION,
        "Unsupported QE Identity id/version",
    ),
    row(
        "qe identity v3 tdx",
        tdx(F.QE_IDENTITY_VERSION_3),
        R.QE_IDENTITY_MALFORMED,
        BAD_IDENTITY_VERSION,
        "UpToDate",
    ),
    row("tcb info v4", sgx(F.TCB_INFO_VERSION), R.TCB_INFO_MALFORMED, BAD_INFO, "UpToDate"),
    # Who may sign.
    row(
        "TCB Info signed by the PCK leaf key",
        sgx(F.TCB_INFO_SIGNED_BY_LEAF),
        R.CERTIFICATE_CHAIN,
        "tcbinfo=UNSUPPORTED_CERT_FORMAT qeid=OK",
        "UpToDate",
    ),
    row(
        "QE identity signed by the PCK leaf key",
        sgx(F.QE_IDENTITY_SIGNED_BY_LEAF),
        R.CERTIFICATE_CHAIN,
        "tcbinfo=OK qeid=UNSUPPORTED_CERT_FORMAT",
        "UpToDate",
    ),
    row(
        "both",
        sgx(F.TCB_INFO_SIGNED_BY_LEAF, F.QE_IDENTITY_SIGNED_BY_LEAF),
        R.CERTIFICATE_CHAIN,
        "tcbinfo=UNSUPPORTED_CERT_FORMAT qeid=UNSUPPORTED_CERT_FORMAT",
        "UpToDate",
    ),
]
