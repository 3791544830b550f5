"""Faults on request: one switch for each link that a verifier has to examine.

A fault breaks exactly one thing and leaves the rest of the world as good as it was: what it changes is signed again
wherever the real vendor or platform would have signed it, so that only the check in question can notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum, unique
from typing import TypeVar

from eaa.errors import Misuse, Reason
from eaa.evidence.quote import TEEType


class Stage(StrEnum):
    """When a fault takes hold."""

    PKI = "pki"
    """The vendor's root, PCK CAs and TCB signing certificate are issued."""
    PLATFORM = "platform"
    """The platform's PCK certificate is issued."""
    QUOTE = "quote"
    """A quote is made."""
    COLLATERAL = "collateral"
    """Collateral is issued."""


@unique
class Fault(Enum):
    """One broken link: its stage, and what is wrong in words."""

    # --- the vendor's certificates; `CA` is both PCK CAs, `SIGNER` the TCB signing certificate ---------------------
    FOREIGN_ROOT = (Stage.PKI, "everything chains to another root of the same name")
    ROOT_COMMON_NAME = (Stage.PKI, "the root has another common name")
    ROOT_EXPIRED = (Stage.PKI, "the root has expired")
    ROOT_NOT_YET_VALID = (Stage.PKI, "the root is not valid yet")
    ROOT_NOT_SELF_SIGNED = (Stage.PKI, "another key signed the root")
    ROOT_NOT_A_CA = (Stage.PKI, "the root's basic constraints say that it is no CA")
    ROOT_PATH_LENGTH_ZERO = (Stage.PKI, "the root's path length allows no PCK CA below it")
    CA_COMMON_NAME = (Stage.PKI, "the PCK CA has another common name")
    CA_EXPIRED = (Stage.PKI, "the PCK CA has expired")
    CA_NOT_YET_VALID = (Stage.PKI, "the PCK CA is not valid yet")
    CA_SIGNED_BY_OTHER_KEY = (Stage.PKI, "another key than the root's signed the PCK CA")
    CA_ISSUER_NAME = (Stage.PKI, "the PCK CA names another issuer than the root that signed it")
    CA_NOT_A_CA = (Stage.PKI, "the PCK CA's basic constraints say that it is no CA")
    CA_WITHOUT_CERT_SIGN = (Stage.PKI, "the PCK CA's key usage does not allow signing certificates")
    SIGNER_COMMON_NAME = (Stage.PKI, "the TCB signing certificate has another common name")
    SIGNER_EXPIRED = (Stage.PKI, "the TCB signing certificate has expired")
    SIGNER_NOT_YET_VALID = (Stage.PKI, "the TCB signing certificate is not valid yet")
    SIGNER_SIGNED_BY_OTHER_KEY = (Stage.PKI, "another key than the root's signed the TCB signing certificate")
    SIGNER_IS_A_CA = (Stage.PKI, "the TCB signing certificate's basic constraints say that it is a CA")
    SIGNER_WITH_SGX_EXTENSION = (Stage.PKI, "the TCB signing certificate carries a PCK's SGX extension")

    # --- the platform's PCK certificate ----------------------------------------------------------------------------
    LEAF_COMMON_NAME = (Stage.PLATFORM, "the PCK certificate has another common name")
    LEAF_EXPIRED = (Stage.PLATFORM, "the PCK certificate has expired")
    LEAF_NOT_YET_VALID = (Stage.PLATFORM, "the PCK certificate is not valid yet")
    LEAF_SIGNED_BY_OTHER_KEY = (Stage.PLATFORM, "another key than the PCK CA's signed the PCK certificate")
    LEAF_SIGNED_BY_OTHER_KEY_AND_AKI = (
        Stage.PLATFORM,
        "another key signed the PCK certificate, whose authority key id names that key",
    )
    LEAF_SIGNED_BY_OTHER_KEY_WITHOUT_AKI = (
        Stage.PLATFORM,
        "another key signed the PCK certificate, which has no authority key id",
    )
    LEAF_ISSUER_NAME = (Stage.PLATFORM, "the PCK certificate names another issuer than the CA that signed it")
    LEAF_IS_A_CA = (Stage.PLATFORM, "the PCK certificate's basic constraints say that it is a CA")
    LEAF_WITHOUT_SGX_EXTENSION = (Stage.PLATFORM, "the PCK certificate has no SGX extension")
    LEAF_SGX_EXTENSION_TRUNCATED = (Stage.PLATFORM, "the SGX extension is cut off")
    LEAF_SGX_EXTENSION_15_COMPONENTS = (
        Stage.PLATFORM,
        "the SGX extension has one TCB component twice and lacks another",
    )
    LEAF_CPU_SVN_DIFFERS = (Stage.PLATFORM, "CPUSVN and the 16 TCB components of the SGX extension differ")

    # --- the quote -------------------------------------------------------------------------------------------------
    FLIP_QUOTE_SIGNATURE = (Stage.QUOTE, "one bit of the quote's signature is flipped")
    ZERO_QUOTE_SIGNATURE = (Stage.QUOTE, "the quote's signature is all zero")
    QUOTE_SIGNED_BY_OTHER_KEY = (Stage.QUOTE, "another key than the attestation key signed the quote")
    REPORT_ALTERED = (Stage.QUOTE, "the report body was changed after it was signed")
    HEADER_ALTERED = (Stage.QUOTE, "the header's user data was changed after it was signed")
    FOREIGN_ATTESTATION_KEY = (Stage.QUOTE, "a key that the quoting enclave never made signed the quote")
    ATTESTATION_KEY_OFF_CURVE = (Stage.QUOTE, "the attestation key is no point of the curve, but the QE vouches for it")
    QE_AUTH_DATA_ALTERED = (Stage.QUOTE, "the QE's authentication data was changed after it was hashed")
    QE_REPORT_DATA_TAIL = (Stage.QUOTE, "the second half of the QE's report data is not zero")
    QE_REPORT_ALTERED = (Stage.QUOTE, "the QE's report was changed after it was signed")
    QE_REPORT_SIGNED_BY_OTHER_KEY = (Stage.QUOTE, "another key than the PCK signed the QE's report")
    QE_MR_SIGNER = (Stage.QUOTE, "the quoting enclave is another signer's")
    QE_PROD_ID = (Stage.QUOTE, "the quoting enclave is another product of its signer")
    QE_MISC_SELECT = (Stage.QUOTE, "the quoting enclave's MISCSELECT is not the identity's")
    QE_DEBUG = (Stage.QUOTE, "the quoting enclave runs in debug mode")
    QE_SVN_BELOW_ALL = (Stage.QUOTE, "the quoting enclave is older than every level of its identity")
    UNKNOWN_VERSION = (Stage.QUOTE, "the quote's version is 9")
    UNKNOWN_ATTESTATION_KEY_TYPE = (Stage.QUOTE, "the quote's attestation key type is 3")
    UNKNOWN_TEE_TYPE = (Stage.QUOTE, "the quote's TEE type is 7")
    TDX_IN_VERSION_3 = (Stage.QUOTE, "the quote of version 3 says that it is a trust domain's")
    UNKNOWN_QE_VENDOR = (Stage.QUOTE, "the quote names another QE vendor than Intel")
    AUTH_DATA_TOO_SHORT = (Stage.QUOTE, "the authentication data says that it is one byte shorter than it is")
    AUTH_DATA_TOO_LONG = (Stage.QUOTE, "the authentication data says that it is one byte longer than it is")
    AUTH_DATA_HUGE = (Stage.QUOTE, "the authentication data says that it has 4 GiB")
    AUTH_DATA_SLACK = (Stage.QUOTE, "a byte stands behind the last field, inside the authentication data")
    TRAILING_BYTES = (Stage.QUOTE, "bytes that are no padding follow the quote")
    OUTER_CERTIFICATION_TYPE = (Stage.QUOTE, "the outer certification data of a version 4 quote is of type 5")
    OUTER_CERTIFICATION_TOO_LONG = (
        Stage.QUOTE,
        "the outer certification data of a version 4 quote says that it is one byte longer than it is",
    )
    UNKNOWN_BODY_TYPE = (Stage.QUOTE, "the body of a version 5 quote is of type 9")
    CERTIFICATION_DATA_PPID = (Stage.QUOTE, "the certification data is a PPID, and there is no certificate chain")
    CERTIFICATION_DATA_LEAF_ONLY = (Stage.QUOTE, "the certification data is the PCK certificate alone, without chain")
    CERTIFICATION_DATA_UNKNOWN = (Stage.QUOTE, "the certification data is of type 7")
    CHAIN_WITHOUT_ROOT = (Stage.QUOTE, "the quote's chain lacks the root")
    CHAIN_WITHOUT_CA = (Stage.QUOTE, "the quote's chain lacks the PCK CA")
    CHAIN_WITH_EXTRA = (Stage.QUOTE, "the quote's chain has a fourth certificate")
    CHAIN_JUNK = (Stage.QUOTE, "the quote's chain is no PEM")

    # --- revocation ------------------------------------------------------------------------------------------------
    LEAF_REVOKED = (Stage.COLLATERAL, "the PCK certificate is on the PCK CRL")
    CA_REVOKED = (Stage.COLLATERAL, "the PCK CA is on the root CRL")
    SIGNER_REVOKED = (Stage.COLLATERAL, "the TCB signing certificate is on the root CRL")
    ROOT_REVOKED = (Stage.COLLATERAL, "the root is on its own CRL")
    ROOT_CRL_EXPIRED = (Stage.COLLATERAL, "the root CRL's next update is past")
    ROOT_CRL_NOT_YET_VALID = (Stage.COLLATERAL, "the root CRL is issued in the future")
    ROOT_CRL_SIGNED_BY_OTHER_KEY = (Stage.COLLATERAL, "another key than the root's signed the root CRL")
    ROOT_CRL_OF_OTHER_ISSUER = (Stage.COLLATERAL, "the PCK CA's CRL stands in the place of the root's")
    ROOT_CRL_MISSING = (Stage.COLLATERAL, "the root CRL is empty")
    ROOT_CRL_WITHOUT_NUMBER = (Stage.COLLATERAL, "the root CRL has no number")
    ROOT_CRL_WITHOUT_AKI = (Stage.COLLATERAL, "the root CRL has no authority key id")
    PCK_CRL_EXPIRED = (Stage.COLLATERAL, "the PCK CRL's next update is past")
    PCK_CRL_NOT_YET_VALID = (Stage.COLLATERAL, "the PCK CRL is issued in the future")
    PCK_CRL_SIGNED_BY_OTHER_KEY = (Stage.COLLATERAL, "another key than the PCK CA's signed the PCK CRL")
    PCK_CRL_OF_OTHER_CA = (Stage.COLLATERAL, "the PCK CRL and its chain are the other PCK CA's")
    PCK_CRL_MISSING = (Stage.COLLATERAL, "the PCK CRL is empty")
    PCK_CRL_WITHOUT_NUMBER = (Stage.COLLATERAL, "the PCK CRL has no number")
    PCK_CRL_WITHOUT_AKI = (Stage.COLLATERAL, "the PCK CRL has no authority key id")
    PCK_CRL_CHAIN_FOREIGN_ROOT = (Stage.COLLATERAL, "the PCK CRL's chain ends in another root of the same name")

    # --- TCB Info --------------------------------------------------------------------------------------------------
    TCB_INFO_SIGNED_BY_OTHER_KEY = (Stage.COLLATERAL, "another key than the TCB signing one signed TCB Info")
    TCB_INFO_SIGNED_BY_LEAF = (Stage.COLLATERAL, "the PCK signed TCB Info, and its chain of three is given for it")
    TCB_INFO_SIGNED_BY_LEAF_UNDER_ROOT = (Stage.COLLATERAL, "the PCK signed TCB Info; chain: PCK certificate, root")
    TCB_INFO_SIGNED_BY_CA = (Stage.COLLATERAL, "the PCK CA signed TCB Info, and its chain is given for it")
    TCB_INFO_CHAIN_FOREIGN_ROOT = (Stage.COLLATERAL, "TCB Info's chain ends in another root of the same name")
    TCB_INFO_CHAIN_WITHOUT_ROOT = (Stage.COLLATERAL, "TCB Info's chain lacks the root")
    TCB_INFO_ALTERED = (Stage.COLLATERAL, "TCB Info was changed after it was signed")
    TCB_INFO_STATUS_ALTERED = (
        Stage.COLLATERAL,
        "a status in TCB Info was changed to an unknown one after it was signed",
    )
    TCB_INFO_WHITESPACE = (Stage.COLLATERAL, "a space was added to TCB Info after it was signed")
    TCB_INFO_DUPLICATE_MEMBER = (Stage.COLLATERAL, "TCB Info, validly signed, has a member twice")
    TCB_INFO_TRAILING_TEXT = (Stage.COLLATERAL, "text follows TCB Info, and the signature covers it")
    TCB_INFO_DEEP = (Stage.COLLATERAL, "TCB Info, validly signed, is nested 1000 deep")
    TCB_INFO_EXPIRED = (Stage.COLLATERAL, "TCB Info's next update is past")
    TCB_INFO_NOT_YET_VALID = (Stage.COLLATERAL, "TCB Info is issued in the future")
    TCB_INFO_FMSPC = (Stage.COLLATERAL, "TCB Info is another FMSPC's")
    TCB_INFO_PCE_ID = (Stage.COLLATERAL, "TCB Info is another PCE-ID's")
    TCB_INFO_TYPE = (Stage.COLLATERAL, "TCB Info's tcbType is 1")
    TCB_INFO_VERSION = (Stage.COLLATERAL, "TCB Info's version is 4")
    TCB_INFO_ID_TDX = (
        Stage.COLLATERAL,
        "TCB Info is for trust domains: id TDX, with the modules and components of TDX",
    )
    TCB_INFO_ID_UNKNOWN = (Stage.COLLATERAL, "TCB Info is of id QVE")
    TCB_INFO_STATUS_UNKNOWN = (Stage.COLLATERAL, "a level of TCB Info has an unknown status")
    TCB_INFO_15_COMPONENTS = (Stage.COLLATERAL, "each level of TCB Info has 15 components")
    TCB_INFO_17_COMPONENTS = (Stage.COLLATERAL, "each level of TCB Info has 17 components")
    TCB_INFO_SVN_OUT_OF_RANGE = (Stage.COLLATERAL, "a component of TCB Info is 256")
    TCB_INFO_DUPLICATE_LEVEL = (Stage.COLLATERAL, "TCB Info has the same level twice")
    TCB_INFO_NO_LEVELS = (Stage.COLLATERAL, "TCB Info has no levels")
    TCB_BELOW_ALL_LEVELS = (Stage.COLLATERAL, "the platform's components are below every level of TCB Info")
    PCE_SVN_BELOW_ALL_LEVELS = (Stage.COLLATERAL, "the platform's PCE SVN is below every level of TCB Info")

    # --- QE identity -----------------------------------------------------------------------------------------------
    QE_IDENTITY_SIGNED_BY_OTHER_KEY = (Stage.COLLATERAL, "another key than the TCB signing one signed the QE identity")
    QE_IDENTITY_SIGNED_BY_LEAF = (Stage.COLLATERAL, "the PCK signed the QE identity, and its chain is given for it")
    QE_IDENTITY_SIGNED_BY_LEAF_UNDER_ROOT = (
        Stage.COLLATERAL,
        "the PCK signed the QE identity; chain: PCK certificate, root",
    )
    QE_IDENTITY_SIGNED_BY_CA = (Stage.COLLATERAL, "the PCK CA signed the QE identity, and its chain is given for it")
    QE_IDENTITY_CHAIN_FOREIGN_ROOT = (Stage.COLLATERAL, "the QE identity's chain ends in another root of the same name")
    QE_IDENTITY_CHAIN_WITHOUT_ROOT = (Stage.COLLATERAL, "the QE identity's chain lacks the root")
    QE_IDENTITY_ALTERED = (Stage.COLLATERAL, "the QE identity was changed after it was signed")
    QE_IDENTITY_WHITESPACE = (Stage.COLLATERAL, "a space was added to the QE identity after it was signed")
    QE_IDENTITY_DUPLICATE_MEMBER = (Stage.COLLATERAL, "the QE identity, validly signed, has a member twice")
    QE_IDENTITY_TRAILING_TEXT = (Stage.COLLATERAL, "text follows the QE identity, and the signature covers it")
    QE_IDENTITY_EXPIRED = (Stage.COLLATERAL, "the QE identity's next update is past")
    QE_IDENTITY_NOT_YET_VALID = (Stage.COLLATERAL, "the QE identity is issued in the future")
    QE_IDENTITY_ID_TD_QE = (Stage.COLLATERAL, "the identity is the TD quoting enclave's")
    QE_IDENTITY_ID_QVE = (Stage.COLLATERAL, "the identity is the quote verification enclave's")
    QE_IDENTITY_VERSION_1 = (Stage.COLLATERAL, "the QE identity's version is 1")
    QE_IDENTITY_VERSION_3 = (Stage.COLLATERAL, "the QE identity's version is 3")
    QE_IDENTITY_STATUS_NOT_FOR_ENCLAVES = (
        Stage.COLLATERAL,
        "a level of the QE identity is ConfigurationNeeded, which is no status of an enclave",
    )
    QE_IDENTITY_STATUS_SW_HARDENING = (
        Stage.COLLATERAL,
        "a level of the QE identity is SWHardeningNeeded, which is no status of an enclave",
    )
    QE_IDENTITY_STATUS_OUT_OF_DATE_CONFIGURATION = (
        Stage.COLLATERAL,
        "a level of the QE identity is OutOfDateConfigurationNeeded, which is no status of an enclave",
    )
    QE_IDENTITY_NO_LEVELS = (Stage.COLLATERAL, "the QE identity has no levels")

    # --- trust domains only ----------------------------------------------------------------------------------------
    TD_IN_VERSION_3 = (Stage.QUOTE, "a trust domain's quote says that it is of version 3")
    TD_SEAM_SIGNER = (Stage.QUOTE, "another signer's module runs the trust domain")
    TD_SEAM_ATTRIBUTES = (Stage.QUOTE, "the module that runs the trust domain has an attribute set")
    TD_MODULE_UNKNOWN = (Stage.QUOTE, "the module is of a major version that TCB Info does not know")
    TD_MODULE_BELOW_ALL = (Stage.QUOTE, "the module is older than every level of its identity")
    TD_CURRENT_MODULE_BELOW_ALL = (
        Stage.QUOTE,
        "the module that runs now (TD report 1.5) is older than every level of its identity",
    )
    TD_MODULE_IDENTITIES_MISSING = (Stage.COLLATERAL, "TCB Info has no module identities")
    TD_MODULE_STATUS_NOT_FOR_MODULES = (
        Stage.COLLATERAL,
        "the module's level is SWHardeningNeeded, which is no status of a module",
    )
    TD_TCB_INFO_ID_SGX = (Stage.COLLATERAL, "TCB Info is for enclaves")
    TD_TCB_INFO_VERSION_2 = (Stage.COLLATERAL, "TCB Info's version is 2, which is for enclaves only")
    TD_TCB_INFO_15_COMPONENTS = (Stage.COLLATERAL, "each level of TCB Info has 15 components of TDX")
    TD_QE_IDENTITY_ID_QE = (Stage.COLLATERAL, "the identity is the SGX quoting enclave's")
    TD_COMPONENTS_BELOW_ALL = (Stage.COLLATERAL, "the platform's components of TDX are below every level of TCB Info")

    # --- right, but out of date: a verifier must say so --------------------------------------------------------------
    OUTDATED_COMPONENT = (Stage.COLLATERAL, "the highest level of TCB Info asks for one component more than there is")
    OUTDATED_TD_COMPONENT = (Stage.COLLATERAL, "the highest level of TCB Info asks for one component of TDX more")
    OUTDATED_TD_MODULE = (Stage.QUOTE, "the module that runs the trust domain is old")
    RELAUNCH_TD_MODULE = (
        Stage.QUOTE,
        "the trust domain was launched under an old module (TD report 1.5), which was updated since",
    )

    # --- unusual, but right: a verifier must accept these ----------------------------------------------------------
    HARMLESS_TRAILING_ZEROS = (Stage.QUOTE, "zero padding follows the quote")
    HARMLESS_CHAIN_REVERSED = (Stage.QUOTE, "the quote's chain starts with the root")
    HARMLESS_NO_CHAIN_TERMINATOR = (Stage.QUOTE, "no NUL ends the quote's chain")
    HARMLESS_HEADER_SVNS = (Stage.QUOTE, "the header's informative SVNs are not the platform's")
    HARMLESS_EMPTY_QE_AUTH_DATA = (Stage.QUOTE, "the QE's authentication data is empty")
    HARMLESS_LONG_QE_AUTH_DATA = (Stage.QUOTE, "the QE's authentication data has 64 bytes")
    HARMLESS_LEVELS_ASCENDING = (Stage.COLLATERAL, "TCB Info and QE identity list their levels lowest first")
    HARMLESS_TCB_LEVELS_ASCENDING = (Stage.COLLATERAL, "TCB Info lists its levels lowest first")
    HARMLESS_LOWER_CASE_HEX = (Stage.COLLATERAL, "TCB Info and QE identity write hex in lower case")
    HARMLESS_EVALUATION_NUMBERS = (Stage.COLLATERAL, "TCB Info and QE identity have different evaluation numbers")
    HARMLESS_OTHERS_REVOKED = (Stage.COLLATERAL, "both CRLs list certificates of others")
    HARMLESS_LAST_SECOND = (Stage.COLLATERAL, "TCB Info's next update is this very second")
    HARMLESS_TD_MODULES_COMPONENT = (
        Stage.COLLATERAL,
        "TCB Info asks for a high first component of TDX, which does not count where the module has a major version",
    )
    HARMLESS_TD_CURRENT_MODULE_OLD = (
        Stage.QUOTE,
        "the module that runs now (TD report 1.5) is older than the one of the launch",
    )
    HARMLESS_TD_CURRENT_MODULE_ZERO = (
        Stage.QUOTE,
        "the module that runs now (TD report 1.5) has no SVN, and no version",
    )

    def __init__(self, stage: Stage, what: str) -> None:
        self.stage = stage
        self.what = what

    @property
    def is_harmless(self) -> bool:
        """Whether the world is still good: unusual, but nothing that a verifier may refuse."""
        return self.name.startswith("HARMLESS_")

    @property
    def is_outdated(self) -> bool:
        """Whether all is genuine, and only the TCB is not the newest: the status says so, and nothing is refused."""
        return self.name.startswith(("OUTDATED_", "RELAUNCH_"))

    @property
    def is_tdx(self) -> bool:
        """Whether only a trust domain's world can have it."""
        return self.name.startswith(("TD_", "OUTDATED_TD_", "RELAUNCH_TD_", "HARMLESS_TD_"))


Faults = frozenset[Fault]
NO_FAULTS: Faults = frozenset()


def faults_of(faults: Iterable[Fault], *stages: Stage) -> Faults:
    """Return those of `faults` that take hold at one of `stages`."""
    return frozenset(fault for fault in faults if fault.stage in stages)


def require_stage(faults: Iterable[Fault], *stages: Stage) -> Faults:
    """Return `faults`; raise Misuse where one of them would have no effect at these stages."""
    given = frozenset(faults)
    late = sorted(fault.name for fault in given - faults_of(given, *stages))
    if late:
        raise Misuse(
            Reason.SIMULATOR_INVALID,
            f"{', '.join(late)} cannot take hold here, only faults of {' or '.join(stages)}",
            hint="World.create takes any fault and applies it where it belongs",
        )
    return given


def require_tee(faults: Faults, tee: TEEType) -> Faults:
    """Return `faults`; raise Misuse where one of them is of trust domains only, and `tee` is SGX."""
    foreign = sorted(fault.name for fault in faults if fault.is_tdx) if tee is TEEType.SGX else []
    if foreign:
        raise Misuse(Reason.SIMULATOR_INVALID, f"{', '.join(foreign)} cannot take hold here, only with trust domains")
    return faults


_T = TypeVar("_T")
Edits = Mapping[Fault, Callable[[_T], _T]]
"""What each fault makes of a thing that was right."""


def apply_faults(value: _T, edits: Edits[_T], faults: Faults) -> _T:
    """Return `value` after the edits of those faults that are asked for."""
    for fault, edit in edits.items():
        if fault in faults:
            value = edit(value)
    return value
