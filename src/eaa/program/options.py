"""Options that several programs share, each written once: what to accept, and what to show."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from eaa.appraise.platforms import PlatformID
from eaa.appraise.policy import PolicyFile, TCBStatus, parse_grace, parse_statuses
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester, open_attester
from eaa.errors import Misuse, Reason
from eaa.program.files import config_home, read_text, read_text_if_there, read_trust_anchor
from eaa.program.floor import FloorFile
from eaa.program.pins import PinFile
from eaa.program.run import say
from eaa.sources import CollateralSource, open_source
from eaa.verifier import INTEL, TrustAnchors, Verifier, wall_clock

if TYPE_CHECKING:
    from eaa.identity import Identity

F = TypeVar("F", bound=Callable[..., Any])

IN_PROCESS_VERIFIERS: Final = ("sgx_ecdsa", "sgx_ecdsa_qve")
"""Both reference names are answered by our own verifier: no vendor library is needed."""
NULL_VERIFIER: Final = "nullverifier"
NULL_ATTESTER: Final = "nullattester"
_OFFERED_LEVELS: Final = (BindingLevel.CERT, BindingLevel.SESSION, BindingLevel.FRESH)
DEFAULT_EPOCH: Final = timedelta(seconds=300)
_EPOCHS: Final = click.IntRange(10, 3600)
"""Seconds of an epoch: a quote takes some, and a key that lives for hours may as well be a certificate's."""


@contextlib.contextmanager
def _naming_file(path: Path | None) -> Iterator[None]:
    """Say in which file something is wrong: there may be one for each workload."""
    try:
        yield
    except Misuse as error:
        raise Misuse(error.reason, f"{path}: {error.message}", hint=error.hint) from error


def default_reference_values() -> Path:
    """Return where `shelter record` keeps reference values unless told otherwise."""
    return config_home() / "reference-values.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How closely evidence is bound to the session in which it is shown, from the command line."""

    level: BindingLevel = BindingLevel.FRESH
    """What is asked of peers."""
    minimum_level: BindingLevel = BindingLevel.CERT
    """The weakest level at which this program shows its own evidence."""
    maximum_epoch: timedelta = DEFAULT_EPOCH
    """How long a peer's epoch may last."""


def binding_options(*, serves: bool) -> Callable[[F], F]:
    """Return a decorator that adds the options of a program that has sessions; it receives them as `binding`.

    Args:
        serves: whether it answers strangers' questions, and so may refuse weak ones.
    """
    levels = click.Choice([level.label for level in _OFFERED_LEVELS])
    options = [
        click.option(
            "--level",
            type=levels,
            default=BindingLevel.FRESH.label,
            show_default=True,
            help="The binding to ask of a peer: evidence of its TLS key, of a key that signs this session, or made "
            "for this very session.",
        ),
        click.option(
            "--maximum-epoch",
            type=_EPOCHS,
            default=int(DEFAULT_EPOCH.total_seconds()),
            show_default=True,
            metavar="SECONDS",
            help="At level session, how long a peer's signing key may live; one of more than twice that is refused.",
        ),
    ]
    if serves:
        options.append(
            click.option(
                "--minimum-level",
                type=levels,
                default=BindingLevel.CERT.label,
                show_default=True,
                help="Show this program's own evidence at this binding or a stronger one, and refuse weaker questions. "
                "Above cert, a client that asks for none is refused as well.",
            )
        )

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_binding(*args: Any, **kwargs: Any) -> Any:
            minimum = kwargs.pop("minimum_level", BindingLevel.CERT.label)
            binding = Binding(
                level=BindingLevel.from_label(kwargs.pop("level")),
                minimum_level=BindingLevel.from_label(minimum),
                maximum_epoch=timedelta(seconds=kwargs.pop("maximum_epoch")),
            )
            return function(*args, binding=binding, **kwargs)

        wrapped: Any = with_binding
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


def not_implemented(option: str, value: str, offered: str) -> Misuse:
    """Return the refusal of a reference value of an option that we do not implement: never ignored."""
    return Misuse(
        Reason.NOT_IMPLEMENTED_VALUE, f"{option} {value} is not implemented", hint=f"{option} takes {offered}"
    )


