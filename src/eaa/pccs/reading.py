"""The routes that read: a document from the PKI that has it, verified once more before it leaves.

A look-up goes through all PKIs, the default one first, and answers with the first document that verifies and whose
time it is. A client chooses nothing: the platform or model that it names lies in one PKI, as a rule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from eaa.collateral.intel import PCKCertificate
from eaa.collateral.x509 import parse_pem_chain
from eaa.errors import EAAError
from eaa.pccs import query
from eaa.pccs.observing import Nobody, Observer
from eaa.pccs.places import Place
from eaa.pccs.records import Document, DocumentKey, Kind, Platform
from eaa.pccs.store import Store
from eaa.pccs.uploads import RawTCB
from eaa.pccs.verification import Vouched, told
from eaa.pccs.wire import HTML, JSON, Refusal, Request, Response, Status, warning
from eaa.sources.selection import Candidate, Levels, SelectionError, select
from eaa.verifier import TrustAnchors
from eaa.verifier.documents import VerifiedDocument

WARN_BEFORE: Final = timedelta(days=7)
"""How long before its end an answer begins to carry a warning. It refuses nothing: vendors' CRLs last a month."""
AGING_KEPT: Final = timedelta(minutes=1)
"""How long an answer is kept whose document should be renewed soon: each time it is rendered, that is tried."""
RENEW_PART: Final = 3
"""A document is renewed when less than one part in so many of its life is left, or the warning is due."""

_log = logging.getLogger(__name__)
_Verify = Callable[[Vouched], VerifiedDocument]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """One PKI's answer, as long as it verifies."""

    root: str
    response: Response
    verify: _Verify


