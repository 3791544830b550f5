"""Who a program is on a connection: a TLS key, the evidence for it, the certificate that carries both.

And, for level `session`, a signing key of its own for each epoch, with the evidence for that. Private keys are made
here and never leave memory. Whatever is made here is replaced before it expires; while that fails the old one serves
on, the failure is logged and counted, and it is tried again, each time after a longer pause.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eaa.attesters import Attester
from eaa.errors import EAAError, MalformedInput, Reason, Unavailable
from eaa.evidence.epoch import EpochClaims, encode_session_key, sign_statement
from eaa.evidence.quote import read_report_data
from eaa.evidence.tagged import (
    QUOTE_TAG,
    Endorsements,
    TaggedEvidence,
    binding_claims,
    claims_report_data,
    pubkey_hash_claim,
)
from eaa.tls.certificate import Format, PrivateKey, create_certificate, legacy_report_data

CERTIFICATE_LIFETIME: Final = timedelta(hours=24)
EPOCH_LIFETIME: Final = timedelta(seconds=300)
EPOCH_TOLERANCE: Final = timedelta(seconds=60)
"""How far the beginning of an epoch lies in the past, a fifth of a short one: verifiers' clocks may be behind."""
CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""How far notBefore lies in the past, as rats-tls peers do it."""
RETRY_FIRST: Final = timedelta(seconds=1)
"""How long after a failed renewal the next one is tried; each further failure doubles it."""
RETRY_MOST: Final = timedelta(seconds=60)
MAX_EPOCHS: Final = 16
"""Epochs held at once: one for each role and for each TLS key that is still in use."""
MAX_IDLE: Final = 60.0
"""Seconds after which the renewing thread looks at the clock again, which may have been set."""

LEGACY_KEY_SIZE: Final = 3072
"""Bits of an RSA key: peers of 2021 know no other."""

_CERTIFICATE_SHARE: Final = 0.5
_EPOCH_SHARE: Final = 0.8
"""The share of its life after which something is replaced. What is left of an epoch is for clocks that are ahead."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One key with its certificate. `evidence` is None for a program that has no attester."""

    private_key: PrivateKey
    spki_der: bytes
    certificate: bytes
    """DER."""
    evidence: TaggedEvidence | None
    made: datetime

    @property
    def quote(self) -> bytes | None:
        """The quote that the certificate carries."""
        return None if self.evidence is None else self.evidence.evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A signing key that a quote vouches for, for a few minutes. It is never used for TLS."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    evidence: TaggedEvidence
    """The quote and the claims of the epoch."""
    digest: bytes
    """SHA-256 of the encoded evidence, as signed statements name it."""
    not_before: datetime
    not_after: datetime

    @property
    def quote(self) -> bytes:
        """The quote."""
        return self.evidence.evidence

    @property
    def claims(self) -> bytes:
        """The claims that the quote covers."""
        return self.evidence.claims

    def sign(self, statement: bytes) -> bytes:
        """Return this epoch's signature, 64 bytes, of a statement that `eaa.evidence.epoch` has composed."""
        return sign_statement(self.private_key, statement)


