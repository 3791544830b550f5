"""Verification that remembers what it has established: the answers of `verify_quote`, most of them at once.

Nothing is decided here. A stage of `eaa.verify.dcap` that has succeeded is kept under SHA-256 of the exact bytes it was
about, and where the same bytes come again, it is taken as done. Whatever is not kept goes the whole way, so that
errors are those of `verify_quote`, and come in its order.

The stages, each of which rests on those before it:

1. A collateral: both CRLs, TCB Info and QE identity with their issuer chains, under a root that is a trust anchor.
2. PCK CA certificates under a collateral, apart from the leaves.
3. A platform under a collateral: the PCK chain that its quotes carry, and the kind of TEE.
4. The levels that a TCB reaches under a collateral: platforms of one model share them.
5. An attestation key of a platform, loaded: the report of the quoting enclave (QE), its signature and what it binds.
6. A whole quote that its caller expects again: that of a peer's certificate or epoch, shown in every handshake.

Of enclaves that were seen more than once, the shape of their quotes is kept as well. Nothing rests on a shape: it only
spares that what quotes have in common is parsed again, and looked up under another name.

What is left to do for any other quote whose attestation key is kept is the key's signature, and that is not kept.

What is kept dies in time:

- It is used only while every document that it rests on is valid, at both ends; past the earliest expiry it is dropped.
  A grace period therefore does without this cache.
- It names the collateral that it rests on by the digest of all its bytes. Another CRL, another TCB Info, another
  anything is another collateral, under which nothing has been established yet.
- A cache belongs to one set of trust anchors. A policy is no part of what is established, nor of what is kept.
- Every store is bounded; what was used longest ago makes room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import CertifiedPlatform, PCKCertificate
from eaa.collateral.x509 import Certificate
from eaa.errors import MalformedInput, VerificationError
from eaa.evidence.quote import CertificationDataType, Quote
from eaa.evidence.quote_shape import QuoteShape, name_of_enclave
from eaa.evidence.tdx import TDReport
from eaa.records import filler
from eaa.verify import dcap
from eaa.verify.chain import TrustAnchors, Window, verify_dates
from eaa.verify.dcap import Known, PCKChain, VerifiedCollateral, VerifiedPlatform, VerifiedQuote
from eaa.verify.tcb import TCBFacts

MAX_COLLATERALS: Final = 256
"""Collaterals, one a platform model and kind of TEE; some 40 KiB each."""
MAX_PLATFORMS: Final = 10_000
"""Platforms, and attestation keys: normally one a platform. Both together under 6 KiB each."""
MAX_PCK_CAS: Final = 16
"""PCK CA certificates of one collateral. Intel has issued two, or three, for each of two CAs."""
MAX_LEVELS: Final = 1024
"""TCBs of one collateral whose levels are kept."""

MAX_ENCLAVES: Final = 256
"""Enclaves, each on its machine, whose quotes have a known shape; each keeps one of them, and its bytes once more."""
MAX_NEWCOMERS: Final = 1024
"""How many quotes of other enclaves come by before all of these make room."""
MAX_QUOTES: Final = 512
"""Quotes that are expected again, some 16 KiB each: as many peers as come back within the life of their evidence."""

_NO_GRACE: Final = timedelta(0)
_CARRIES_CHAIN: Final = int(CertificationDataType.PCK_CHAIN)
_VERSION_AND_TEE: Final = 8
"""Bytes of a quote that tell how the rest of it is laid out."""
_SIZE_AND_SIGNATURE: Final = 4 + 64
"""Bytes between what the attestation key signed and the attestation key."""


class _Validity(NamedTuple):
    """When everything that an entry rests on is valid, both ends included."""

    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, windows: tuple[Window, ...]) -> _Validity:
        return cls(max([window.not_before for window in windows]), min([window.not_after for window in windows]))

    def within(self, other: _Validity) -> _Validity:
        return _Validity(max(self.begins, other.begins), min(self.ends, other.ends))

    def contains(self, now: datetime) -> bool:
        return self.begins <= now <= self.ends


@dataclass(frozen=True, slots=True)
class _Collateral:
    """Stage 1, with stages 2 and 4, which fall with it."""

    collateral: bytes
    """Digest."""
    validity: _Validity
    documents: VerifiedCollateral
    certificates: Known
    """Those of its chains, and of `pck_cas`: what recurs in a PCK chain is not parsed again."""
    pck_cas: dict[Certificate, None]
    levels: dict[tuple[object, ...], TCBFacts]

    def remember(self, pck_ca: Certificate, parsed: Known) -> None:
        """Keep a PCK CA certificate that was verified under this collateral, and its text among those `parsed`."""
        if pck_ca not in self.pck_cas and len(self.pck_cas) < MAX_PCK_CAS:
            self.pck_cas[pck_ca] = None
            self.certificates.update((text, known) for text, known in parsed.items() if known is pck_ca)


@dataclass(frozen=True, slots=True)
class _Platform:
    """Stage 3."""

    collateral: bytes
    validity: _Validity
    verified: VerifiedPlatform


@dataclass(frozen=True, slots=True)
class _AttestationKey:
    """Stage 5, and the facts of every quote by this key that tells the same TCB."""

    collateral: bytes
    validity: _Validity
    key: EllipticCurvePublicKey
    platform: VerifiedPlatform
    facts: tuple[object, ...]
    """Every field of a VerifiedQuote but those of one occasion, the quote and the time."""


class _Keys:
    """What a quote's platform and attestation key are kept under."""

    __slots__ = ("_evidence", "_platform", "attestation_key", "chain", "quote")

    def __init__(self, quote: Quote, chain: bytes, attestation_key: bytes | None = None) -> None:
        self.quote = quote
        self.chain = chain
        """PEM; empty where the quote carries its own."""
        if attestation_key is None:
            attestation_key = b"" if quote.raw is None else _digest_of_attested(quote, quote.raw, chain)
        self.attestation_key = attestation_key
        self._platform: bytes | None = None
        self._evidence: bytes | None = None

    @property
    def platform(self) -> bytes:
        """Names a platform by all that tells its certificate."""
        if self._platform is None:
            quote = self.quote
            head = b"%d:%d:%d:" % (quote.header.tee_type, quote.certification_data_type, len(self.chain))
            self._platform = hashlib.sha256(head + self.chain + quote.certification_data).digest()
        return self._platform

    @property
    def evidence(self) -> bytes | None:
        """Names the quote by all of its bytes; None where they are not all there is to know of its platform."""
        if self._evidence is None and self.quote.raw is not None and not self.chain:
            self._evidence = hashlib.sha256(self.quote.raw).digest()
        return self._evidence


