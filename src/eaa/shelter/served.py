"""Which documents a collateral service has, whether they hold, and for how long.

Each is verified as a verifier would, under the root in which the service's chains end. Whether that root is believed is
a question of its own, and has a line of its own: a simulated platform's service is as sound as any other.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import unquote_to_bytes

from eaa.collateral.x509 import CRL, Certificate, parse_pem_chain
from eaa.errors import EAAError, MalformedInput, Reason, Unavailable, VerificationError
from eaa.shelter.findings import Finding, failed, odd, well
from eaa.sources.pccs import INTEL_ROOT_CRL_URL, BaseURL
from eaa.sources.probe import Probed, probe
from eaa.verifier import TrustAnchors
from eaa.verifier.documents import (
    VerifiedDocument,
    VerifiedRoot,
    verify_identity,
    verify_pck_crl,
    verify_root_crl,
    verify_tcb_info,
)

ENDS_SOON: Final = timedelta(days=7)
_REFRESH: Final = "have the service refresh it, and look at its log"
_Verify = Callable[[bytes, bytes, VerifiedRoot], VerifiedDocument]
_Held = Callable[[Probed], VerifiedDocument | None]
"""Verifies what came; None where there is nothing to do that with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralService:
    """A service that is looked at, and how it is asked."""

    base: BaseURL
    context: ssl.SSLContext | None
    now: Callable[[], datetime]
    update: str = "standard"
    """`standard` or `early`: what clients on this machine ask for."""
    crl_by_address: bool = False
    """Whether they ask for the root's CRL by its address, as `pccs_api_version` 3.1 has it."""

    def get(self, product: str, route: str, *, version: str | None = None) -> Probed:
        """Ask for one of its routes. Raises Unavailable."""
        return probe(
            self.base, f"/{product}/certification/{version or self.base.version}/{route}", context=self.context
        )

    def identity(self, product: str, name: str = "qe") -> Probed:
        """Ask for an identity. Raises Unavailable."""
        return self.get(product, f"{name}/identity?update={self.update}")

    def root_crl(self) -> Probed:
        """Ask for the root's CRL, where this service's clients do. Raises Unavailable."""
        if self.base.is_intel_pcs:
            host, _, path = INTEL_ROOT_CRL_URL.rpartition("/")
            return probe(BaseURL.parse(host), f"/{path}", context=self.context)
        return self.get("sgx", f"crl?uri={INTEL_ROOT_CRL_URL}" if self.crl_by_address else "rootcacrl")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One document."""

    name: str
    ask: Callable[[], Probed]
    chain: str
    """The header with its issuers, in lower case."""
    end_of: Callable[[bytes], datetime]
    verify: _Verify
    is_needed: bool = True


def look_at_documents(
    service: CollateralService, fmspcs: Iterable[str], first: Probed, *, trust_anchors: TrustAnchors
) -> Iterator[Finding]:
    """Yield what there is to say of each document; `first` is the answer with the QE identity.

    1. All are asked for.
    2. The root that the first usable chain ends in, and its CRL.
    3. Each document under them.
    """
    # 1.
    answers = [(wanted, _asked(wanted.ask)) for wanted in _wanted(service, fmspcs, first)]
    root_crl = _asked(service.root_crl)
    # 2.
    root = _root_of(answers)
    vouched: VerifiedRoot | None = None
    if root is not None:
        yield _root_finding(root, trust_anchors)
        if isinstance(root_crl, Probed) and root_crl.status == 200:
            with contextlib.suppress(EAAError, ValueError):
                vouched = _vouched(root, root_crl)
    yield _finding(
        "CRL of the root",
        root_crl,
        end_of=_crl_end,
        held=lambda answer: None if root is None else _vouched(root, answer),
        now=service.now(),
    )
    # 3.
    for wanted, answer in answers:
        if isinstance(answer, Probed) and answer.status == 404 and not wanted.is_needed:
            yield odd(wanted.name, "it is not there, which hurts only whose platforms need it", "fill the cache")
            continue
        yield _finding(
            wanted.name, answer, end_of=wanted.end_of, held=partial(_held, wanted, vouched), now=service.now()
        )


def _wanted(service: CollateralService, fmspcs: Iterable[str], first: Probed) -> Iterator[_Wanted]:
    yield _identity("QE", lambda: first)
    yield _identity("TD_QE", lambda: service.identity("tdx"), is_needed=False)
    yield _identity("QVE", lambda: service.identity("sgx", "qve"), is_needed=False)
    for ca in ("processor", "platform"):
        yield _Wanted(
            name=f"CRL of the {ca} CA",
            ask=partial(service.get, "sgx", f"pckcrl?ca={ca}&encoding=der"),
            chain="sgx-pck-crl-issuer-chain",
            end_of=_crl_end,
            verify=lambda body, chain, root: verify_pck_crl(_der(body), chain, root=root),
            is_needed=False,
        )
    for fmspc in fmspcs:
        for tee in ("SGX", "TDX"):
            yield _tcb_info(service, tee, fmspc.upper())


def _identity(name: str, ask: Callable[[], Probed], *, is_needed: bool = True) -> _Wanted:
    def verify(body: bytes, chain: bytes, root: VerifiedRoot) -> VerifiedDocument:
        verified = verify_identity(body, chain, root=root)
        _require_same(verified.identity.id, name)
        return verified

    return _Wanted(
        name=f"{name.replace('_', ' ')} identity",
        ask=ask,
        chain="sgx-enclave-identity-issuer-chain",
        end_of=_json_end,
        verify=verify,
        is_needed=is_needed,
    )


def _tcb_info(service: CollateralService, tee: str, fmspc: str) -> _Wanted:
    def verify(body: bytes, chain: bytes, root: VerifiedRoot) -> VerifiedDocument:
        verified = verify_tcb_info(body, chain, root=root)
        _require_same(f"{verified.tcb_info.id} {verified.tcb_info.fmspc.hex().upper()}", f"{tee} {fmspc}")
        return verified

    return _Wanted(
        name=f"{tee} TCB Info of {fmspc}",
        ask=lambda: service.get(tee.lower(), f"tcb?fmspc={fmspc}&update={service.update}"),
        chain="sgx-tcb-info-issuer-chain" if service.base.version == "v3" else "tcb-info-issuer-chain",
        end_of=_json_end,
        verify=verify,
        is_needed=tee == "SGX",
    )


def _require_same(said: str, wanted: str) -> None:
    if said != wanted:
        raise MalformedInput(Reason.COLLATERAL_MALFORMED, f"what came is of {said}, and not of {wanted}")


def _asked(ask: Callable[[], Probed]) -> Probed | Unavailable:
    try:
        return ask()
    except Unavailable as error:
        return Unavailable(error.reason, error.message, hint="try again; the service did answer before")


def _root_of(answers: Iterable[tuple[_Wanted, Probed | Unavailable]]) -> Certificate | None:
    """Return the last certificate of the first chain that can be read."""
    for wanted, answer in answers:
        if isinstance(answer, Probed) and answer.status == 200:
            try:
                return Certificate.parse(parse_pem_chain(_chain(answer, wanted))[-1])
            except MalformedInput:
                continue
    return None


def _chain(answer: Probed, wanted: _Wanted) -> bytes:
    return unquote_to_bytes(answer.headers.get(wanted.chain, ""))


def _root_finding(root: Certificate, trust_anchors: TrustAnchors) -> Finding:
    if root.fingerprint in trust_anchors.fingerprints:
        return well("root", "its documents end in a root that is trusted")
    return odd(
        "root",
        f"its documents end in a root that is none of the trust anchors, SHA-256 {root.fingerprint.hex()}",
        "if it is meant to be believed, name it with --trust-anchor FILE, here and to verifiers; otherwise find out "
        "who fills this service",
    )


def _vouched(root: Certificate, crl: Probed) -> VerifiedRoot:
    """Verify a root with its CRL, whoever believes it. Raises VerificationError, MalformedInput or ValueError."""
    return verify_root_crl(root, _der(crl.body), trust_anchors=TrustAnchors(frozenset({root.fingerprint})))


def _held(wanted: _Wanted, vouched: VerifiedRoot | None, answer: Probed) -> VerifiedDocument | None:
    return None if vouched is None else wanted.verify(answer.body, _chain(answer, wanted), vouched)


def _finding(
    name: str, answer: Probed | Unavailable, *, end_of: Callable[[bytes], datetime], held: _Held, now: datetime
) -> Finding:
    if isinstance(answer, Unavailable):
        return failed(name, answer)
    if answer.status != 200:
        said = answer.headers.get("warning", "")[:200]
        why = f"it was answered with status {answer.status}{f' ({said})' if said else ''}"
        remedy = "fill the cache: `eaa-pccs upload`, `eaa-pccs import`, a refresh, or register the platform"
        return failed(name, Unavailable(Reason.COLLATERAL_NOT_FOUND, why, hint=remedy))
    try:
        ends = end_of(answer.body)
    except (MalformedInput, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        what = "what came is no such document"
        return failed(name, MalformedInput(Reason.COLLATERAL_MALFORMED, what, hint="look at the service's log"))
    try:
        verified = held(answer)
    except EAAError as error:
        hint = error.hint or "have the service fetch it anew; verifiers refuse it as it is"
        return failed(name, type(error)(error.reason, error.message, hint=hint))
    if verified is None:
        why = f"it ends at {ends:%Y-%m-%dT%H:%MZ}, and there is nothing to verify it with"
        return odd(name, why, "see the root and its CRL")
    return _ending(name, min(ends, verified.expires), now)


def _ending(name: str, ends: datetime, now: datetime) -> Finding:
    left = ends - now
    message = f"its signature holds, and it ends at {ends:%Y-%m-%dT%H:%MZ}, in {left.days} days"
    if left < timedelta(0):
        past = f"it ended at {ends:%Y-%m-%dT%H:%MZ}, {-left.days} days ago"
        return failed(name, VerificationError(Reason.COLLATERAL_EXPIRED, past, hint=_REFRESH))
    return odd(name, message, _REFRESH) if left < ENDS_SOON else well(name, message)


def _json_end(body: bytes) -> datetime:
    document = json.loads(body)
    inner = document.get("tcbInfo") or document["enclaveIdentity"]
    moment = datetime.fromisoformat(inner["nextUpdate"])
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _crl_end(body: bytes) -> datetime:
    return CRL.parse(_der(body)).next_update


def _der(crl: bytes) -> bytes:
    """Return a CRL as DER: caches send it as such, or in hex. Raises ValueError."""
    return crl if crl[:1] == b"\x30" else bytes.fromhex(crl.decode("ascii"))
