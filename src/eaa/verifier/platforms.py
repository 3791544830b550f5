"""Which platform a quote is of, by its own word, and whether a vendor has certified any such platform."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from eaa.collateral.intel import PCKCertificate, pck_certificate_of
from eaa.errors import Reason, VerificationError
from eaa.evidence.ppid import PPID_SIZES, PPIDCertification
from eaa.evidence.quote import CertificationDataType, Quote, TEEType
from eaa.sources import PCKName
from eaa.verify.chain import PCK, PCK_CA, TrustAnchors, pin_root, verify_issued, verify_role, verify_root
from eaa.verify.dcap import parse_pck_chain

WITHOUT_CHAIN: Final = frozenset({*PPID_SIZES, CertificationDataType.PCK_LEAF})
"""Kinds of certification data that name a platform without the chain of its PCK certificate."""
_RSA_3072: Final = CertificationDataType.PPID_RSA_3072


class Model(NamedTuple):
    """A platform model under one PCK CA: what decides which collateral is needed."""

    tee: int
    """The TEE type word of a quote header, 0 for SGX, 0x81 for TDX."""
    fmspc: bytes
    """6 bytes."""
    ca: str
    """`processor` or `platform`."""

    def __str__(self) -> str:
        """Return it for people."""
        return f"the {TEEType(self.tee).name} platform model {self.fmspc.hex()} ({self.ca} CA)"


def read_pck_certificate(quote: Quote, chain: bytes | None) -> PCKCertificate:
    """Return the PCK certificate that a quote carries, or that of `chain`: parsed, still unverified."""
    if quote.certification_data_type in PPID_SIZES:
        if chain is None:
            raise VerificationError(
                Reason.PCK_CERTIFICATE_MISSING,
                "the quote names its platform without its PCK certificate (certification data of type "
                f"{quote.certification_data_type}), and the source of collateral has none",
                hint="name a PCCS that knows the platform, or let the quoting host put the chain into its quotes",
            )
        return pck_certificate_of(chain)
    return pck_certificate_of(quote.certification_data, certification_data_type=quote.certification_data_type)


def chain_key(quote: Quote) -> bytes:
    """Return what tells one missing PCK chain from another, 32 bytes."""
    kind = b"%d:" % quote.certification_data_type
    return hashlib.sha256(kind + quote.header.user_data + quote.certification_data).digest()


def pck_name(quote: Quote) -> PCKName:
    """Return what the quote says of its PCK certificate, unverified. Raises MalformedInput."""
    kind, data = quote.certification_data_type, quote.certification_data
    named = (
        PPIDCertification.parse(data, kind=kind)
        if kind in PPID_SIZES
        else pck_certificate_of(data, certification_data_type=kind)
    )
    return PCKName(
        qe_id=quote.header.user_data[:16],
        encrypted_ppid=named.ppid if kind == _RSA_3072 else None,
        cpu_svn=named.cpu_svn,
        pce_svn=named.pce_svn,
        pce_id=named.pce_id,
    )


def verify_descent(quote: Quote, chain: bytes | None, trust_anchors: TrustAnchors) -> None:
    """Verify that a vendor whom we trust once certified the platform that a quote names, and nothing else.

    Without it any stranger could name as many models as he likes, and have each of them fetched. What a vendor has
    certified are some hundred.

    Raises:
        MalformedInput, VerificationError: as `eaa.verify.dcap.verify_quote`.
    """
    named = parse_pck_chain(quote, pck_certificate_chain=chain)
    pin_root(named.root, trust_anchors)
    verify_root(named.root)
    verify_role(named.ca, PCK_CA)
    verify_issued(named.ca, issuer=named.root)
    verify_role(named.pck, PCK)
    verify_issued(named.pck, issuer=named.ca)