def _digest_of_attested(quote: Quote, raw: bytes, chain: bytes) -> bytes:
    """Name an attestation key and a TCB by all that step 7 reads of a parsed quote, but for its signature.

    That is all of `raw` behind the signature (the attestation key, all of the quoting enclave, the certification
    data), version and kind of TEE in front, and some fields of a TDX body.
    """
    # The size of what is signed tells the kind of body, and with it the sizes of what is taken from there.
    head = b"%d:%d:" % (len(quote.signed_bytes), len(chain))
    tcb = filter(None, dcap.tcb_inputs(quote))
    rest = raw[len(quote.signed_bytes) + _SIZE_AND_SIGNATURE :]
    return hashlib.sha256(b"".join((raw[:_VERSION_AND_TEE], head, chain, *tcb, rest))).digest()


class _Enclave:
    """A quote that was verified, and what others of its enclave are parsed by once there is another one."""

    __slots__ = ("_keys", "_shape")

    def __init__(self, keys: _Keys) -> None:
        self._keys = keys
        self._shape: QuoteShape | None = None

    def keys_of(self, raw: bytes) -> _Keys | None:
        """Return the keys of a quote that differs in report data and signature only, with the quote; else None."""
        known = self._keys
        if self._shape is None:
            assert known.quote.raw is not None
            self._shape = QuoteShape.of(known.quote, known.quote.raw)
        quote = self._shape.parse(raw)
        # Neither of the two is among what an attestation key and a TCB are kept under; another chain is other keys.
        return None if quote is None else _Keys(quote, known.chain, known.attestation_key)


@dataclass(frozen=True, slots=True)
class _ExpectedQuote:
    """Stage 6."""

    collateral: bytes
    validity: _Validity
    keys: _Keys
    facts: tuple[object, ...]
    """Those of the attestation key."""


class _Entry(Protocol):
    @property
    def collateral(self) -> bytes: ...

    @property
    def validity(self) -> _Validity: ...


_AnyEntry = TypeVar("_AnyEntry", bound=_Entry)


