"""From each clause of DCAP verification to the function that holds it, its reason, and the tests that provoke it.

`python -m support.spec_coverage` (in tests/) writes docs/spec-coverage.md; a test compares the page with this table,
and the table with the code.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eaa.errors import Reason

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "spec-coverage.md"
R: Final = Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One thing that verification of a quote has to do."""

    text: str
    function: str
    """Module and name below `eaa.`."""
    reasons: tuple[Reason, ...] = ()
    """What it raises; none where the clause is about what must be accepted or told."""
    rows: tuple[str, ...] = ()
    """Rows of the oracle matrix."""
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    title: str
    clauses: tuple[Clause, ...]


HEADER: Final = "evidence.quote.QuoteHeader.parse"
QUOTE: Final = "evidence.quote.Quote.parse"
PREFIX: Final = "evidence.quote.Quote.parse_prefix"
ONE_FIELD: Final = ("test_one_odd_field_is_refused",)

CHAPTERS: Final = (
    Chapter(
        "1.1 The header of a quote",
        (
            Clause(
                text="the version is 3, 4 or 5",
                function=HEADER,
                reasons=(R.QUOTE_VERSION_UNSUPPORTED,),
                tests=ONE_FIELD,
            ),
            Clause(
                text="the attestation key is ECDSA P-256",
                function=HEADER,
                reasons=(R.ATTESTATION_KEY_TYPE_UNSUPPORTED,),
                rows=("att key type 3",),
            ),
            Clause(
                text="the TEE type is SGX or, from version 4 on, TDX",
                function=HEADER,
                reasons=(R.TEE_TYPE_UNSUPPORTED,),
                rows=("tee type 7", "tee type 0x81 in v3", "tdx quote v3 header"),
            ),
            Clause(
                text="the QE vendor is Intel",
                function=HEADER,
                reasons=(R.QE_VENDOR_UNKNOWN,),
                rows=("vendor id wrong",),
            ),
            Clause(
                text="the header's SVNs are the host's word, and no part of the TCB",
                function="verify.dcap.evaluate_quote",
                rows=("header pcesvn/qesvn differ from cert",),
                tests=("test_header_svns_are_not_used",),
            ),
        ),
    ),
    Chapter(
        "1.2 The body",
        (
            Clause(
                text="SGX reports in versions 3, 4 and 5",
                function=PREFIX,
                rows=("sgx v3 ok", "sgx v4 quote", "sgx v5 quote body1"),
            ),
            Clause(
                text="TD reports 1.0, 1.5 and 1.5 extended",
                function=PREFIX,
                rows=(
                    "tdx v4 ok (module 1)",
                    "tdx v5 body2 (td1.0)",
                    "tdx v5 td1.5 ok",
                    "tdx v5 body4 (td1.5 ex, 885 B)",
                ),
            ),
            Clause(
                text="the body's type is known",
                function=PREFIX,
                reasons=(R.QUOTE_BODY_UNSUPPORTED,),
                rows=("v5 body type 9",),
            ),
            Clause(
                text="the body's type fits the TEE type, and its size the type",
                function=PREFIX,
                reasons=(R.QUOTE_MALFORMED,),
                tests=("test_a_body_is_what_its_descriptor_says",),
            ),
            Clause(
                text="a report has the length of its kind",
                function="evidence.tdx.TDReport.parse",
                reasons=(R.QUOTE_MALFORMED,),
                tests=("test_a_td_report_keeps_all_its_bytes", "test_an_enclave_report_has_its_length"),
            ),
            Clause(
                text="what is read is what the signature covers: header, descriptor and body",
                function="verify.dcap.parse_pck_chain",
                reasons=(R.QUOTE_MALFORMED,),
                tests=("test_a_record_that_contradicts_its_signed_bytes_is_refused",),
            ),
        ),
    ),
    Chapter(
        "1.3 Authentication and certification data",
        (
            Clause(
                text="zeros behind a quote are padding, which is counted and left out",
                function=QUOTE,
                rows=("trailing zero bytes",),
                tests=("test_padding_is_a_fact",),
            ),
            Clause(
                text="nothing else stands behind a quote",
                function=QUOTE,
                reasons=(R.QUOTE_TRAILING_BYTES,),
                rows=("trailing nonzero bytes",),
            ),
            Clause(
                text="declared lengths are those that there are, and within their maximum",
                function=PREFIX,
                reasons=(R.QUOTE_MALFORMED,),
                rows=("auth len shorter by 1", "auth len longer by 1", "outer cert size too long"),
                tests=("test_a_declared_length_costs_nothing_before_it_is_checked",),
            ),
            Clause(
                text="nothing is left over inside",
                function=PREFIX,
                reasons=(R.QUOTE_MALFORMED,),
                rows=("slack inside auth data v3", "slack inside auth data v4 (outer size ok)"),
            ),
            Clause(
                text="from version 4 on, the outer certification data is of type 6",
                function=PREFIX,
                reasons=(R.QUOTE_MALFORMED,),
                rows=("outer cert type 5 in v4",),
            ),
            Clause(
                text="QE authentication data of any length up to 64 KiB",
                function=PREFIX,
                rows=("empty qe auth data", "qe auth data 64 bytes"),
            ),
            Clause(
                text="the certification data is of type 1 to 5",
                function="verify.dcap.parse_pck_chain",
                reasons=(R.CERTIFICATION_DATA_UNSUPPORTED,),
                rows=("inner cert type 7",),
                tests=("test_one_fault_of_chain_or_crl_is_named",),
            ),
            Clause(
                text="types 1 to 4 need the PCK certificate chain of the collateral",
                function="verify.dcap.parse_pck_chain",
                reasons=(R.PCK_CERTIFICATE_MISSING,),
                rows=("inner cert type 4 (leaf only, col chain)",),
                tests=("test_without_a_chain_anywhere_there_is_nothing_to_believe",),
            ),
            Clause(
                text="a PPID stands there with CPUSVN, PCESVN and PCE-ID, 36, 276 or 404 bytes",
                function="evidence.ppid.PPIDCertification.parse",
                reasons=(R.QUOTE_MALFORMED, R.CERTIFICATION_DATA_UNSUPPORTED),
                tests=("test_a_name_of_another_length_is_none", "test_other_certification_data_names_no_platform"),
            ),
        ),
    ),
    Chapter(
        "1.4 Certificates and CRLs",
        (
            Clause(
                text="a chain is PEM, and a NUL may end it",
                function="collateral.x509.parse_pem_chain",
                reasons=(R.CERTIFICATE_MALFORMED,),
                rows=("cert data trailing NUL",),
                tests=("test_one_fault_of_chain_or_crl_is_named",),
            ),
            Clause(
                text="a certificate is of version 3, on P-256, with ecdsa-with-SHA256, in one legal spelling",
                function="collateral.x509.Certificate.parse",
                reasons=(R.CERTIFICATE_MALFORMED, R.DER_MALFORMED),
                tests=("test_a_signature_is_of_whole_bytes", "test_no_bit_of_a_collateral_can_be_changed"),
            ),
            Clause(
                text="the SGX extension has its fields, 16 components among them, equal to CPUSVN",
                function="collateral.intel.PCKCertificate.from_certificate",
                reasons=(R.SGX_EXTENSION_MALFORMED, R.CERTIFICATE_MALFORMED),
                tests=("test_verification_names_the_one_link_that_is_broken", "test_deep_nesting_costs_nothing"),
            ),
            Clause(
                text="a CRL has a number, an authority key identifier and a next update",
                function="collateral.x509.CRL.parse",
                reasons=(R.CRL_MALFORMED,),
                tests=("test_verification_names_the_one_link_that_is_broken", "test_a_missing_crl_is_no_permission"),
            ),
        ),
    ),
    Chapter(
        "1.5 Collateral",
        (
            Clause(
                text="every member of a collateral is there",
                function="collateral.bundle.Collateral.from_json",
                reasons=(R.COLLATERAL_MALFORMED,),
                tests=("test_nothing_has_to_be_asked_for_to_be_verified",),
            ),
            Clause(
                text="TCB Info is of version 2 (SGX only) or 3, tcbType 0, with 16 components a level",
                function="collateral.intel.TCBInfo.parse",
                reasons=(R.TCB_INFO_MALFORMED,),
                rows=(
                    "tcbType 1",
                    "tcb id QVE",
                    "15 components",
                    "17 components",
                    "platform Bogus",
                    "tcb info v4",
                    "tcb info v2 id for tdx",
                ),
            ),
            Clause(
                text="an enclave identity is of version 2; an enclave is UpToDate, OutOfDate or Revoked",
                function="collateral.intel.QEIdentity.parse",
                reasons=(R.QE_IDENTITY_MALFORMED,),
                rows=(
                    "qe identity v1",
                    "qe identity v3",
                    "qe identity v3 tdx",
                    "QE level ConfigurationNeeded",
                    "QE level SWHardeningNeeded",
                    "QE level OutOfDateConfigurationNeeded",
                ),
            ),
            Clause(
                text="no member stands twice, nothing follows, nothing is nested more than 32 deep",
                function="collateral.intel.TCBInfo.parse",
                reasons=(R.TCB_INFO_MALFORMED,),
                tests=(
                    "test_a_member_that_stands_twice_is_refused_even_if_it_is_signed",
                    "test_text_behind_a_document_is_refused_even_if_it_is_signed",
                    "test_hostile_text_is_refused_in_no_time",
                ),
            ),
            Clause(
                text="a served document is the member, its signature, and no more",
                function="collateral.intel.split_signed_document",
                reasons=(R.TCB_INFO_MALFORMED, R.QE_IDENTITY_MALFORMED),
                tests=("test_hostile_text_is_refused_in_no_time",),
            ),
        ),
    ),
    Chapter(
        "2.0 to 2.3 What verification starts from",
        (
            Clause(
                text="0. the time has a zone, and a grace period is not negative",
                function="verify.dcap.verify_quote",
                reasons=(R.USAGE,),
                tests=("test_a_time_without_a_zone_is_misuse", "test_a_negative_grace_is_misuse"),
            ),
            Clause(
                text="1. a PCK chain has three certificates, in whatever order",
                function="verify.dcap.parse_pck_chain",
                reasons=(R.CERTIFICATE_CHAIN,),
                tests=(
                    "test_one_fault_of_chain_or_crl_is_named",
                    "test_a_chain_from_collateral_is_verified_as_strictly",
                    "test_a_pck_chain_may_come_in_any_order",
                ),
            ),
            Clause(
                text="2. its root is a trust anchor, by fingerprint",
                function="verify.chain.pin_root",
                reasons=(R.ROOT_UNTRUSTED,),
                rows=("untrusted root (same name)",),
                tests=("test_the_root_of_a_quote_is_pinned",),
            ),
            Clause(
                text="2. a trust anchor is a root certificate, and there is one",
                function="verify.chain.TrustAnchors.from_pem",
                reasons=(R.TRUST_ANCHOR_INVALID,),
                tests=("test_an_anchor_is_a_root", "test_anchors_are_fingerprints_and_not_none"),
            ),
            Clause(
                text="2. every chain ends in the very same root",
                function="verify.dcap.verify_revocation_lists",
                reasons=(R.ROOT_UNTRUSTED,),
                tests=("test_no_part_of_a_collateral_is_of_another_trusted_root",),
            ),
            Clause(
                text="3. the earliest expiry of all documents is told, and each of them",
                function="verify.dcap.establish_facts",
                tests=("test_every_document_stands_with_its_end",),
            ),
        ),
    ),
    Chapter(
        "2.4 The PCK certificate chain and the CRLs",
        (
            Clause(
                text="roles: common names, CA flags, key usage, path lengths, the SGX extension",
                function="verify.chain.verify_role",
                reasons=(R.CERTIFICATE_ROLE,),
                rows=("pck CN other", "root CN other", "tcb signer CN other"),
                tests=("test_one_fault_of_chain_or_crl_is_named",),
            ),
            Clause(
                text="the root signed itself",
                function="verify.chain.verify_root",
                reasons=(R.CERTIFICATE_SIGNATURE,),
                tests=("test_one_fault_of_chain_or_crl_is_named",),
            ),
            Clause(
                text="issuance by name, by key identifier and by signature",
                function="verify.chain.verify_issued",
                reasons=(R.CERTIFICATE_CHAIN, R.CERTIFICATE_SIGNATURE),
                rows=("intermediate not signed by root",),
                tests=("test_a_signature_is_checked_whatever_the_key_identifier_says",),
            ),
            Clause(
                text="each CRL is by its issuer: name, key identifier, signature",
                function="verify.chain.verify_crl",
                reasons=(R.CRL_ISSUER, R.CRL_SIGNATURE),
                rows=("pck crl signed by other", "root crl signed by other"),
                tests=("test_one_fault_of_chain_or_crl_is_named",),
            ),
            Clause(
                text="the PCK CRL is by the CA that issued the PCK certificate",
                function="verify.dcap.verify_pck_ca",
                reasons=(R.CRL_ISSUER,),
                tests=("test_the_crl_of_the_other_pck_ca_does_not_speak_for_this_one",),
            ),
            Clause(
                text="nothing is revoked: PCK certificate, PCK CA, signers, the root itself",
                function="verify.chain.verify_not_revoked",
                reasons=(R.CERTIFICATE_REVOKED,),
                rows=(
                    "pck revoked",
                    "intermediate revoked in root crl",
                    "tcb signer revoked",
                    "root revoked in own crl",
                ),
            ),
            Clause(
                text="everything is valid now, both ends included; certificates and CRLs",
                function="verify.chain.verify_dates",
                rows=(
                    "pck crl expired",
                    "root crl expired",
                    "pck crl in future",
                    "root crl in future",
                    "pck not yet valid",
                    "pck expired",
                    "ca expired",
                    "signer expired",
                    "signer not yet valid",
                ),
            ),
            Clause(
                text="the reasons of a certificate's dates",
                function="verify.chain.certificate_window",
                reasons=(R.CERTIFICATE_EXPIRED, R.CERTIFICATE_NOT_YET_VALID),
                rows=("pck expired", "pck not yet valid"),
            ),
            Clause(
                text="the reasons of a CRL's dates",
                function="verify.chain.crl_window",
                reasons=(R.CRL_EXPIRED, R.CRL_NOT_YET_VALID),
                rows=("pck crl expired", "pck crl in future"),
            ),
            Clause(
                text="grace is for nextUpdate only, has to be asked for, and shows",
                function="verify.chain.verify_dates",
                tests=("test_grace_is_explicit_and_shows", "test_no_certificate_has_grace"),
            ),
        ),
    ),
    Chapter(
        "2.5 and 2.6 TCB Info and QE identity",
        (
            Clause(
                text="an issuer chain has two certificates, signer and root",
                function="verify.dcap.verify_tcb_info",
                reasons=(R.CERTIFICATE_CHAIN,),
                rows=("TCB Info signed by the PCK leaf key", "QE identity signed by the PCK leaf key", "both"),
                tests=("test_one_fault_of_a_document_is_named",),
            ),
            Clause(
                text="TCB Info's signature covers the bytes as served",
                function="verify.dcap.verify_tcb_info",
                reasons=(R.TCB_INFO_SIGNATURE,),
                rows=("tcb info signed by other", "tcb info body altered", "tcb info body whitespace added"),
            ),
            Clause(
                text="TCB Info is issued, and not past its next update",
                function="verify.dcap.verify_tcb_info",
                reasons=(R.TCB_INFO_EXPIRED, R.TCB_INFO_NOT_YET_VALID),
                rows=("tcb info expired", "tcb info not yet issued", "now == tcb nextUpdate"),
            ),
            Clause(
                text="the QE identity's signature covers the bytes as served",
                function="verify.dcap.verify_qe_identity",
                reasons=(R.QE_IDENTITY_SIGNATURE,),
                rows=("qe identity signed by other",),
            ),
            Clause(
                text="the QE identity is issued, and not past its next update",
                function="verify.dcap.verify_qe_identity",
                reasons=(R.QE_IDENTITY_EXPIRED, R.QE_IDENTITY_NOT_YET_VALID),
                rows=("qe identity expired", "qe identity not yet issued"),
            ),
            Clause(
                text="evaluation numbers may differ, and both are told",
                function="verify.dcap.establish_facts",
                rows=("eval numbers differ (ti 17, qe 5)",),
                tests=("test_different_evaluation_numbers_are_facts",),
            ),
        ),
    ),
    Chapter(
        "2.7 The quote itself",
        (
            Clause(
                text="e, f, g. TCB Info is for this kind of TEE, FMSPC and PCE-ID",
                function="verify.dcap.verify_tcb_info_fits",
                reasons=(R.TCB_INFO_MISMATCH,),
                rows=(
                    "tcb id TDX for SGX quote",
                    "tcb info SGX for TDX quote",
                    "fmspc mismatch",
                    "pceid mismatch",
                ),
            ),
            Clause(
                text="h. the certification data is, or names, this PCK certificate",
                function="verify.dcap.verify_certification_data",
                reasons=(R.PCK_CERTIFICATE_MISMATCH,),
                tests=(
                    "test_a_pck_certificate_of_another_tcb_is_refused",
                    "test_a_pck_certificate_of_another_machine_is_refused",
                    "test_certification_data_is_what_its_type_says",
                ),
            ),
            Clause(
                text="i. the TDX module is known, Intel's, and has no attributes",
                function="verify.dcap.verify_tdx_module",
                reasons=(R.TDX_MODULE_MISMATCH,),
                rows=(
                    "seam attr nonzero",
                    "mrsignerseam nonzero",
                    "tdx module id missing",
                    "tdx module identities absent",
                ),
            ),
            Clause(
                text="j. the PCK signed the report of the quoting enclave",
                function="verify.dcap.verify_qe_report",
                reasons=(R.QE_REPORT_SIGNATURE,),
                rows=("QE report signed by other key",),
            ),
            Clause(
                text="k. that report binds the attestation key, in all of its 64 bytes",
                function="verify.dcap.verify_attestation_key",
                reasons=(R.QE_REPORT_BINDING,),
                rows=("att key not bound", "QE rd tail nonzero"),
            ),
            Clause(
                text="l, m. the quoting enclave is the one of the identity",
                function="verify.dcap.verify_qe",
                reasons=(R.QE_IDENTITY_MISMATCH,),
                rows=(
                    "qe identity TD_QE for SGX",
                    "qe identity QE for TDX",
                    "qe identity QVE",
                    "qe mrsigner wrong",
                    "qe prodid wrong",
                    "qe misc set",
                    "qe debug attr",
                ),
            ),
            Clause(
                text="n. the attestation key is a point on the curve",
                function="verify.dcap.parse_attestation_key",
                reasons=(R.QUOTE_MALFORMED,),
                tests=("test_an_attestation_key_off_the_curve_is_refused",),
            ),
            Clause(
                text="n. the attestation key signed header and body",
                function="verify.dcap.verify_quote_signature",
                reasons=(R.QUOTE_SIGNATURE,),
                rows=("quote signed by other key",),
                tests=("test_r_and_s_are_never_zero_or_beyond_the_order",),
            ),
        ),
    ),
    Chapter(
        "3 TCB levels and convergence",
        (
            Clause(
                text="the highest level that is reached in every component and the PCE counts, in whatever order",
                function="verify.tcb.match_platform_level",
                reasons=(R.TCB_NOT_SUPPORTED,),
                rows=("platform below all", "pcesvn below", "one component lower", "levels ascending"),
            ),
            Clause(
                text="components of TDX count from the third where the module has a major version",
                function="verify.tcb.match_platform_level",
                rows=("tdx: comps[0]=9 > svn, module 1 (skip 0,1)", "tdx: module 0, comps[0]=9"),
                tests=("test_components_of_a_versioned_module_are_compared_from_the_third",),
            ),
            Clause(
                text="the module's identity is that of its major version",
                function="verify.tcb.select_tdx_module",
                reasons=(R.TDX_MODULE_MISMATCH,),
                rows=("tdx module id missing",),
                tests=("test_a_module_is_selected_by_its_major_version",),
            ),
            Clause(
                text="the highest level of quoting enclave and module that is reached counts",
                function="verify.tcb.match_svn_level",
                reasons=(R.TCB_NOT_SUPPORTED,),
                rows=(
                    "QE svn below all",
                    "tdx module svn 0 below",
                    "tdx module svn 1 -> OutOfDate",
                    "tdx module SWHardeningNeeded",
                ),
            ),
            Clause(
                text="Revoked is an error, whichever of them is",
                function="verify.tcb.converge",
                reasons=(R.TCB_REVOKED,),
                rows=(
                    "platform Revoked",
                    "platform Revoked + QE OutOfDate",
                    "QE level Revoked",
                    "tdx module Revoked",
                ),
            ),
            Clause(
                text="Intel's table of convergence",
                function="verify.tcb.converge",
                rows=(
                    "platform UpToDate",
                    "platform UpToDate + QE OutOfDate",
                    "platform SWHardeningNeeded",
                    "platform SWHardeningNeeded + QE OutOfDate",
                    "platform ConfigurationNeeded",
                    "platform ConfigurationNeeded + QE OutOfDate",
                    "platform ConfigurationAndSWHardeningNeeded",
                    "platform ConfigurationAndSWHardeningNeeded + QE OutOfDate",
                    "platform OutOfDate",
                    "platform OutOfDate + QE OutOfDate",
                    "platform OutOfDateConfigurationNeeded",
                    "platform OutOfDateConfigurationNeeded + QE OutOfDate",
                ),
            ),
            Clause(
                text="the date is the oldest, the advisories are all",
                function="verify.tcb.evaluate_tcb",
                tests=("test_date_is_the_oldest_and_advisories_are_all",),
            ),
            Clause(
                text="TD 1.5: launch and present are evaluated, and both must be supported",
                function="verify.dcap.evaluate_quote",
                rows=("tdx15 svn2 below", "tdx15 svn2 zeros (module 0)", "tdx15 svn new, svn2 old"),
            ),
            Clause(
                text="relaunch is advised where an old launch was followed by an update",
                function="verify.tcb.compare_with_launch",
                rows=(
                    "tdx15 svn old, svn2 new -> relaunch",
                    "tdx15 svn old, svn2 new, cfg needed",
                    "tdx15 relaunch + QE OutOfDate",
                ),
                tests=("test_both_sets_of_advisories_are_told_and_the_oldest_date",),
            ),
        ),
    ),
    Chapter(
        "2.9 and 5 What is told, and left to appraisal",
        (
            Clause(
                text="debug is a fact, which the default policy refuses",
                function="appraise.appraisal.appraise",
                reasons=(R.DEBUG_ENCLAVE,),
                rows=("sgx app debug", "td debug"),
            ),
            Clause(
                text="attributes and service domains of a trust domain are facts, for policy to judge",
                function="evidence.tdx.TDReport.parse",
                rows=("td no SEPT_VE_DISABLE", "td PKS bit30", "td migratable bit29", "mrservicetd nonzero"),
                tests=("test_each_attribute_of_a_domain_is_one_bit",),
            ),
            Clause(
                text="what is short of a better status is told, component by component",
                function="verify.tcb.evaluate_tcb",
                tests=("test_each_component_that_is_short_is_named_with_its_kind",),
            ),
        ),
    ),
)


