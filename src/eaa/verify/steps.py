"""Verification told step by step, for people: what was asked for, what was there, and what was never come to.

It walks the way of `verify_quote` once more, and answers nothing by itself: the facts, or the error, are those of
`verify_quote`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import PCKCertificate, QEIdentity, TCBInfo
from eaa.errors import EAAError, MalformedInput, Reason, Unavailable, VerificationError
from eaa.evidence.quote import CertificationDataType, Quote
from eaa.evidence.tdx import TDReport
from eaa.verify import dcap
from eaa.verify.chain import TrustAnchors, Window, pin_root, verify_dates

_NO_GRACE: Final = timedelta(0)
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of verification."""

    name: str
    """Stable, snake_case."""
    clause: str
    """Which step of `verify_quote` it is."""
    expected: str
    actual: str
    """What was there, or what is wrong with it."""
    passed: bool
    """False too where it was not reached: nothing is known of it then."""
    reason: Reason | None = None
    """Of the one step that failed."""
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class _Clause:
    step: str
    expected: str
    remedy: str


_OTHER_COLLATERAL: Final = "fetch collateral anew, from a PCCS that you trust to be up to date"
_AS_MADE: Final = "take the quote as it was made"
_FOREIGN: Final = "trust nothing that this quote says: it was changed, or no genuine platform made it"
_CLAUSES: Final = {
    "quote": _Clause("1", "a quote of version 3, 4 or 5, with nothing left over in it", _AS_MADE),
    "collateral": _Clause(
        "1", "the documents that verify quotes of this platform", "name a PCCS or file that has them"
    ),
    "pck_chain": _Clause("1", "PCK certificate, PCK CA and root, of the quote or else of the collateral", _AS_MADE),
    "trust_anchor": _Clause("2", "a root that is a trust anchor here", _FOREIGN),
    "revocation_lists": _Clause(
        "3", "CRLs of the same root and of a PCK CA, signed by them, neither of them revoked", _OTHER_COLLATERAL
    ),
    "pck_certificate": _Clause(
        "4", "a PCK certificate that the PCK CA of that CRL issued under that root, and did not revoke", _FOREIGN
    ),
    "pck_dates": _Clause("4", "certificates and CRLs that are valid at the time", _OTHER_COLLATERAL),
    "tcb_info": _Clause("5", "TCB Info signed, byte for byte, by a TCB signing certificate", _OTHER_COLLATERAL),
    "tcb_info_dates": _Clause("5", "TCB Info and its signer that are valid at the time", _OTHER_COLLATERAL),
    "qe_identity": _Clause("6", "a QE identity signed, byte for byte, by a TCB signing certificate", _OTHER_COLLATERAL),
    "qe_identity_dates": _Clause("6", "a QE identity and its signer that are valid at the time", _OTHER_COLLATERAL),
    "tcb_info_fits": _Clause("7 e, f, g", "TCB Info for this TEE, FMSPC and PCE-ID", _OTHER_COLLATERAL),
    "certification_data": _Clause("7 h", "certification data that is of this PCK certificate", _OTHER_COLLATERAL),
    "tdx_module": _Clause(
        "7 i", "a domain's TDX module as TCB Info knows it, with its signer and attributes", _OTHER_COLLATERAL
    ),
    "qe_report": _Clause("7 j", "a report of the quoting enclave that the PCK signed", _FOREIGN),
    "attestation_key": _Clause("7 k", "that report vouches for the attestation key, and for nothing else", _FOREIGN),
    "quoting_enclave": _Clause("7 l, m", "the quoting enclave that the QE identity describes", _FOREIGN),
    "quote_signature": _Clause("7 n", "header and body signed by the attestation key", _FOREIGN),
    "tcb_level": _Clause("7 o", "a TCB level that is reached, and not revoked", "update the platform's firmware"),
}
"""Every step, in the order of `verify_quote`."""


def explain_verification(
    quote: Quote,
    collateral: Collateral,
    *,
    trust_anchors: TrustAnchors,
    now: datetime,
    grace: timedelta = _NO_GRACE,
) -> tuple[Step, ...]:
    """Return every step of `verify_quote` with these arguments; behind the one that failed none was reached."""
    walk = _Walk()
    with contextlib.suppress(MalformedInput, VerificationError):
        _walk(walk, quote, collateral, trust_anchors=trust_anchors, now=now, grace=grace)
    return walk.told()


def explain_failure(error: EAAError, *, quote: Quote | None = None) -> tuple[Step, ...]:
    """Return every step where verification did not begin: the quote is none, or there is no collateral for it."""
    walk = _Walk()
    if quote is None:
        walk.fail("quote", error)
    else:
        walk.take("quote", lambda: quote, _kind)
        # What is no PCK chain is found out while collateral is looked for, which is looked for by what it says.
        walk.fail("collateral" if isinstance(error, Unavailable) else "pck_chain", error)
    return walk.told()


@dataclass(slots=True)
class _Walk:
    steps: list[Step] = field(default_factory=list)

    def take(self, name: str, do: Callable[[], _Found], tell: Callable[[_Found], str]) -> _Found:
        """Take one step, and note how it went. Raises what it raises."""
        try:
            found = do()
        except (MalformedInput, VerificationError) as error:
            self.fail(name, error)
            raise
        self._note(name, tell(found), passed=True)
        return found

    def fail(self, name: str, error: EAAError) -> None:
        self._note(name, error.message, reason=error.reason, hint=error.hint or _CLAUSES[name].remedy)

    def told(self) -> tuple[Step, ...]:
        """Return the steps that were taken, and behind one that failed those that were not reached."""
        *_, last = self.steps
        names = list(_CLAUSES)
        for name in () if last.passed else names[names.index(last.name) + 1 :]:
            self._note(name, "not reached")
        return tuple(self.steps)

    def _note(
        self, name: str, actual: str, *, passed: bool = False, reason: Reason | None = None, hint: str | None = None
    ) -> None:
        clause = _CLAUSES[name]
        step = f"DCAP verification, step {clause.step}"
        self.steps.append(
            Step(
                name=name, clause=step, expected=clause.expected, actual=actual, passed=passed, reason=reason, hint=hint
            )
        )


def _walk(
    walk: _Walk,
    quote: Quote,
    collateral: Collateral,
    *,
    trust_anchors: TrustAnchors,
    now: datetime,
    grace: timedelta,
) -> None:
    def valid(windows: Sequence[Window]) -> Sequence[Window]:
        verify_dates(windows, now=now, grace=grace)
        return windows

    walk.take("quote", lambda: quote, _kind)
    walk.take("collateral", lambda: collateral, lambda collateral: f"SHA-256 {collateral.digest.hex()}")
    chain = walk.take(
        "pck_chain",
        lambda: dcap.parse_pck_chain(quote, pck_certificate_chain=collateral.pck_certificate_chain),
        lambda chain: (
            f"{chain.pck.common_name}, {chain.ca.common_name}, {chain.root.common_name}, of the {chain.origin}"
        ),
    )
    walk.take("trust_anchor", lambda: pin_root(chain.root, trust_anchors), lambda _: chain.root.fingerprint.hex())
    lists = walk.take(
        "revocation_lists",
        lambda: dcap.verify_revocation_lists(collateral, root=chain.root),
        lambda lists: (
            f"number {lists.root_crl.number} of {lists.root.common_name}, {lists.pck_crl.number} of "
            f"{lists.pck_ca.common_name}"
        ),
    )
    pck = walk.take(
        "pck_certificate",
        lambda: dcap.verify_pck_chain(chain, lists),
        lambda pck: f"FMSPC {pck.document.fmspc.hex()}, PCE SVN {pck.document.pce_svn}, {pck.document.ca} CA",
    )
    walk.take("pck_dates", lambda: valid((*lists.windows, *pck.windows)), _until)
    info = walk.take(
        "tcb_info",
        lambda: dcap.verify_tcb_info(collateral, lists),
        lambda info: (
            f"{info.document.id}, version {info.document.version}, "
            f"evaluation number {info.document.tcb_evaluation_data_number}"
        ),
    )
    walk.take("tcb_info_dates", lambda: valid(info.windows), _until)
    identity = walk.take(
        "qe_identity",
        lambda: dcap.verify_qe_identity(collateral, lists, tcb_info=info),
        lambda identity: (
            f"{identity.document.id}, version 2, evaluation number {identity.document.tcb_evaluation_data_number}"
        ),
    )
    walk.take("qe_identity_dates", lambda: valid(identity.windows), _until)
    _walk_through_evidence(walk, quote, pck.document, info.document, identity.document)


def _walk_through_evidence(walk: _Walk, quote: Quote, pck: PCKCertificate, info: TCBInfo, identity: QEIdentity) -> None:
    body = quote.body
    walk.take(
        "tcb_info_fits",
        lambda: dcap.verify_tcb_info_fits(quote.header.tee_type, pck, info),
        lambda _: f"{info.id}, {info.fmspc.hex()}, {info.pce_id.hex()}",
    )
    walk.take(
        "certification_data",
        lambda: dcap.verify_certification_data(quote, pck),
        lambda _: f"type {quote.certification_data_type}, {CertificationDataType(quote.certification_data_type).name}",
    )
    if isinstance(body, TDReport):
        walk.take(
            "tdx_module",
            lambda: dcap.verify_tdx_module(body, info),
            lambda _: f"major version {body.tee_tcb_svn[1]}, SVN {body.tee_tcb_svn[0]}",
        )
    walk.take("qe_report", lambda: dcap.verify_qe_report(quote, pck), lambda _: "signed")
    walk.take("attestation_key", lambda: dcap.verify_attestation_key(quote), lambda _: "vouched for")
    walk.take(
        "quoting_enclave",
        lambda: dcap.verify_qe(quote.qe_report, quote.header.tee_type, identity),
        lambda _: f"{identity.id}, SVN {quote.qe_report.isv_svn}",
    )
    walk.take(
        "quote_signature",
        lambda: dcap.verify_quote_signature(quote, dcap.parse_attestation_key(quote)),
        lambda _: "signed",
    )
    walk.take(
        "tcb_level",
        lambda: dcap.evaluate_quote(quote, pck, info, identity),
        lambda tcb: f"{tcb.tcb_status}, of {tcb.tcb_date:%Y-%m-%d}",
    )


def _kind(quote: Quote) -> str:
    return f"version {quote.header.version}, {quote.header.tee_type.name}, {quote.body_type.name}"


def _until(windows: Sequence[Window]) -> str:
    first = min(windows, key=lambda window: window.not_after)
    return f"until {first.not_after.astimezone(UTC):%Y-%m-%dT%H:%MZ} ({first.name})"
