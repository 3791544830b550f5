"""Collateral as a certificate carries it: between rats-tls's endorsements and ours.

The members are the vendor's words either way, and are verified like any other. They differ in how they are written:
a certificate has whole signed documents and, by its version, CRLs as DER, as hexadecimal DER or as PEM.

Source: Intel's `sgx_ql_qve_collateral_t`, as rats-tls serializes it in the order of Open Enclave.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Protocol

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import join_signed_document, pck_certificate_of, split_signed_document
from eaa.errors import MalformedInput, Reason
from eaa.sources import CollateralSource

VERSION: Final = 0x00010003
"""3.1, of which CRLs are DER: what Intel's quote provider library returns by default."""

_DER_SEQUENCE: Final = b"\x30"
_PEM_LABEL: Final = "X509 CRL"


class CarriedEndorsements(Protocol):
    """Endorsements as a certificate has them; `eaa.evidence.tagged.Endorsements` is such a one."""

    @property
    def tcb_info(self) -> bytes:
        """The signed document."""

    @property
    def tcb_info_issuer_chain(self) -> bytes:
        """PEM."""

    @property
    def pck_crl(self) -> bytes:
        """As the version has it."""

    @property
    def root_ca_crl(self) -> bytes:
        """As the version has it."""

    @property
    def pck_crl_issuer_chain(self) -> bytes:
        """PEM."""

    @property
    def qe_identity(self) -> bytes:
        """The signed document."""

    @property
    def qe_identity_issuer_chain(self) -> bytes:
        """PEM."""


def collateral_of(endorsements: CarriedEndorsements) -> Collateral:
    """Return the collateral that a certificate carries, unverified.

    Raises:
        MalformedInput: COLLATERAL_MALFORMED, TCB_INFO_MALFORMED, QE_IDENTITY_MALFORMED.
    """
    tcb_info, tcb_info_signature = split_signed_document(endorsements.tcb_info, "tcbInfo")
    qe_identity, qe_identity_signature = split_signed_document(endorsements.qe_identity, "enclaveIdentity")
    return Collateral(
        pck_crl_issuer_chain=_text(endorsements.pck_crl_issuer_chain, "pck_crl_issuer_chain"),
        root_ca_crl=_crl(endorsements.root_ca_crl, "root_ca_crl"),
        pck_crl=_crl(endorsements.pck_crl, "pck_crl"),
        tcb_info_issuer_chain=_text(endorsements.tcb_info_issuer_chain, "tcb_info_issuer_chain"),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        qe_identity_issuer_chain=_text(endorsements.qe_identity_issuer_chain, "qe_identity_issuer_chain"),
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
    )


def stapled_collateral(endorsements: CarriedEndorsements) -> bytes:
    """Return the same in the JSON form in which a message of the exchange staples collateral. Raises as above."""
    return collateral_of(endorsements).to_json()


def members_of(collateral: Collateral) -> dict[str, bytes]:
    """Return what a certificate carries of a collateral: the members of CarriedEndorsements, CRLs as DER.

    Text ends in a NUL, as the C programs have it: they hand these members on as C strings.
    """
    return {
        "tcb_info": join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature) + b"\0",
        "tcb_info_issuer_chain": collateral.tcb_info_issuer_chain + b"\0",
        "pck_crl": collateral.pck_crl,
        "root_ca_crl": collateral.root_ca_crl,
        "pck_crl_issuer_chain": collateral.pck_crl_issuer_chain + b"\0",
        "qe_identity": join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature)
        + b"\0",
        "qe_identity_issuer_chain": collateral.qe_identity_issuer_chain + b"\0",
    }


def fetch_for(source: CollateralSource, *, tee: int, certification_data: bytes, kind: int) -> Collateral:
    """Return the collateral of the platform that made a quote.

    Args:
        source: where it comes from.
        tee: the TEE type word of the quote's header.
        certification_data: of the quote.
        kind: that data's type; the platform's certificate has to be in it.

    Raises:
        MalformedInput: the quote does not say which platform it is of.
        Unavailable: the collateral could not be had.
    """
    pck = pck_certificate_of(certification_data, certification_data_type=kind)
    return source.fetch(tee=tee, fmspc=pck.fmspc, ca=pck.ca)


def _text(raw: bytes, name: str) -> bytes:
    if not raw.isascii():
        raise _malformed(name, "text")
    return raw


def _crl(raw: bytes, name: str) -> bytes:
    if raw.startswith(_DER_SEQUENCE):
        return raw
    try:
        text = raw.decode("ascii").strip()
        if text.startswith("-----BEGIN"):
            body = text.removeprefix(f"-----BEGIN {_PEM_LABEL}-----").removesuffix(f"-----END {_PEM_LABEL}-----")
            return base64.b64decode("".join(body.split()), validate=True)
        return bytes.fromhex(text)
    except (ValueError, binascii.Error) as error:
        raise _malformed(name, "a CRL in DER, hexadecimal DER or PEM") from error


def _malformed(name: str, expected: str) -> MalformedInput:
    return MalformedInput(Reason.COLLATERAL_MALFORMED, f"{name} of the certificate's endorsements is not {expected}")