def reference_engine(tls: str | None, crypto: str | None) -> None:
    """Accept the reference names of the one engine we have, refuse every other. Raises Misuse."""
    for option, value in (("--tls", tls), ("--crypto", crypto)):
        if value not in (None, "", "openssl"):
            raise not_implemented(option, str(value), "openssl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """How this program judges its peers, from the command line."""

    verifier: str | None
    dangerous_accept_no_evidence: bool
    reference_values: Path | None
    policy: Path | None
    trust_anchors: tuple[Path, ...]
    dangerous_mix_trust_anchors: bool
    pccs: str | None
    pccs_ca: Path | None
    collateral: Path | None
    evaluation_floor: Path | None
    pin_platforms: Path | None
    also_accept: tuple[TCBStatus, ...]
    all_roles: dict[str, Any]
    judged_role: dict[str, Any]
    accept_stapled_collateral: bool = False
    """Whether a peer's own collateral may serve where no PCCS does, and there is nothing to compare it with."""

    @property
    def judges_nobody(self) -> bool:
        """Whether the operator has chosen, loudly, to take peers as they come."""
        return self.verifier == NULL_VERIFIER

    def require_known_verifier(self) -> None:
        """Raise Misuse for a verifier that is not implemented or whose danger was not named."""
        if self.verifier in (None, "", *IN_PROCESS_VERIFIERS):
            return
        if self.verifier != NULL_VERIFIER:
            raise not_implemented("--verifier", str(self.verifier), ", ".join(IN_PROCESS_VERIFIERS))
        if not self.dangerous_accept_no_evidence:
            raise Misuse(
                Reason.USAGE,
                "--verifier nullverifier accepts every peer, with or without evidence",
                hint="if that is really wanted, say --dangerous-accept-no-evidence as well",
            )

    def policy_file(self, role: Role | None) -> PolicyFile:
        """Return the policy file with the flags laid over it; identity flags apply to the judged role only."""
        text = None if self.policy is None else read_text(self.policy, what="the policy file")
        with _naming_file(self.policy):
            policy = PolicyFile() if text is None else PolicyFile.parse(text)
        policy = policy.also_accept(self.also_accept).override(self.all_roles)
        return policy.override(self.judged_role, roles=(role,)) if role else policy

    def anchors(self, policy: PolicyFile) -> TrustAnchors:
        """Return the trust anchors: Intel's, unless others are named. Raises Misuse where kinds are mixed."""
        base = self.policy.parent if self.policy else Path()
        paths = self.trust_anchors or tuple(base / path for path in policy.trust_anchors)
        if not paths:
            return INTEL
        fingerprints = frozenset(read_trust_anchor(path) for path in paths)
        kinds = {INTEL.is_vendor(fingerprint) for fingerprint in fingerprints}
        if len(kinds) > 1 and not (self.dangerous_mix_trust_anchors or policy.dangerous_mix_trust_anchors):
            raise Misuse(
                Reason.TRUST_ANCHORS_MIXED,
                "the trust anchors name a vendor's root and another one: simulated evidence would pass for real",
                hint="judge them apart, or say --dangerous-mix-trust-anchors",
            )
        return TrustAnchors(fingerprints)

    def values(self) -> ReferenceValues:
        """Return the recorded values; a default file that is not there holds none, a named one must be there."""
        path = self.reference_values or default_reference_values()
        read = read_text_if_there if self.reference_values is None else read_text
        text = read(path, what="the reference-value file") or ""
        with _naming_file(path):
            return ReferenceValues.parse(text)

    @property
    def names_a_source(self) -> bool:
        """Whether the operator has said where collateral comes from."""
        return self.pccs is not None or self.collateral is not None

    @property
    def idle_options(self) -> tuple[str, ...]:
        """The options that were given and mean nothing to a program that judges nobody."""
        given = {
            "--reference-values": self.reference_values,
            "--policy": self.policy,
            "--evaluation-floor": self.evaluation_floor,
            "--pin-platforms": self.pin_platforms,
            "--accept-stapled-collateral": self.accept_stapled_collateral,
            "those that say what is accepted": self.also_accept
            or any(value is not None for value in (*self.all_roles.values(), *self.judged_role.values())),
        }
        return tuple(name for name, value in given.items() if value)

    def stapler(self) -> Verifier:
        """Return who keeps the collateral of this program's own platform where it judges nobody."""
        return Verifier(self.source(), trust_anchors=self.anchors(self.policy_file(None)))

    def source(self, clock: Callable[[], datetime] = wall_clock) -> CollateralSource:
        """Return where collateral comes from: a file, a named PCCS, or the one of sgx_default_qcnl.conf."""
        return open_source(pccs=self.pccs, ca_file=self.pccs_ca, file=self.collateral, environ=os.environ, clock=clock)

    def floor(self) -> FloorFile | None:
        """Return who remembers evaluation numbers, if that was asked for. Raises Misuse."""
        return None if self.evaluation_floor is None else FloorFile(self.evaluation_floor)

    def pins(self) -> PinFile | None:
        """Return who remembers machines, if that was asked for. Raises Misuse."""
        return None if self.pin_platforms is None else PinFile(self.pin_platforms, warn=_warning())

    def open(
        self,
        *roles: Role,
        flags_for: Role | None = None,
        values: ReferenceValues | None = None,
        clock: Callable[[], datetime] = wall_clock,
        level: BindingLevel | None = None,
    ) -> Verifier:
        """Return the verifier, refusing to start where nobody of a role that must be judged could be accepted.

        `values` are taken in place of the file's, by a command that is about to write that file. `level` is what peers
        are asked for, where there is a session.
        """
        self.require_known_verifier()
        if self.judges_nobody:
            raise not_implemented(
                "--verifier", NULL_VERIFIER, f"{', '.join(IN_PROCESS_VERIFIERS)} where something is verified"
            )
        policy = self.policy_file(flags_for)
        verifier = Verifier(
            self.source(clock),
            trust_anchors=self.anchors(policy),
            policy=policy,
            reference_values=self.values() if values is None else values,
            clock=clock,
            floor=self.floor(),
            pins=self.pins(),
            accept_stapled_collateral=self.accept_stapled_collateral,
        )
        for role in roles:
            verifier.require_values_for(role)
            if level is not None:
                verifier.require_level_for(role, level)
        return verifier


def _warning() -> Callable[[str], None]:
    """Return what says something on stderr in this program's name, from any thread and whatever its log level."""
    context = click.get_current_context(silent=True)
    program = (context.find_root().info_name if context else None) or "eaa"
    return functools.partial(say, program, kind="warning")


def judging_options(*, verifier_names: tuple[str, ...] = ("--verifier",), of_peers: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds the options of a program that judges; it receives them as `judging`.

    Args:
        verifier_names: of the option that names a verifier.
        of_peers: whether it judges the other end of a session, who may bring collateral along.
    """
    stapled = [_STAPLED] if of_peers else []

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_judging(*args: Any, **kwargs: Any) -> Any:
            return function(*args, judging=_take_judging(kwargs), **kwargs)

        wrapped: Any = with_judging
        for option in reversed([*_trusting(verifier_names), *stapled, *_accepting(), *_naming(), *_endangering()]):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


_STAPLED: Final = click.option(
    "--accept-stapled-collateral",
    is_flag=True,
    help="Where no PCCS can be reached, judge by the collateral that a peer brings along: signed by the vendor and "
    "within its dates, and perhaps not the newest.",
)


def _trusting(verifier_names: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    """What evidence is verified and compared with."""
    existing = click.Path(path_type=Path)
    return [
        click.option(
            *verifier_names,
            "verifier",
            metavar="NAME",
            help="sgx_ecdsa or sgx_ecdsa_qve; both are our own in-process verifier.",
        ),
        click.option(
            "--reference-values",
            type=existing,
            metavar="FILE",
            help="Expected measurements (TOML). Default: reference-values.toml in the user's eaa config folder.",
        ),
        click.option("--policy", type=existing, metavar="FILE", help="Appraisal policy (TOML). Default: strict."),
        click.option(
            "--trust-anchor",
            "trust_anchors",
            type=existing,
            multiple=True,
            metavar="FILE",
            help="A root certificate (PEM) to trust in place of Intel's, a simulator's root.pem for instance.",
        ),
        click.option("--pccs", metavar="URL", help="Where collateral comes from. Default: sgx_default_qcnl.conf."),
        click.option("--pccs-ca", type=existing, metavar="FILE", help="The CA (PEM) of that PCCS's TLS certificate."),
        click.option("--collateral", type=existing, metavar="FILE", help="Take collateral from this file instead."),
    ]


def _accepting() -> list[Callable[[Any], Any]]:
    """Which platforms, documents and sessions are good enough."""
    return [
        click.option(
            "--accept-tcb-status",
            multiple=True,
            metavar="STATUS",
            help="Accept this TCB status too, in Intel's spelling; repeat for more. Default: UpToDate only.",
        ),
        click.option(
            "--minimum-evaluation-number",
            type=click.IntRange(0, 10_000),
            metavar="N",
            help="The lowest tcbEvaluationDataNumber of collateral.",
        ),
        click.option(
            "--evaluation-floor",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Remember the highest tcbEvaluationDataNumber in this file, and refuse lower ones from then on.",
        ),
        click.option(
            "--collateral-grace",
            type=int,
            metavar="HOURS",
            help="Accept collateral this long past its nextUpdate. Default: 0.",
        ),
        click.option(
            "--minimum-binding",
            type=click.Choice([level.label for level in _OFFERED_LEVELS]),
            help="The weakest binding of evidence to its session that is accepted. Default: fresh.",
        ),
    ]


def _naming() -> list[Callable[[Any], Any]]:
    """Which machine it has to be, and which code."""
    return [
        click.option(
            "--pin-platforms",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Remember in this file on which machine a reference value was first accepted, and refuse others.",
        ),
        click.option(
            "--platform",
            "platforms",
            multiple=True,
            metavar="ID",
            help="Accept this machine only: ppid:HEX or instance:HEX; repeat for more.",
        ),
        click.option("--mr-enclave", "mr_enclaves", multiple=True, metavar="HEX", help="Accept this MRENCLAVE only."),
        click.option("--mr-signer", "mr_signers", multiple=True, metavar="HEX", help="Accept this MRSIGNER only."),
        click.option("--mr-td", "mr_tds", multiple=True, metavar="HEX", help="Accept this MRTD only."),
        click.option("--isv-prod-id", type=click.IntRange(0, 0xFFFF), metavar="N", help="Accept this product only."),
        click.option("--minimum-isv-svn", type=click.IntRange(0, 0xFFFF), metavar="N", help="The lowest ISVSVN."),
    ]


def _endangering() -> list[Callable[[Any], Any]]:
    """What nobody should need outside a laboratory."""
    return [
        click.option(
            "--dangerous-accept-debug-enclaves",
            is_flag=True,
            help="Accept enclaves whose memory their host can read.",
        ),
        click.option("--dangerous-mix-trust-anchors", is_flag=True, help="Trust a vendor's root and others at once."),
        click.option(
            "--dangerous-accept-no-evidence",
            is_flag=True,
            help="Needed for --verifier nullverifier, which judges nobody.",
        ),
    ]


def _take_judging(kwargs: dict[str, Any]) -> Judging:
    statuses = kwargs.pop("accept_tcb_status")
    grace = kwargs.pop("collateral_grace")
    level = kwargs.pop("minimum_binding")
    debug = kwargs.pop("dangerous_accept_debug_enclaves")
    try:
        also = parse_statuses(statuses)
        machines = tuple(PlatformID.parse(text) for text in kwargs.pop("platforms"))
        all_roles = {
            "minimum_evaluation_number": kwargs.pop("minimum_evaluation_number"),
            "collateral_grace": None if grace is None else parse_grace(grace),
            "minimum_binding": None if level is None else BindingLevel.from_label(level),
            "dangerous_accept_debug_enclaves": True if debug else None,
        }
    except ValueError as error:
        raise Misuse(Reason.USAGE, str(error)) from error
    judged_role = {
        "platforms": machines or None,
        "mr_enclaves": _digests("--mr-enclave", kwargs.pop("mr_enclaves")),
        "mr_signers": _digests("--mr-signer", kwargs.pop("mr_signers")),
        "mr_tds": _digests("--mr-td", kwargs.pop("mr_tds"), 48),
        "isv_prod_id": kwargs.pop("isv_prod_id"),
        "minimum_isv_svn": kwargs.pop("minimum_isv_svn"),
    }
    own = {name: kwargs.pop(name) for name in Judging.__dataclass_fields__ if name in kwargs}
    return Judging(also_accept=also, all_roles=all_roles, judged_role=judged_role, **own)


def _digests(option: str, texts: tuple[str, ...], size: int = 32) -> tuple[bytes, ...] | None:
    return tuple(parse_digest(option, text, size) for text in texts) or None


def parse_digest(option: str, text: str, size: int = 32) -> bytes:
    """Return the bytes of a hex digest given as an option. Raises Misuse."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != size:
        raise Misuse(Reason.USAGE, f"{option} takes {2 * size} hex digits, {text!r} is something else")
    return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Attesting:
    """Where this program's own evidence comes from, from the command line."""

    attester: str | None
    simulator: Path | None
    enclave: Path | None
    sigstruct: Path | None
    epoch: int = int(DEFAULT_EPOCH.total_seconds())
    """Seconds for which one quote serves level `session`."""

    def identity(self, attester: Attester | None, *, stapled_by: Verifier | None = None) -> Identity:
        """Return who this program is; what `stapled_by` keeps for its platform goes with its evidence.

        Raises:
            Unavailable: QUOTE_UNAVAILABLE.
        """
        from eaa.identity import Identity  # noqa: PLC0415  what judges files has no identity

        own_quote: list[bytes] = []

        def collateral() -> bytes | None:
            return stapled_by.collateral_json(own_quote[0]) if stapled_by and own_quote else None

        identity = Identity(attester, epoch_lifetime=timedelta(seconds=self.epoch), collateral=collateral)
        quote = identity.credentials().quote
        if stapled_by is not None and quote is not None:
            own_quote.append(quote)
            stapled_by.prefetch_for(quote)
        return identity

    def check(self) -> None:
        """Open a software TEE, which is files like all others; a real one need not be where options are checked.

        Raises:
            Misuse: it cannot be read.
        """
        if self.attester not in (None, "", NULL_ATTESTER) and self.simulator:
            self.open(default="sgx_ecdsa")

    def open(self, *, default: str) -> Attester | None:
        """Return the attester; None for nullattester. Raises Misuse or Unavailable (TEE_NOT_FOUND)."""
        return open_attester(
            self.attester or default, simulator=self.simulator, enclave=self.enclave, sigstruct=self.sigstruct
        )


def attesting_options(
    *, attester_names: tuple[str, ...] = ("--attester",), enclave_names: tuple[str, ...] = ("--enclave",)
) -> Callable[[F], F]:
    """Return a decorator that adds the options of a program that is attested; it receives them as `attesting`."""
    path = click.Path(path_type=Path)
    options = [
        click.option(
            *attester_names,
            "attester",
            metavar="NAME",
            help="sgx_ecdsa (the TEE this process runs in), sgx_sim (a software TEE) or nullattester (no evidence).",
        ),
        click.option("--simulator", type=path, metavar="DIR", help="The software TEE's folder, for sgx_sim."),
        click.option(*enclave_names, "enclave", type=path, metavar="IMAGE", help="The enclave image to launch in it."),
        click.option(
            "--sigstruct", type=path, metavar="FILE", help="That image's SIGSTRUCT. Default: IMAGE with .sigstruct."
        ),
        click.option(
            "--epoch",
            type=_EPOCHS,
            default=int(DEFAULT_EPOCH.total_seconds()),
            show_default=True,
            metavar="SECONDS",
            help="For peers that ask at level session: how long one quote serves.",
        ),
    ]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def with_attesting(*args: Any, **kwargs: Any) -> Any:
            own = {name: kwargs.pop(name) for name in Attesting.__dataclass_fields__}
            return function(*args, attesting=Attesting(**own), **kwargs)

        wrapped: Any = with_attesting
        for option in reversed(options):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate
