"""What an outcome is called: agreement, or the rule by which the two judges differ. What no rule explains is `other`.

A rule that refuses states our reason to. A rule that accepts says why that is right, and holds for changes that nobody
signed only where the facts are the same as before the change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography import x509

from eaa.errors import Reason
from mutants.judges import Ours, Theirs, agree, meaning
from mutants.layout import ders_of
from mutants.subjects import Authority, Mutant, map_of

BOTH_ACCEPT: Final = "both accept, and establish the same facts"
BOTH_REFUSE: Final = "both refuse"
OTHER: Final = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One mutant before both judges."""

    mutant: Mutant
    ours: Ours
    theirs: Theirs

    @property
    def keeps_meaning(self) -> bool:
        """Whether our facts are what they were before the change."""
        return self.ours.facts is not None and meaning(self.ours.facts) == meaning(self.mutant.subject.facts)

    @property
    def collateral(self) -> dict[str, Any]:
        """The members of the collateral file, none where it cannot be read."""
        try:
            document = json.loads(self.mutant.exhibit.collateral)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def document(self, name: str) -> dict[str, Any]:
        """TCB Info or QE identity, empty where it cannot be read."""
        try:
            document = json.loads(self.collateral.get(name, ""))
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def chains(self) -> dict[str, list[bytes]]:
        """DER of the four chains; one that cannot be read is empty."""
        names = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
        found = {name: _ders(str(self.collateral.get(name, "")).encode("utf-8", "replace")) for name in names}
        return found | {"quote": _ders(self.mutant.exhibit.quote)}


def _ders(pem: bytes) -> list[bytes]:
    try:
        return ders_of(pem)
    except ValueError:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Why the judges differ, and are right to."""

    name: str
    statement: str
    reasons: frozenset[Reason] = frozenset()
    """Ours; empty for a rule by which we accept."""
    where: str = ""
    """What the field class has to match, from its beginning."""
    says: str = ""
    """What has to stand in our sentence, or in theirs where we accept."""
    holds: Callable[[Outcome], bool] = lambda _: True
    """What has to be true of the bytes that were shown."""

    def explains(self, outcome: Outcome) -> bool:
        """Whether this rule is why the judges differ."""
        said = outcome.theirs.message if outcome.ours.accepts else outcome.ours.message
        return (
            (outcome.ours.reason in self.reasons if self.reasons else outcome.ours.accepts)
            and re.match(self.where, outcome.mutant.field_class) is not None
            and re.search(self.says, said) is not None
            and self.holds(outcome)
        )


def classify(outcome: Outcome) -> str:
    """Return the name of what happened."""
    ours, theirs, authority = outcome.ours, outcome.theirs, outcome.mutant.authority
    if not ours.accepts and not theirs.accepts:
        return BOTH_REFUSE
    if ours.facts is not None:
        # Nobody's signature covers the change, or one that must not: then nothing may have changed.
        if authority is Authority.IMPOSTOR or (authority is Authority.NOBODY and not outcome.keeps_meaning):
            return OTHER
        if theirs.report is not None and agree(ours.facts, theirs.report):
            return BOTH_ACCEPT
    return next((rule.name for rule in RULES if rule.explains(outcome)), OTHER)


# --- what is looked up in the bytes


def _ends_elsewhere(outcome: Outcome) -> bool:
    """Whether a chain that can be read ends in another certificate than the pinned one."""
    root = outcome.mutant.exhibit.root
    return any(chain[-1] != root for chain in outcome.chains().values() if chain)


def _only_crl_chain_differs(outcome: Outcome) -> bool:
    """Whether the chain of the PCK CRL is all that was changed."""
    before, after = outcome.mutant.subject.collateral, outcome.collateral
    same = [
        getattr(before, name).decode() == after.get(name)
        for name in ("tcb_info", "qe_identity", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
    ]
    quote = outcome.mutant.exhibit.quote == outcome.mutant.subject.quote
    return quote and all(same) and before.pck_crl_issuer_chain.decode() != after.get("pck_crl_issuer_chain")


def _has_another_length(outcome: Outcome) -> bool:
    return any(len(chain) != (3 if name == "quote" else 2) for name, chain in outcome.chains().items())


def _concerns_root(outcome: Outcome) -> bool:
    return outcome.mutant.what.startswith("root:")


def _has_crl_of_the_future(outcome: Outcome) -> bool:
    crls = [bytes.fromhex(outcome.collateral[name]) for name in ("root_ca_crl", "pck_crl")]
    return any(x509.load_der_x509_crl(crl).last_update_utc > outcome.mutant.exhibit.now for crl in crls)


def _has_crl_of_this_second(outcome: Outcome) -> bool:
    crls = [bytes.fromhex(outcome.collateral[name]) for name in ("root_ca_crl", "pck_crl")]
    return any(x509.load_der_x509_crl(crl).next_update_utc == outcome.mutant.exhibit.now for crl in crls)


def _has_outer_type(outcome: Outcome) -> bool:
    quote, fields = outcome.mutant.exhibit.quote, map_of(outcome.mutant.subject.quote)
    if "outer.type" not in fields.names:
        return False
    span = fields["outer.type"]
    return quote[span.start : span.end] != b"\x06\0"


def _has_report_data_tail(outcome: Outcome) -> bool:
    span = map_of(outcome.mutant.exhibit.quote)["qe_report.report_data"]
    return any(outcome.mutant.exhibit.quote[span.start + 32 : span.end])


def _expects_more_than_its_mask(outcome: Outcome) -> bool:
    identity = outcome.document("qe_identity")
    return any(int(identity[name], 16) & ~int(identity[f"{name}Mask"], 16) for name in ("miscselect", "attributes"))


def _is_of_another_edition(outcome: Outcome) -> bool:
    info, identity = outcome.document("tcb_info"), outcome.document("qe_identity")
    return (info.get("tcbType"), info.get("version"), identity.get("version")) != (0, 3, 2)


def _differs_in_advisories_of_now(outcome: Outcome) -> bool:
    """Whether the judges would agree, if ours told of the launch only, as the other one does."""
    ours, theirs = outcome.ours.facts, outcome.theirs.report
    if ours is None or theirs is None:
        return False
    return agree(replace(ours, advisory_ids=ours.launch_advisory_ids), theirs)


def _levels_out_of_order(outcome: Outcome) -> bool:
    """Whether a list of levels of an enclave or module does not descend."""
    identities = outcome.document("tcb_info").get("tdxModuleIdentities", [])
    for document in (outcome.document("qe_identity"), *identities):
        svns = [level["tcb"]["isvsvn"] for level in document.get("tcbLevels", [])]
        if svns != sorted(svns, reverse=True):
            return True
    return False


# --- the rules

_CERTIFICATE: Final = frozenset(
    {
        Reason.CERTIFICATE_MALFORMED,
        Reason.DER_MALFORMED,
        Reason.CERTIFICATE_ROLE,
        Reason.CERTIFICATE_CHAIN,
        Reason.CERTIFICATE_SIGNATURE,
        Reason.CERTIFICATE_REVOKED,
        Reason.CERTIFICATE_EXPIRED,
        Reason.CERTIFICATE_NOT_YET_VALID,
        Reason.CRL_ISSUER,
        Reason.CRL_SIGNATURE,
    }
)
_DOCUMENT: Final = frozenset({Reason.TCB_INFO_MALFORMED, Reason.QE_IDENTITY_MALFORMED})
_SIGNED_DOCUMENT: Final = r"signed\.(tcb_info|qe_identity)\."

REFUSALS: Final = (
    Rule(
        name="root of another chain",
        statement="every chain ends in the very certificate that is pinned; the other judge never looks at that one",
        reasons=_CERTIFICATE | {Reason.ROOT_UNTRUSTED},
        holds=_ends_elsewhere,
    ),
    Rule(
        name="root in its role",
        statement="the root needs its name, constraints, dates and signature; the other judge takes it as given",
        reasons=_CERTIFICATE,
        where=r"signed\.certificate\.",
        holds=_concerns_root,
    ),
    Rule(
        name="issuer chain of the PCK CRL",
        statement="the PCK CRL is verified with the chain that comes with it; the other judge never reads that chain",
        reasons=_CERTIFICATE,
        holds=_only_crl_chain_differs,
    ),
    Rule(
        name="length of a chain",
        statement="a PCK chain has three certificates and an issuer chain two, so that no other chain fits",
        reasons=frozenset({Reason.CERTIFICATE_CHAIN, Reason.CERTIFICATE_ROLE}),
        holds=_has_another_length,
    ),
    Rule(
        name="role of a certificate",
        statement="name, constraints, usage and SGX extension say what a certificate may sign: a PCK signs no document",
        reasons=frozenset({Reason.CERTIFICATE_ROLE}),
        where=r"signed\.(certificate|chain|(tcb_info|qe_identity)\.signer)",
    ),
    Rule(
        name="key identifier",
        statement="a certificate or CRL names the key of its issuer, as the profile demands",
        reasons=frozenset({Reason.CERTIFICATE_CHAIN, Reason.CRL_ISSUER}),
        where=r"signed\.(certificate\.(authority|subject)_key_id|crl\.member)",
    ),
    Rule(
        name="usage of a key",
        statement="keyUsage names at least one usage (RFC 5280, 4.2.1.3); the other judge takes none for any",
        reasons=frozenset({Reason.CERTIFICATE_MALFORMED}),
        where=r"signed\.certificate\.usage",
        says="keyUsage",
    ),
    Rule(
        name="one common name",
        statement="a name has one common name: of two, each reader could see another",
        reasons=frozenset({Reason.CERTIFICATE_MALFORMED}),
        where=r"signed\.certificate\.common_name",
        says="common names",
    ),
    Rule(
        name="text around a PEM",
        statement="a chain is PEM and nothing else: text between certificates is read by some and not by others",
        reasons=frozenset({Reason.CERTIFICATE_MALFORMED}),
        where=r"(quote\.pem\.spelling|\w+_chain\.pem)$",
        says="is not PEM|holds something else",
    ),
    Rule(
        name="form of a CRL",
        statement="a CRL has a number and a key identifier, as the profile demands",
        reasons=frozenset({Reason.CRL_MALFORMED}),
        where=r"signed\.crl\.member",
    ),
    Rule(
        name="CRL of the future",
        statement="a CRL is refused before its thisUpdate",
        reasons=frozenset({Reason.CRL_NOT_YET_VALID}),
        holds=_has_crl_of_the_future,
    ),
    Rule(
        name="bytes inside the authentication data",
        statement="the authentication data ends with its last field: what hides behind it was signed by nobody",
        reasons=frozenset({Reason.QUOTE_MALFORMED}),
        says="goes on after its last field",
    ),
    Rule(
        name="outer certification data",
        statement="from version 4 on, the outer certification data is of type 6",
        reasons=frozenset({Reason.QUOTE_MALFORMED}),
        says="outer certification data",
        holds=_has_outer_type,
    ),
    Rule(
        name="bytes behind the quote",
        statement="nothing but zero padding follows a quote",
        reasons=frozenset({Reason.QUOTE_TRAILING_BYTES}),
    ),
    Rule(
        name="size of a quote",
        statement="no attester returns more than 128 KiB",
        reasons=frozenset({Reason.QUOTE_MALFORMED}),
        where=r"quote\.appended",
        says="too many for a quote",
    ),
    Rule(
        name="PCE-ID",
        statement="TCB Info is for the PCE-ID of the PCK certificate; the other judge does not compare it",
        reasons=frozenset({Reason.TCB_INFO_MISMATCH}),
        says="is for PCE-ID",
    ),
    Rule(
        name="edition of a document",
        statement="tcbType 0, TCB Info 2 and 3, QE identity 2 are specified; what others mean nobody knows yet",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        holds=_is_of_another_edition,
    ),
    Rule(
        name="two levels of one TCB",
        statement="of two levels for one TCB, or two modules of one name, either could be meant",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="two (levels|identities)",
    ),
    Rule(
        name="sixteen components",
        statement="a level has 16 components: a comparison that stops at the shorter list accepts old firmware",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says=r"16 are specified|a list of at most 16|lacks svn, a whole number",
    ),
    Rule(
        name="status of a level",
        statement="a status that a level of this kind cannot have is no status",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="tcbStatus|a status that",
    ),
    Rule(
        name="form of a date",
        statement="dates are written YYYY-MM-DDTHH:MM:SSZ, and exist",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="is no date of the form",
    ),
    Rule(
        name="form of an advisory",
        statement="an advisory id is short and printable: it is shown to people",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="names an advisory|advisoryIDs",
    ),
    Rule(
        name="form of a component's kind",
        statement="what people are shown of a document is printable, and short",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="a kind that|lacks the text (category|type)",
    ),
    Rule(
        name="missing or odd member",
        statement="a specified member is there, with the type and size that it has by specification",
        reasons=_DOCUMENT,
        where=_SIGNED_DOCUMENT,
        says="lacks",
    ),
    Rule(
        name="depth of a document",
        statement="a document is nested at most 32 deep",
        reasons=_DOCUMENT,
        where=r"signed\.(tcb_info|qe_identity)\.deepened",
        says="nested more than",
    ),
    Rule(
        name="report data of the quoting enclave",
        statement="all 64 bytes are compared: behind the digest stand zeros",
        reasons=frozenset({Reason.QE_REPORT_BINDING}),
        holds=_has_report_data_tail,
    ),
    Rule(
        name="mask of the QE identity",
        statement="masked value and expected value are compared as they stand, as Intel does",
        reasons=frozenset({Reason.QE_IDENTITY_MISMATCH}),
        where=r"signed\.qe_identity\.",
        holds=_expects_more_than_its_mask,
    ),
    Rule(
        name="CPUSVN and components",
        statement="CPUSVN and the 16 components of a PCK certificate are equal: else it has two TCBs",
        reasons=frozenset({Reason.SGX_EXTENSION_MALFORMED}),
        where=r"signed\.sgx_extension\.(cpu_svn|component)",
        says="differ from its CPUSVN",
    ),
    Rule(
        name="form of the SGX extension",
        statement="every field once, in the type and size that it has by specification, and nothing else",
        reasons=frozenset({Reason.SGX_EXTENSION_MALFORMED, Reason.DER_MALFORMED}),
        where=r"signed\.sgx_extension\.",
    ),
    Rule(
        name="named platform",
        statement="what a quote says of its PCK certificate is true of the one that the collateral brings",
        reasons=frozenset({Reason.PCK_CERTIFICATE_MISMATCH}),
        where=r"signed\.quote\.certification",
    ),
)

ACCEPTANCES: Final = (
    Rule(
        name="last second of a CRL",
        statement="a CRL is good through the second of its nextUpdate, as every other document is, and as for Intel",
        says="CrlExpired",
        holds=_has_crl_of_this_second,
    ),
    Rule(
        name="PCK chain that is not asked for",
        statement="a quote's own chain speaks for it, and one in the collateral is left alone; the facts are the same",
        where=r"collateral_file\.pck_chain",
        holds=lambda outcome: outcome.keeps_meaning,
    ),
    Rule(
        name="order of a PCK chain",
        statement="its three certificates are found by their names in whatever order, as Intel does; the same facts",
        where=r"(splice\.chains_permuted|signed\.chain\.list)",
        holds=lambda outcome: outcome.keeps_meaning,
    ),
    Rule(
        name="line breaks of a PEM",
        statement="whitespace inside a PEM block says nothing; the facts are the same",
        where=r"(quote\.pem\.spelling|\w+_chain\.pem)$",
        holds=lambda outcome: outcome.keeps_meaning,
    ),
    Rule(
        name="what code may do is appraisal",
        statement="DEBUG and the other attributes of code, and service domains, are facts here; policy judges them",
        says=r"Debug mode|Reserved bits in TD attributes|TD (migration|profiling)|SEPT_VE_DISABLE|MR service TD",
        where=r"signed\.quote\.",
    ),
    Rule(
        name="length of the QE's authentication data",
        statement="any length up to 64 KiB is hashed, as Intel does",
        says="Invalid QE auth data length",
    ),
    Rule(
        name="PCE SVN of a certificate",
        statement="a PCE SVN is a number up to 65535, of any length that DER gives it",
        says="PceSvn length mismatch",
        where=r"signed\.sgx_extension\.pce_svn",
    ),
    Rule(
        name="SVN of a TDX module",
        statement="an ISVSVN is a number up to 65535; a module's own is one byte, and reaches no level beyond",
        says="expected u8",
        where=r"signed\.tcb_info\.module\.level\.isvsvn",
    ),
    Rule(
        name="order of levels",
        statement="the highest level that is reached counts, wherever it stands; the other judge takes the first",
        holds=_levels_out_of_order,
        where=r"signed\.",
    ),
    Rule(
        name="advisories of the module that runs now",
        statement="a domain is told the advisories of its launch and of now, apart; the other judge tells the first",
        where=r"signed\.quote\.",
        holds=_differs_in_advisories_of_now,
    ),
    Rule(
        name="SGX in versions 4 and 5",
        statement="an enclave may be quoted in any version, as Intel does",
        says="SGX TEE quote must have version 3",
        where=r"signed\.quote\.",
    ),
    Rule(
        name="TCB Info of version 2",
        statement="TCB Info of version 2 is still served, for SGX",
        says="Failed to decode TcbInfo",
        where=r"signed\.tcb_info\.as_version_2",
    ),
    Rule(
        name="platform named by its quote",
        statement="certification data of types 1 to 4 names the platform, and the collateral brings its chain",
        says="Unsupported DCAP PCK cert format",
        where=r"signed\.quote\.certification",
    ),
)

RULES: Final = (*REFUSALS, *ACCEPTANCES)
STATEMENTS: Final = {rule.name: rule.statement for rule in RULES}