class _Store(Generic[_AnyEntry]):
    """Entries by SHA-256, the one used longest ago first; at most `maximum` of them."""

    def __init__(self, maximum: int, guard: AbstractContextManager[object]) -> None:
        self._entries: dict[bytes, _AnyEntry] = {}
        self._maximum = maximum
        self._guard = guard

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, *, collateral: bytes, now: datetime) -> _AnyEntry | None:
        """Return the entry that rests on this very collateral, all of it valid now."""
        with self._guard:
            entry = self._entries.pop(key, None)
            if entry is None:
                return None
            # Back in, as the one used last: unless it is over, or another collateral has come and it falls.
            if entry.collateral != collateral or now > entry.validity.ends:
                return None
            self._entries[key] = entry
        return entry if entry.validity.contains(now) else None

    def peek(self, key: bytes) -> _AnyEntry | None:
        """Return the entry, whatever became of what it rests on."""
        return self._entries.get(key)

    def keep(self, key: bytes, entry: _AnyEntry, *, now: datetime) -> None:
        """Keep an entry, if all that it rests on is valid now."""
        if not entry.validity.contains(now):
            return
        with self._guard:
            self._entries.pop(key, None)
            self._entries[key] = entry
            while len(self._entries) > self._maximum:
                del self._entries[next(iter(self._entries))]

    def drop(self, falls: Callable[[_AnyEntry], bool]) -> None:
        """Drop every entry of which `falls` is true."""
        with self._guard:
            self._entries = {key: entry for key, entry in self._entries.items() if not falls(entry)}


class VerificationCache:
    """`verify_quote` for one set of trust anchors, which remembers what it has established.

    Threads share a cache whose `guard` is a lock; it is held for no longer than a dictionary takes.
    """

    def __init__(
        self,
        trust_anchors: TrustAnchors,
        *,
        max_platforms: int = MAX_PLATFORMS,
        max_collaterals: int = MAX_COLLATERALS,
        guard: AbstractContextManager[object] | None = None,
    ) -> None:
        guard = guard or nullcontext()
        self.trust_anchors = trust_anchors
        self._collaterals: _Store[_Collateral] = _Store(max_collaterals, guard)
        self._platforms: _Store[_Platform] = _Store(max_platforms, guard)
        self._attestation_keys: _Store[_AttestationKey] = _Store(max_platforms, guard)
        self._quotes: _Store[_ExpectedQuote] = _Store(MAX_QUOTES, guard)
        self._enclaves: dict[bytes, _Enclave] = {}
        self._newcomers = 0
        self._last_keys: _Keys | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """How much of each kind is kept."""
        return {
            "collaterals": len(self._collaterals),
            "platforms": len(self._platforms),
            "attestation_keys": len(self._attestation_keys),
            "quotes": len(self._quotes),
        }

    def parse(self, evidence: bytes) -> Quote:
        """Return what `Quote.parse` does, and raise the same; what is known of its enclave is not parsed again."""
        enclave = self._enclaves.get(name_of_enclave(evidence))
        keys = None if enclave is None else enclave.keys_of(evidence)
        if keys is None:
            return Quote.parse(evidence)
        self._last_keys = keys
        return keys.quote

    def recall(self, evidence: bytes) -> Quote:
        """Return the quote that these bytes are; it is not parsed again where it is kept. Raises as `Quote.parse`."""
        kept = self._quotes.peek(hashlib.sha256(evidence).digest())
        if kept is None:
            return self.parse(evidence)
        self._last_keys = kept.keys
        return kept.keys.quote

    def model_of(self, quote: Quote, *, pck_certificate_chain: bytes | None = None) -> tuple[bytes, str] | None:
        """Return FMSPC and CA of a platform that was verified before, as its certificate tells; else None.

        These are the certificate's words, whatever became of it since: they say what collateral to fetch.

        Args:
            quote: the quote.
            pck_certificate_chain: PEM, for quotes that do not carry their own chain.
        """
        keys = self._keys_of(quote, pck_certificate_chain)
        attested = self._attestation_keys.peek(keys.attestation_key)
        if attested is not None:
            return attested.platform.platform.fmspc, attested.platform.platform.ca
        found = self._platforms.peek(keys.platform)
        return None if found is None else (found.verified.platform.fmspc, found.verified.platform.ca)

    def forget(self, collateral: Collateral) -> None:
        """Drop a collateral that has been replaced, and everything that rests on it."""
        for store in (self._collaterals, self._platforms, self._attestation_keys, self._quotes):
            store.drop(lambda entry: entry.collateral == collateral.digest)

    def verify_collateral(
        self, collateral: Collateral, *, now: datetime, grace: timedelta = _NO_GRACE
    ) -> VerifiedCollateral:
        """Do what `eaa.verify.dcap.verify_collateral` does for this cache's trust anchors, and raise the same."""
        dcap.refuse_bad_time(now, grace)
        return self._verify_collateral(collateral, now=now, grace=grace).documents

    def verify_quote(
        self,
        quote: Quote,
        collateral: Collateral,
        *,
        now: datetime,
        grace: timedelta = _NO_GRACE,
        known: PCKCertificate | None = None,
        recurs: bool = False,
    ) -> VerifiedQuote:
        """Do what `eaa.verify.dcap.verify_quote` does, and raise the same.

        Args:
            quote: as there.
            collateral: as there.
            now: as there.
            grace: as there.
            known: a PCK certificate that was parsed before, to find the collateral: it will not be parsed again.
            recurs: whether these very bytes are expected again. `recall` then finds them.
        """
        dcap.refuse_bad_time(now, grace)
        # A record that was put together need not have the sizes, nor say the things, of any bytes.
        if quote.raw is None:
            return self._verify_uncached(quote, collateral, now=now, grace=grace)
        keys = self._keys_of(quote, collateral.pck_certificate_chain)
        if not recurs or keys.evidence is None:
            return self._verify_quote(keys, collateral, now=now, grace=grace, known=known)
        kept = self._quotes.find(keys.evidence, collateral=collateral.digest, now=now)
        if kept is not None:
            return _facts_of(kept.facts, quote=quote, now=now)
        verified = self._verify_quote(keys, collateral, now=now, grace=grace, known=known)
        # What was not kept, because of a grace for instance, keeps no quote either.
        attested = self._attestation_keys.find(keys.attestation_key, collateral=collateral.digest, now=now)
        if attested is not None:
            entry = _ExpectedQuote(attested.collateral, attested.validity, keys, attested.facts)
            self._quotes.keep(keys.evidence, entry, now=now)
        return verified

    def _verify_quote(
        self,
        keys: _Keys,
        collateral: Collateral,
        *,
        now: datetime,
        grace: timedelta,
        known: PCKCertificate | None,
    ) -> VerifiedQuote:
        """Stages 1 to 5."""
        quote = keys.quote
        attested = self._attestation_keys.find(keys.attestation_key, collateral=collateral.digest, now=now)
        if attested is not None:
            dcap.verify_quote_signature(quote, attested.key)
            self._remember_enclave(keys)
            return _facts_of(attested.facts, quote=quote, now=now)
        try:
            base = self._verify_collateral(collateral, now=now, grace=grace)
        except (MalformedInput, VerificationError):
            # It may not be the first fault on the way of `verify_quote`.
            return self._verify_uncached(quote, collateral, now=now, grace=grace)
        platform, pck = self._platforms.find(keys.platform, collateral=base.collateral, now=now), None
        if platform is None:
            certificates = dict(base.certificates)
            chain = dcap.parse_pck_chain(
                quote,
                pck_certificate_chain=collateral.pck_certificate_chain,
                known=certificates,
                known_pck=None if known is None else known.record,
            )
            # The collateral's root is a trust anchor. Another one is another fault.
            if chain.root != base.documents.lists.root:
                return self._verify_uncached(quote, collateral, now=now, grace=grace)
            platform, pck = _verify_platform(quote, chain, base, known, now=now, grace=grace)
            base.remember(chain.ca, certificates)
            self._platforms.keep(keys.platform, platform, now=now)
        key, verified = _verify_evidence(quote, platform, base, pck or platform.verified.platform, now=now)
        entry = _AttestationKey(base.collateral, platform.validity, key, platform.verified, _read_facts(verified))
        self._attestation_keys.keep(keys.attestation_key, entry, now=now)
        return verified

    def _remember_enclave(self, keys: _Keys) -> None:
        """Note whose quote was found good; no more is done for who comes only once. Threads at worst do so twice."""
        assert keys.quote.raw is not None
        name = name_of_enclave(keys.quote.raw)
        if name in self._enclaves:
            return
        if len(self._enclaves) >= MAX_ENCLAVES:
            # Of a fleet larger than this, most of what were learnt would be forgotten before it is of use.
            self._newcomers += 1
            if self._newcomers < MAX_NEWCOMERS:
                return
            self._newcomers = 0
            self._enclaves.clear()
        self._enclaves[name] = _Enclave(keys)

    def _verify_uncached(
        self, quote: Quote, collateral: Collateral, *, now: datetime, grace: timedelta
    ) -> VerifiedQuote:
        return dcap.verify_quote(quote, collateral, trust_anchors=self.trust_anchors, now=now, grace=grace)

    def _verify_collateral(self, collateral: Collateral, *, now: datetime, grace: timedelta) -> _Collateral:
        """Stage 1."""
        found = self._collaterals.find(collateral.digest, collateral=collateral.digest, now=now)
        if found is not None:
            return found
        certificates: Known = {}
        documents = dcap.verify_collateral(
            collateral, trust_anchors=self.trust_anchors, now=now, grace=grace, known=certificates
        )
        entry = _Collateral(collateral.digest, _Validity.of(documents.windows), documents, certificates, {}, {})
        self._collaterals.drop(lambda kept: now > kept.validity.ends)
        self._collaterals.keep(collateral.digest, entry, now=now)
        return entry

    def _keys_of(self, quote: Quote, pck_certificate_chain: bytes | None) -> _Keys:
        """The one asked for last is asked for again at once: to find its collateral, and to be verified with it."""
        keys = self._last_keys
        chain = b"" if quote.certification_data_type == _CARRIES_CHAIN else pck_certificate_chain or b""
        if keys is None or keys.quote is not quote or keys.chain != chain:
            keys = self._last_keys = _Keys(quote, chain)
        return keys