class Identity:
    """The credentials and epochs of one program, and fresh evidence on demand.

    Thread-safe: quoting is slow and serial on real hosts, so one quote is made at a time. Renewal happens when somebody
    asks for what is due, or, between `keep_renewed` and `close`, in a thread of its own, so that nobody waits for it.
    """

    def __init__(
        self,
        attester: Attester | None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        lifetime: timedelta = CERTIFICATE_LIFETIME,
        epoch_lifetime: timedelta = EPOCH_LIFETIME,
        collateral: Callable[[], bytes | None] | None = None,
    ) -> None:
        """Make the first key and certificate.

        Args:
            attester: where quotes come from; None for a program without evidence.
            clock: the present, an aware datetime.
            lifetime: how long a certificate is valid; it is replaced after half of that.
            epoch_lifetime: how long an epoch lasts, whole seconds; it is replaced after four fifths of that.
            collateral: returns at once what is to be stapled to this program's evidence, the JSON form of
                `eaa.collateral.bundle`, or None where there is nothing.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE.
        """
        self._attester = attester
        self._is_immediate = getattr(attester, "is_immediate", False)
        self._clock = clock
        self._lifetime = lifetime
        self._epoch_lifetime = epoch_lifetime
        self._collateral = collateral
        self._quoting = threading.Lock()
        self._guard = threading.Lock()
        self._renewer: _Renewer | None = None
        self._failures_of_the_past = 0
        self._renewals_of_the_past = 0
        self._credentials = _Renewed(
            "certificate", self._make, clock, life=lifetime, replaced_after=lifetime * _CERTIFICATE_SHARE
        )
        self._credentials.get()
        self._epochs: dict[tuple[bytes, str], _Renewed[Epoch]] = {}

    @property
    def has_evidence(self) -> bool:
        """Whether there is an attester behind this identity."""
        return self._attester is not None

    def now(self) -> datetime:
        """Return the present as this identity's clock has it."""
        return self._clock()

    @property
    def renewal_failures(self) -> int:
        """How often a renewal has failed so far."""
        return sum(renewed.failures for renewed in self._all()) + self._failures_of_the_past

    @property
    def renewals(self) -> int:
        """How often something was renewed so far; what was made first is not counted."""
        return sum(renewed.renewals for renewed in self._all()) + self._renewals_of_the_past

    @property
    def made(self) -> datetime:
        """When the current certificate was made, and the evidence in it."""
        return self._credentials.made

    @property
    def next_renewal(self) -> datetime:
        """When the next renewal, or the next attempt after a failure, is due."""
        return min(renewed.due for renewed in self._all())

    @property
    def expires(self) -> datetime:
        """When the current certificate ends."""
        return self._credentials.expires

    def credentials(self) -> Credentials:
        """Return the current credentials, making new ones when half of their life is over.

        Where the platform does not quote just then, or another caller is waiting for its quote, the current ones serve
        on until they expire.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE, and the current ones have expired.
        """
        return self._credentials.get()

    def credentials_at_hand(self) -> Credentials | None:
        """Return the current credentials if nothing has to be made for that, None where it would take a quote."""
        return self._credentials.at_hand(even_if_due=self._renewer is not None)

    def quote(self, report_data: bytes) -> bytes | None:
        """Return a quote over these 64 bytes, or None where there is no attester.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE when the platform does not answer, or answers for other report data.
        """
        if self._attester is None:
            return None
        with self._quoting:
            quote = _ask(self._attester, report_data)
        return _checked(quote, report_data)

    def quote_at_hand(self, report_data: bytes) -> bytes | None:
        """Return what `quote` would where a quote is but a computation, None where a platform has to be waited for.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE, as `quote`.
        """
        if self._attester is None or not self._is_immediate or not self._quoting.acquire(blocking=False):
            return None
        try:
            quote = _ask(self._attester, report_data)
        finally:
            self._quoting.release()
        return _checked(quote, report_data)

    def epoch(self, role: str, credentials: Credentials | None = None) -> Epoch | None:
        """Return the current epoch of a TLS key in a role, quoting once for all sessions of its life.

        Args:
            role: `relay`, `workload` or `client`, which stands in the epoch's claims.
            credentials: whose TLS key the session has; the current ones where it is left out.

        Returns:
            The epoch, or None where there is no attester.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE, and there is none that is not over.
        """
        return None if self._attester is None else self._epoch_of(role, credentials or self.credentials()).get()

    def epoch_at_hand(self, role: str, credentials: Credentials) -> Epoch | None:
        """Return what `epoch` would if nothing has to be made for that, None where it would take a quote."""
        found = self._epochs.get((credentials.spki_der, role))
        return None if found is None else found.at_hand(even_if_due=self._renewer is not None)

    def collateral(self) -> bytes | None:
        """Return what is to be stapled to this program's evidence, if there is anything. Returns at once."""
        return None if self._collateral is None else self._collateral()

    def keep_renewed(self) -> None:
        """Start a thread that renews what is due until `close`, so that no connection waits for a renewal."""
        with self._guard:
            if self._renewer is None and self._attester is not None:
                self._renewer = _Renewer(self)

    def close(self) -> None:
        """Stop that thread, without waiting for a quote that it may be waiting for."""
        with self._guard:
            renewer, self._renewer = self._renewer, None
        if renewer is not None:
            renewer.stop()

    def renew_due(self) -> None:
        """Renew what is due, as far as that succeeds; epochs that nobody has used since their quote are let go."""
        self._credentials.renew_if_due()
        with self._guard:
            epochs = list(self._epochs.items())
        for key, epoch in epochs:
            if epoch.is_due and epoch.is_unwanted:
                self._drop(key)
            else:
                epoch.renew_if_due()

    def seconds_until_renewal(self) -> float:
        """Return how long nothing is due, 0 where something is."""
        return max(0.0, (self.next_renewal - self._clock()).total_seconds())

    def _all(self) -> list[_Renewed[Credentials] | _Renewed[Epoch]]:
        with self._guard:
            return [self._credentials, *self._epochs.values()]

    def _epoch_of(self, role: str, credentials: Credentials) -> _Renewed[Epoch]:
        key = (credentials.spki_der, role)
        with self._guard:
            found = self._epochs.get(key)
            if found is None:
                if self._renewer is not None:
                    self._renewer.wake()
                while len(self._epochs) >= MAX_EPOCHS:
                    self._forget(next(iter(self._epochs)))
                found = self._epochs[key] = _Renewed(
                    f"epoch of role {role}",
                    lambda now: self._make_epoch(role, credentials.spki_der, now),
                    self._clock,
                    life=self._epoch_lifetime,
                    replaced_after=self._epoch_lifetime * _EPOCH_SHARE,
                )
        return found

    def _drop(self, key: tuple[bytes, str]) -> None:
        with self._guard:
            self._forget(key)

    def _forget(self, key: tuple[bytes, str]) -> None:
        gone = self._epochs.pop(key, None)
        if gone is not None:
            self._failures_of_the_past += gone.failures
            self._renewals_of_the_past += gone.renewals

    def _make(self, now: datetime) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        tagged = self._tagged(spki)
        certificate = create_certificate(
            key, evidence=tagged, not_before=now - CLOCK_TOLERANCE, not_after=now + self._lifetime
        )
        return Credentials(private_key=key, spki_der=spki, certificate=certificate, evidence=tagged, made=now)

    def _tagged(self, spki_der: bytes) -> TaggedEvidence | None:
        """Return evidence for a TLS key, as certificates carry it."""
        claims = binding_claims(spki_der)
        quote = self.quote(claims_report_data(claims))
        return None if quote is None else TaggedEvidence(tag=QUOTE_TAG, evidence=quote, claims=claims)

    def _make_epoch(self, role: str, spki_der: bytes, now: datetime) -> Epoch:
        key = ec.generate_private_key(ec.SECP256R1())
        # In all less than twice its life, which is what a verifier takes that lets epochs last as long.
        begin, end = now - min(EPOCH_TOLERANCE, self._epoch_lifetime / 5), now + self._epoch_lifetime
        claims = EpochClaims(
            pubkey_hash=pubkey_hash_claim(spki_der),
            session_key=encode_session_key(key.public_key()),
            role=role.encode(),
            not_before=int(begin.timestamp()),
            not_after=int(end.timestamp()),
        ).encode()
        quote = self.quote(claims_report_data(claims))
        assert quote is not None
        evidence = TaggedEvidence(tag=QUOTE_TAG, evidence=quote, claims=claims)
        digest = hashlib.sha256(evidence.encode()).digest()
        return Epoch(private_key=key, evidence=evidence, digest=digest, not_before=begin, not_after=end)