def clauses() -> Iterator[Clause]:
    for chapter in CHAPTERS:
        yield from chapter.clauses


# --- the code behind a clause


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one module defines, by name; methods stand under their own name and under that of their class with it.

    A class stands for its `__init__`: who names it makes one.
    """

    definitions: dict[str, list[ast.AST]]
    imported: dict[str, str]
    """Name -> module, of those that come from eaa; a module that is imported itself is its own."""


@functools.cache
def source_of(module: str) -> Source:
    path = ROOT / "src" / "eaa" / Path(*module.split("."))
    path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions: dict[str, list[ast.AST]] = {}
    imported: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions.setdefault(name, []).append(node)
            case ast.ClassDef(name=name):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        definitions.setdefault(member.name, []).append(member)
                        definitions.setdefault(f"{name}.{member.name}", []).append(member)
                        if member.name == "__init__":
                            definitions.setdefault(name, []).append(member)
            case ast.ImportFrom(module=str(origin), names=names) if origin.startswith("eaa"):
                inside = origin.removeprefix("eaa").removeprefix(".")
                imported |= {alias.name: inside or alias.name for alias in names}
    return Source(definitions=definitions, imported=imported)


def defined(function: str) -> tuple[str, list[ast.AST]]:
    """The module of a clause's function, and its definition; none where it does not exist."""
    parts = function.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = ROOT / "src" / "eaa" / Path(*parts[:count])
        if path.with_suffix(".py").is_file():
            module = ".".join(parts[:count])
            return module, source_of(module).definitions.get(".".join(parts[count:]), [])
    return "", []


@functools.cache
def reasons_of(function: str) -> frozenset[str]:
    """Every reason that is named by the function, or by what it calls inside of eaa."""
    module, nodes = defined(function)
    waiting = [(module, node) for node in nodes]
    seen: set[int] = set()
    found: set[str] = set()
    while waiting:
        module, definition = waiting.pop()
        if id(definition) in seen:
            continue
        seen.add(id(definition))
        for node in ast.walk(definition):
            match node:
                case ast.Attribute(value=ast.Name(id="Reason"), attr=name):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id=alias), attr=name) if (
                    source_of(module).imported.get(alias) == alias
                ):
                    waiting += _definitions(alias, name)
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    waiting += _definitions(module, name)
    return frozenset(found)


def _definitions(module: str, name: str) -> list[tuple[str, ast.AST]]:
    """What a name can mean in a module: its own definitions, or those of the module that it is imported from."""
    source = source_of(module)
    own = [(module, node) for node in source.definitions.get(name, [])]
    origin = source.imported.get(name)
    if own or origin is None or origin == name:
        return own
    return [(origin, node) for node in source_of(origin).definitions.get(name, [])]


# --- the page


def render() -> str:
    """The page, from the table."""
    lines = [
        "# From clause to test",
        "",
        "What DCAP verification has to do, where this project does it, with which reason it refuses, and which test",
        "holds it. Written by `make docs` from `tests/support/spec_coverage.py`; a test compares the two, and the",
        "table with the code. What stands in quotes is a world of the oracle matrix, a row of",
        "[`tests/conformance/test_matrix.py`](../tests/conformance/test_matrix.py).",
        "",
    ]
    for chapter in CHAPTERS:
        lines += [f"## {chapter.title}", "", "| clause | function | reason | held by |", "|---|---|---|---|"]
        lines += [_line(clause) for clause in chapter.clauses]
        lines.append("")
    return "\n".join(lines)


def _line(clause: Clause) -> str:
    reasons = ", ".join(f"`{reason.value}`" for reason in clause.reasons) or "-"
    held = [f'"{text}"' for text in clause.rows] + [f"`{name}`" for name in clause.tests]
    return f"| {clause.text} | `eaa.{clause.function}` | {reasons} | {', '.join(held)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