def _verify_platform(
    quote: Quote, chain: PCKChain, base: _Collateral, known: PCKCertificate | None, *, now: datetime, grace: timedelta
) -> tuple[_Platform, PCKCertificate]:
    """Step 4 of `verify_quote`, and 7 e to h: stages 2 and 3."""
    documents = base.documents
    pck = dcap.verify_pck_chain(chain, documents.lists, verified_cas=base.pck_cas, known=known)
    verify_dates(pck.windows, now=now, grace=grace)
    dcap.verify_tcb_info_fits(quote.header.tee_type, pck.document, documents.tcb_info)
    dcap.verify_certification_data(quote, pck.document)
    # Without the certificate, which takes three times the room of what is said of it.
    verified = dcap.certify_platform(chain, pck, platform=pck.document.platform)
    entry = _Platform(base.collateral, _Validity.of(pck.windows).within(base.validity), verified)
    return entry, pck.document


def _verify_evidence(
    quote: Quote, platform: _Platform, base: _Collateral, certified: CertifiedPlatform, *, now: datetime
) -> tuple[EllipticCurvePublicKey, VerifiedQuote]:
    """Step 7 of `verify_quote` from i on: stages 4 and 5."""
    documents = base.documents
    if isinstance(quote.body, TDReport):
        dcap.verify_tdx_module(quote.body, documents.tcb_info)
    dcap.verify_qe_report(quote, certified)
    dcap.verify_attestation_key(quote)
    dcap.verify_qe(quote.qe_report, quote.header.tee_type, documents.qe_identity)
    attestation_key = dcap.parse_attestation_key(quote)
    dcap.verify_quote_signature(quote, attestation_key)
    tcb = _evaluate(quote, platform, base)
    return attestation_key, dcap.establish_facts(quote, platform.verified, documents, tcb, now=now)


def _evaluate(quote: Quote, platform: _Platform, base: _Collateral) -> TCBFacts:
    """Stage 4."""
    certified = platform.verified.platform
    key = (certified.cpu_svn, certified.pce_svn, quote.qe_report.isv_svn, *dcap.tcb_inputs(quote))
    found = base.levels.get(key)
    if found is None:
        found = dcap.evaluate_quote(quote, certified, base.documents.tcb_info, base.documents.qe_identity)
        if len(base.levels) < MAX_LEVELS:
            base.levels[key] = found
    return found


_OF_ONE_OCCASION: Final = ("quote", "verified_at")
_FACTS: Final = tuple(item.name for item in fields(VerifiedQuote) if item.name not in _OF_ONE_OCCASION)
_read_facts: Final[Callable[[VerifiedQuote], tuple[object, ...]]] = attrgetter(*_FACTS)
_fill: Final = filler(VerifiedQuote, (*_OF_ONE_OCCASION, *_FACTS))


def _facts_of(facts: tuple[object, ...], *, quote: Quote, now: datetime) -> VerifiedQuote:
    """Return a whole record of the facts."""
    return _fill((quote, now, *facts))


def at_another_time(verified: VerifiedQuote, *, now: datetime) -> VerifiedQuote:
    """Return the same facts as of `now`: for who knows that every document is valid then as well."""
    return _facts_of(_read_facts(verified), quote=verified.quote, now=now)