class _Renewed(Generic[_T]):
    """Something with a life, replaced before its end."""

    def __init__(
        self,
        what: str,
        make: Callable[[datetime], _T],
        clock: Callable[[], datetime],
        *,
        life: timedelta,
        replaced_after: timedelta,
    ) -> None:
        self._what = what
        self._make = make
        self._clock = clock
        self._life = life
        self._replaced_after = replaced_after
        self._making = threading.Lock()
        self._value: _T | None = None
        self.expires = self.due = self.made = clock()
        self._in_a_row = 0
        self._why = ""
        self.failures = 0
        """How often making it has failed."""
        self.renewals = 0
        """How often it was replaced."""
        self.used = False
        """Whether anybody has asked for it since it was made."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to make the next one, or to try that again."""
        return self._clock() >= self.due

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody has asked for it since it was made, or tried to be; whoever made it first still waits."""
        return not self.used and (self._value is not None or self.failures > 0)

    def get(self) -> _T:
        """Return it, renewed if that is due and nobody else does it already. Raises EAAError where it has expired."""
        now, value = self._clock(), self._value
        # Both: while renewing fails after its end, it has expired and the next attempt is not due yet.
        if value is not None and now < min(self.due, self.expires):
            self.used = True
            return value
        expired = value is None or now >= self.expires
        if self._making.acquire(blocking=expired):
            try:
                # Another caller may have been quicker.
                if self.is_due:
                    self._renew()
            finally:
                self._making.release()
        value = self._value
        if value is None or self._clock() >= self.expires:
            raise Unavailable(
                Reason.QUOTE_UNAVAILABLE,
                f"there is no {self._what}, and making one has failed {self._in_a_row} times in a row: {self._why}",
                hint="check the platform's quoting service; it is tried again by itself",
            )
        self.used = True
        return value

    def at_hand(self, *, even_if_due: bool) -> _T | None:
        """Return it where it has not expired and, unless that does not matter, is not due either."""
        now = self._clock()
        if now >= (self.expires if even_if_due else min(self.due, self.expires)):
            return None
        self.used = True
        return self._value

    def renew_if_due(self) -> None:
        """Renew it where that is due. A failure is logged and counted, and raised nowhere."""
        with self._making:
            if self.is_due:
                try:
                    self._renew()
                except EAAError:
                    return

    def _renew(self) -> None:
        """Make the next one. Raises EAAError where there is none that could serve on."""
        now = self._clock()
        try:
            value = self._make(now)
        except EAAError as error:
            self._put_off(now, error)
            if self._value is None or now >= self.expires:
                raise
            return
        if self._in_a_row:
            logger.info(
                "the %s was renewed, after %d failures",
                self._what,
                self._in_a_row,
                extra={"event": "evidence.renewed"},
            )
        self.renewals += self._value is not None
        self._value, self._in_a_row, self.used = value, 0, False
        self.made, self.expires, self.due = now, now + self._life, now + self._replaced_after

    def _put_off(self, now: datetime, error: EAAError) -> None:
        self.failures += 1
        self._in_a_row += 1
        self._why = error.message
        # Capped before it is doubled: some failures in a row would be more than a timedelta holds.
        pause = min(RETRY_FIRST * 2 ** min(self._in_a_row - 1, 16), RETRY_MOST)
        self.due = now + pause
        if now < self.expires:
            self.due = min(self.due, self.expires)
        logger.warning(
            "the %s could not be renewed and is tried again in %.0f s: %s [%s]",
            self._what,
            (self.due - now).total_seconds(),
            error.message,
            error.reason,
            extra={"event": "evidence.renewal_failed"},
        )


class _Renewer:
    """The thread that renews what is due."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._stopped = False
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="renewal", daemon=True).start()

    def wake(self) -> None:
        """Look again at what is due when."""
        self._wake.set()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._identity.renew_due()
                pause = self._identity.seconds_until_renewal()
            except Exception:
                # A bug of ours must not leave a service without renewal.
                logger.exception("renewal failed [%s]", Reason.INTERNAL)
                pause = RETRY_MOST.total_seconds()
            self._wake.wait(min(pause, MAX_IDLE))
            self._wake.clear()