class Reader:
    """Answers the routes that read."""

    def __init__(
        self,
        store: Store,
        *,
        trust_anchors: TrustAnchors,
        clock: Callable[[], datetime],
        crl_hosts: frozenset[str] = frozenset(),
        observer: Observer | None = None,
    ) -> None:
        """Answer from this store, with what the trust anchors vouch for; see `eaa.pccs.service.Service`."""
        self._store = store
        self._trust_anchors = trust_anchors
        self._clock = clock
        self._crl_hosts = crl_hosts
        self._observer = observer or Nobody()

    def routes(self) -> dict[str, Callable[[Request, Place], Response]]:
        """Return who answers which route of GET."""
        return {
            "/pckcert": self.pck_certificate,
            "/pckcrl": self.pck_crl,
            "/tcb": self.tcb_info,
            "/qe/identity": self.quoting_identity,
            "/qve/identity": self.verification_identity,
            "/rootcacrl": self.root_crl,
            "/crl": self.crl,
            "/appraisalpolicy": self.policies,
        }

    # --- a platform's certificate

    def pck_certificate(self, request: Request, place: Place) -> Response:
        """Answer with the best PCK certificate for a platform's raw TCB."""
        parameters = request.parameters()
        qe_id = query.qe_id(parameters)
        raw = RawTCB(
            cpu_svn=query.hex_parameter(parameters, "cpusvn", 32), pce_svn=query.hex_parameter(parameters, "pcesvn", 4)
        )
        pce_id = query.hex_parameter(parameters, "pceid", 4)
        if "encrypted_ppid" in parameters:
            query.hex_parameter(parameters, "encrypted_ppid", query.ENCRYPTED_PPID_DIGITS)
        platforms = self._store.platforms(qe_id=qe_id, pce_id=pce_id, scope=place.scope)
        if not platforms:
            raise Refusal(Status.PLATFORM_UNKNOWN, "this platform was never uploaded")
        what = f"the PCK certificate of a platform of FMSPC {platforms[0].fmspc}"
        return self._first_current((_lazily(self._certificate_answer, each, raw) for each in platforms), what)

    def _certificate_answer(self, platform: Platform, raw: RawTCB) -> _Candidate:
        candidate, is_new = self._certificate(platform, raw)
        chain = _found(self._store.chain(name=platform.ca, root=platform.root), "the CA's issuer chain")
        headers = (
            ("SGX-TCBm", candidate.tcbm),
            ("SGX-FMSPC", platform.fmspc),
            ("SGX-PCK-Certificate-CA-Type", platform.ca),
            ("SGX-PCK-Certificate-Issuer-Chain", chain),
            ("Content-Type", "application/x-pem-file"),
        )

        def verify(vouched: Vouched) -> VerifiedDocument:
            own = candidate.certificate.fmspc.hex().upper()
            if own != platform.fmspc:
                raise Refusal(Status.NO_CACHE_DATA, f"it is of FMSPC {own}")
            verified = vouched.pck(candidate, ca=vouched.ca(platform.ca))
            if is_new:
                self._remember(platform, raw, candidate.tcbm)
            return verified

        return _Candidate(
            root=platform.root,
            response=Response(status=Status.OK, headers=headers, body=candidate.pem.encode()),
            verify=verify,
        )

    def _remember(self, platform: Platform, raw: RawTCB, tcbm: str) -> None:
        """Keep the choice, which operators see in the list of platforms; a full disk does not keep an answer back."""
        try:
            self._store.remember_tcb(platform, raw, tcbm, now=self._clock())
        except SQLAlchemyError as error:
            _log.warning("a platform's TCB is not remembered: %s", getattr(error, "orig", error))

    def _certificate(self, platform: Platform, raw: RawTCB) -> tuple[Candidate, bool]:
        """Return the certificate for a raw TCB, and whether it was chosen now and not before."""
        certificates = self._store.pck_certificates(platform)
        known = self._store.tcbm(platform, raw)
        chosen = None if known is None or known not in certificates else _read(known, certificates[known])
        # What is kept as chosen must fit as what is chosen now does: the row may have been changed by anybody.
        if chosen is not None and raw.tcb.covers(chosen.tcb):
            return chosen, False
        candidates = [_read(tcbm, pem) for tcbm, pem in certificates.items()]
        try:
            best = select(raw.tcb, candidates, pce_id=platform.pce_id, levels=self._levels(platform))
        except SelectionError as error:
            raise Refusal(Status.NO_CACHE_DATA, f"no PCK certificate fits: {error}") from error
        return best, True

    def _levels(self, platform: Platform) -> Levels:
        """Return the SGX TCB levels of the platform's model, the early ones where there are any."""
        for update in ("EARLY", "STANDARD"):
            key = DocumentKey(kind=Kind.TCB_INFO, name=platform.fmspc, tee="SGX", api_version=4, update_type=update)
            found = self._store.find(key, scope=platform.root)
            if found:
                return Levels.parse(found[0].body)
        raise Refusal(Status.NO_CACHE_DATA, f"there is no TCB Info for FMSPC {platform.fmspc}")

    # --- documents

    def pck_crl(self, request: Request, place: Place) -> Response:
        """Answer with a PCK CA's CRL, in hex unless DER is asked for."""
        parameters = request.parameters()
        ca = query.certificate_authority(parameters)
        is_der = parameters.get("encoding", "").upper() == "DER"
        found = self._store.find(DocumentKey(kind=Kind.PCK_CRL, name=ca), scope=place.scope)
        return self._first_document(found, f"the CRL of the {ca} CA", lambda each: _pck_crl(each, is_der=is_der))

    def tcb_info(self, request: Request, place: Place) -> Response:
        """Answer with TCB Info of a model: the standard one, the early one, or that of an evaluation number."""
        parameters = request.parameters()
        fmspc = query.hex_parameter(parameters, "fmspc", 12)
        update = query.update_type(parameters)
        number = query.evaluation_number(parameters)
        what = f"{place.product} TCB Info for FMSPC {fmspc}"
        if number is not None:
            what += f" with evaluation number {number}"
            found = self._store.numbered(
                fmspc=fmspc, tee=place.product, api_version=place.api_version, number=number, scope=place.scope
            )
        else:
            key = DocumentKey(
                kind=Kind.TCB_INFO, name=fmspc, tee=place.product, api_version=place.api_version, update_type=update
            )
            found = self._store.find(key, scope=place.scope)
        name = "SGX-TCB-Info-Issuer-Chain" if place.api_version == 3 else "TCB-Info-Issuer-Chain"
        return self._first_document(found, what, lambda each: _json(each, chain_name=name))

    def quoting_identity(self, request: Request, place: Place) -> Response:
        """Answer with the identity of the QE, below /tdx the TD QE."""
        return self._identity("QE" if place.product == "SGX" else "TD_QE", request, place)

    def verification_identity(self, request: Request, place: Place) -> Response:
        """Answer with the identity of the QvE."""
        return self._identity("QVE", request, place)

    def _identity(self, name: str, request: Request, place: Place) -> Response:
        update = query.update_type(request.parameters())
        key = DocumentKey(kind=Kind.IDENTITY, name=name, api_version=place.api_version, update_type=update)
        found = self._store.find(key, scope=place.scope)
        return self._first_document(
            found, f"the {name} identity", lambda each: _json(each, chain_name="SGX-Enclave-Identity-Issuer-Chain")
        )

    def root_crl(self, _request: Request, place: Place) -> Response:
        """Answer with the root's CRL in hex, under the label of DER: for clients older than the route `crl`."""
        found = self._store.find(DocumentKey(kind=Kind.ROOT_CRL, name=""), scope=place.scope)
        headers = (("Content-Type", "application/pkix-crl; charset=utf-8"),)
        return self._first_document(
            found,
            "the root's CRL",
            lambda each: Response(status=Status.OK, headers=headers, body=each.body.hex().encode()),
        )

    def crl(self, request: Request, place: Place) -> Response:
        """Answer with the CRL that is published at an address, DER: the root's, or a PCK CA's."""
        uri = query.crl_uri(request.parameters())
        found = self._store.crls_at(uri, ca=query.ca_of_crl(uri, self._crl_hosts), scope=place.scope)
        if not found and not query.is_known_crl(uri, self._crl_hosts):
            raise Refusal(Status.INVALID_REQUEST, "the uri is neither the vendor's nor that of an uploaded CRL")
        headers = (("Content-Type", "application/pkix-crl"),)
        return self._first_document(
            found, "that CRL", lambda each: Response(status=Status.OK, headers=headers, body=each.body)
        )

    def policies(self, request: Request, _place: Place) -> Response:
        """Answer with a model's default appraisal policies."""
        fmspc = query.hex_parameter(request.parameters(), "fmspc", 12)
        found = self._store.policies(fmspc=fmspc)
        if not found:
            raise Refusal(Status.NO_CACHE_DATA, f"there is no default appraisal policy for FMSPC {fmspc}")
        return Response(status=Status.OK, headers=(("Content-Type", HTML),), body=",".join(found).encode())

    # --- which PKI's, and whether it may leave

    def _first_document(self, found: Iterable[Document], what: str, render: Callable[[Document], Response]) -> Response:
        candidates = (_Candidate(root=each.root, response=render(each), verify=_verification(each)) for each in found)
        return self._first_current((_lazily(lambda value: value, each) for each in candidates), what)

    def _first_current(self, candidates: Iterable[Callable[[], _Candidate]], what: str) -> Response:
        """Return the first answer that may leave; where none may, raise why the first one may not."""
        first: Refusal | None = None
        for make in candidates:
            try:
                return self._current(make(), what)
            except Refusal as refusal:
                first = first or refusal
            except EAAError as error:
                cause = f"{what} cannot be read: {told(error)}"
                first = first or Refusal(Status.NO_CACHE_DATA, cause, alarms=True)
        raise first or Refusal(Status.NO_CACHE_DATA, f"{what} was never uploaded")

    def _current(self, candidate: _Candidate, what: str) -> Response:
        """Return an answer with the moment up to which it may be kept, and with a warning when its end is near.

        Raises:
            Refusal: 404, what would be served does not verify, or is past its time. Clients know that status as "no
                data", and do not ask again at once, as they would for 503.
        """
        now = self._clock()
        try:
            supplement = self._store.supplement(candidate.root)
            verified = candidate.verify(Vouched.under(supplement, trust_anchors=self._trust_anchors))
        except Refusal as refusal:
            raise Refusal(Status.NO_CACHE_DATA, f"{what} cannot be verified: {refusal.cause}", alarms=True) from refusal
        except EAAError as error:
            self._observer.refused(_kind_of(what), str(error.reason))
            raise Refusal(Status.NO_CACHE_DATA, f"{what} does not verify: {told(error)}", alarms=True) from error
        try:
            verified.require_current(now=now)
        except EAAError as error:
            raise Refusal(
                Status.NO_CACHE_DATA, f"{what} is not served: {told(error)}", warning=error.message, alarms=True
            ) from error
        return _with_end(candidate.response, what, verified, now=now)


def _with_end(response: Response, what: str, verified: VerifiedDocument, *, now: datetime) -> Response:
    own = verified.windows[0]
    warn_from = verified.expires - WARN_BEFORE
    renew_from = min(own.not_after - (own.not_after - own.not_before) / RENEW_PART, warn_from)
    if now >= warn_from:
        note = warning(f"{what} expires at {verified.expires:%Y-%m-%dT%H:%M:%SZ}")
        response = replace(response, headers=(note, *response.headers))
    if now < renew_from:
        return replace(response, keep_until=renew_from)
    until = verified.expires if now >= warn_from else warn_from
    return replace(response, keep_until=min(until, now + AGING_KEPT), is_aging=True)


def _verification(document: Document) -> _Verify:
    return lambda vouched: vouched.document(document)


def _read(tcbm: str, pem: str) -> Candidate:
    """Read a certificate that is kept."""
    (der,) = parse_pem_chain(pem.encode(), maximum=1)
    return Candidate(tcbm=tcbm, pem=pem, certificate=PCKCertificate.parse(der))


def _pck_crl(document: Document, *, is_der: bool) -> Response:
    headers = (
        ("SGX-PCK-CRL-Issuer-Chain", document.chain or ""),
        # Hex under the label of PEM: clients rely on it, whatever encoding they asked for.
        ("Content-Type", "application/pkix-crl" if is_der else "application/x-pem-file; charset=utf-8"),
    )
    body = document.body if is_der else document.body.hex().encode()
    return Response(status=Status.OK, headers=headers, body=body)


def _json(document: Document, *, chain_name: str) -> Response:
    headers = ((chain_name, document.chain or ""), ("Content-Type", JSON))
    return Response(status=Status.OK, headers=headers, body=document.body)


def _found(value: str | None, what: str) -> str:
    if value is None:
        raise Refusal(Status.NO_CACHE_DATA, f"{what} was never uploaded")
    return value


def _kind_of(what: str) -> str:
    """Return which kind of document this is, without the model that a client named."""
    return what.partition(" FMSPC")[0].removesuffix(" for").removesuffix(" of a platform of")


def _lazily(make: Callable[..., _Candidate], *arguments: object) -> Callable[[], _Candidate]:
    return lambda: make(*arguments)