def _ask(attester: Attester, report_data: bytes) -> bytes:
    """Return what an attester answers. Whatever goes wrong in it, which may be anybody's code, is a quote less."""
    try:
        return attester.quote(report_data)
    except EAAError:
        raise
    except Exception as error:
        logger.debug("the attester %s failed", attester.name, exc_info=True)
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            f"the attester {attester.name} failed: {type(error).__name__}: {error}",
            hint="check the platform's quoting service; an attester should raise Unavailable",
        ) from error


def _checked(quote: bytes, report_data: bytes) -> bytes:
    """Refuse a stale or foreign quote: some drivers drop a request silently and serve the one before."""
    try:
        quoted = read_report_data(quote)
    except MalformedInput as error:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            f"the attester returned something that is no quote: {error.message}",
            hint="check the platform's quoting service",
        ) from error
    if quoted != report_data:
        raise Unavailable(
            Reason.QUOTE_UNAVAILABLE,
            "the attester returned a quote for other report data than it was asked for",
            hint="another process may be using the same quoting interface; try again",
        )
    return quote


class LegacyIdentity(Identity):
    """The credentials of a program towards C peers: an RSA key, and one certificate for both of their generations.

    C programs cannot say which generation they are of before they have the certificate. So it carries two quotes: the
    tagged one, which rats-tls reads, and the one over the PKCS#1 key, which enclave-tls of 2021 reads. Asked for a
    single format, it carries that alone, for a P-256 key where the format can have one.
    """

    def __init__(
        self,
        attester: Attester | None,
        *,
        format: Format | None = None,  # noqa: A002  the word of everybody who asks
        endorse: Callable[[bytes], Endorsements | None] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Make the first key and certificate; an RSA key takes a second or two.

        Args:
            attester: where quotes come from; None for a program without evidence.
            format: the one format of the certificate; None for one that both generations read.
            endorse: returns the endorsements to carry along with a quote, or None; may take long.
            clock: the present, an aware datetime.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE.
        """
        self._format = format
        self._endorse = endorse
        self._shown: bytes | None = None
        super().__init__(attester, clock=clock)

    def _make(self, now: datetime) -> Credentials:
        key: PrivateKey
        if self._format in (None, Format.ENCLAVE_TLS_V1):
            key = rsa.generate_private_key(public_exponent=65537, key_size=LEGACY_KEY_SIZE)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        tagged = None if self._is_old else self._tagged(spki)
        old = None if self._format is Format.INTEROPERABLE else self._legacy_quote(spki)
        endorsements = self._endorse(tagged.evidence) if tagged and self._endorse else None
        certificate = create_certificate(
            key,
            evidence=old if self._is_old else tagged,
            not_before=now - CLOCK_TOLERANCE,
            not_after=now + self._lifetime,
            endorsements=endorsements,
            format=self._format or Format.INTEROPERABLE,
            legacy_quote=None if self._is_old else old,
        )
        self._shown = tagged.evidence if tagged else old
        return Credentials(private_key=key, spki_der=spki, certificate=certificate, evidence=tagged, made=now)

    @property
    def shown_quote(self) -> bytes | None:
        """The quote that the latest certificate carries; one of the two where it carries both."""
        return self._shown

    @property
    def _is_old(self) -> bool:
        return self._format not in (None, Format.INTEROPERABLE)

    def _legacy_quote(self, spki_der: bytes) -> bytes | None:
        return self.quote(legacy_report_data(spki_der, format=self._format or Format.ENCLAVE_TLS_V1))
