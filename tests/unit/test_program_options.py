"""Options that programs share: what they open, and what they refuse before anything is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import click
import pytest
from click.testing import CliRunner

from eaa.appraise.policy import Policy
from eaa.appraise.result import BindingLevel, Role
from eaa.attesters import Attester
from eaa.attesters.simulated import SimulatedAttester
from eaa.collateral.intel import TCBStatus
from eaa.errors import EAAError, Misuse, Reason
from eaa.program.options import (
    Attesting,
    Binding,
    Judging,
    attesting_options,
    binding_options,
    default_reference_values,
    judging_options,
    parse_digest,
    reference_engine,
)
from eaa.simulator.platform import Platform
from eaa.verifier import INTEL
from support.facts import reference_value
from support.simulated import NOW, sample_enclave
from support.vectors import vector


def judging(*arguments: str) -> Judging:
    """What a program receives for these arguments."""
    received: list[Judging] = []

    @click.command()
    @judging_options()
    def command(*, judging: Judging) -> None:
        received.append(judging)

    result = CliRunner().invoke(command, arguments)
    if isinstance(result.exception, EAAError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return received[0]


def refused(act: Callable[[], object]) -> Reason:
    with pytest.raises(Misuse) as caught:
        act()
    return caught.value.reason


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(Platform.create(now=NOW).root_pem)
    return path


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "values.toml"
    path.write_text(reference_value().encode())
    return path


@pytest.fixture
def collateral(tmp_path: Path) -> Path:
    path = tmp_path / "collateral.json"
    path.write_bytes(Platform.create(now=NOW).collateral(now=NOW).to_json())
    return path


# --- policy


def test_without_options_the_defaults_are_strict() -> None:
    chosen = judging()
    assert chosen.policy_file(Role.WORKLOAD).for_role(Role.WORKLOAD) == Policy()
    assert chosen.anchors(chosen.policy_file(None)) is INTEL
    assert not chosen.judges_nobody


def test_flags_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('allowed_tcb_statuses = ["OutOfDate"]\nminimum_isv_svn = 1\nminimum_binding = "cert"\n')
    chosen = judging(
        *("--policy", str(path), "--accept-tcb-status", "UpToDate", "--minimum-isv-svn", "5", "--isv-prod-id", "7"),
        *("--collateral-grace", "2", "--minimum-evaluation-number", "9", "--dangerous-accept-debug-enclaves"),
        *("--mr-enclave", "01" * 32, "--mr-signer", "02" * 32, "--mr-signer", "03" * 32),
    ).policy_file(Role.WORKLOAD)
    everybody = Policy(
        allowed_tcb_statuses=(TCBStatus.OUT_OF_DATE, TCBStatus.UP_TO_DATE),
        minimum_isv_svn=1,
        minimum_binding=BindingLevel.CERT,
        collateral_grace=timedelta(hours=2),
        minimum_evaluation_number=9,
        dangerous_accept_debug_enclaves=True,
    )
    assert chosen.for_role(Role.RELAY) == everybody
    workload = chosen.for_role(Role.WORKLOAD)
    assert (workload.isv_prod_id, workload.minimum_isv_svn) == (7, 5)
    assert (workload.mr_enclaves, workload.mr_signers) == ((b"\x01" * 32,), (b"\x02" * 32, b"\x03" * 32))


def test_a_flag_that_is_not_given_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("dangerous_accept_debug_enclaves = true\nisv_prod_id = 3\n")
    policy = judging("--policy", str(path)).policy_file(Role.WORKLOAD).for_role(Role.WORKLOAD)
    assert policy == Policy(dangerous_accept_debug_enclaves=True, isv_prod_id=3)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--accept-tcb-status", "Revoked"),
        ("--accept-tcb-status", "Fine"),
        ("--collateral-grace", "-1"),
        ("--collateral-grace", "1000000"),
        ("--mr-enclave", "xy"),
        ("--mr-signer", "00" * 48),
    ],
)
def test_a_flag_that_cannot_be_is_misuse(arguments: tuple[str, ...]) -> None:
    assert refused(lambda: judging(*arguments)) is Reason.USAGE


# --- trust anchors


def test_a_named_root_stands_in_the_place_of_the_vendor_s(simulated: Path) -> None:
    chosen = judging("--trust-anchor", str(simulated))
    anchors = chosen.anchors(chosen.policy_file(None))
    assert not INTEL.fingerprints & anchors.fingerprints
    assert len(anchors.fingerprints) == 1


def test_a_flag_replaces_the_roots_of_a_policy(tmp_path: Path, simulated: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('trust_anchors = ["root.pem"]\n')
    other = tmp_path / "other.pem"
    other.write_bytes(Platform.create(now=NOW).root_pem)
    of_file = judging("--policy", str(policy))
    of_flag = judging("--policy", str(policy), "--trust-anchor", str(other))
    first, second = (chosen.anchors(chosen.policy_file(None)) for chosen in (of_file, of_flag))
    assert not first.fingerprints & second.fingerprints


def test_kinds_of_roots_are_mixed_only_by_name(simulated: Path) -> None:
    both = ("--trust-anchor", str(simulated), "--trust-anchor", str(vector("certs/intel_sgx_root_ca.pem")))
    chosen = judging(*both)
    assert refused(lambda: chosen.anchors(chosen.policy_file(None))) is Reason.TRUST_ANCHORS_MIXED
    mixed = judging(*both, "--dangerous-mix-trust-anchors")
    assert len(mixed.anchors(mixed.policy_file(None)).fingerprints) == 2


def test_two_simulated_roots_are_of_one_kind(tmp_path: Path, simulated: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Platform.create(now=NOW).root_pem)
    chosen = judging("--trust-anchor", str(simulated), "--trust-anchor", str(other))
    assert len(chosen.anchors(chosen.policy_file(None)).fingerprints) == 2


# --- reference values


def test_the_default_file_may_be_absent_and_a_named_one_may_not(tmp_path: Path) -> None:
    assert not default_reference_values().exists()
    assert tuple(judging().values()) == ()
    assert refused(judging("--reference-values", str(tmp_path / "absent")).values) is Reason.FILE_UNREADABLE


def test_the_default_file_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = default_reference_values()
    path.parent.mkdir()
    path.write_text(reference_value().encode())
    assert [value.name for value in judging().values()] == ["app"]


def test_a_program_without_a_value_for_a_role_does_not_start(values: Path, collateral: Path) -> None:
    chosen = judging("--reference-values", str(values), "--collateral", str(collateral))
    chosen.open(Role.WORKLOAD)
    assert refused(lambda: chosen.open(Role.WORKLOAD, Role.RELAY)) is Reason.NO_VALUE_FOR_ROLE


# --- which verifier


@pytest.mark.parametrize("name", ["sgx_ecdsa", "sgx_ecdsa_qve", ""])
def test_both_names_of_the_reference_are_ours(name: str, collateral: Path) -> None:
    judging("--verifier", name, "--collateral", str(collateral)).open()


@pytest.mark.parametrize("name", ["sgx_la", "tdx_ecdsa", "nullverifiers"])
def test_a_name_that_is_not_implemented_is_never_ignored(name: str) -> None:
    assert refused(judging("--verifier", name).open) is Reason.NOT_IMPLEMENTED_VALUE


def test_judging_nobody_has_to_be_said_twice() -> None:
    once = judging("--verifier", "nullverifier")
    assert refused(once.require_known_verifier) is Reason.USAGE
    twice = judging("--verifier", "nullverifier", "--dangerous-accept-no-evidence")
    twice.require_known_verifier()
    assert twice.judges_nobody
    assert refused(twice.open) is Reason.NOT_IMPLEMENTED_VALUE


@pytest.mark.parametrize(("tls", "crypto"), [(None, None), ("openssl", "openssl"), ("", "")])
def test_the_one_engine_has_the_reference_s_name(tls: str | None, crypto: str | None) -> None:
    reference_engine(tls, crypto)


@pytest.mark.parametrize(("tls", "crypto"), [("nulltls", None), (None, "nullcrypto"), ("OpenSSL", None)])
def test_another_engine_is_refused(tls: str | None, crypto: str | None) -> None:
    assert refused(lambda: reference_engine(tls, crypto)) is Reason.NOT_IMPLEMENTED_VALUE


# --- collateral


def test_collateral_comes_from_one_place(collateral: Path) -> None:
    both = judging("--collateral", str(collateral), "--pccs", "http://127.0.0.1:8081")
    assert refused(both.source) is Reason.USAGE


# --- evidence of one's own


def attesting(*arguments: str) -> Attesting:
    received: list[Attesting] = []

    @click.command()
    @attesting_options(attester_names=("-a", "--attester"), enclave_names=("-e", "--enclave"))
    def command(*, attesting: Attesting) -> None:
        received.append(attesting)

    assert CliRunner().invoke(command, arguments).exit_code == 0
    return received[0]


def test_the_default_attester_is_the_program_s_own() -> None:
    assert attesting() == Attesting(attester=None, simulator=None, enclave=None, sigstruct=None)
    assert attesting().open(default="nullattester") is None
    assert attesting("-a", "nullattester").open(default="sgx_ecdsa") is None


@pytest.mark.parametrize("name", ["sgx_la", "sev_snp", "something"])
def test_an_attester_that_is_not_implemented_is_never_ignored(name: str) -> None:
    assert refused(lambda: attesting("--attester", name).open(default="sgx_ecdsa")) is Reason.NOT_IMPLEMENTED_VALUE


def test_who_a_program_is_depends_on_its_epoch(simulated_attester: Attester) -> None:
    identity = attesting("--epoch", "20").identity(simulated_attester)
    epoch = identity.epoch("workload")
    assert epoch is not None
    assert epoch.not_after - epoch.not_before == timedelta(seconds=24)
    assert identity.collateral() is None


def test_what_a_verifier_keeps_for_a_program_s_platform_goes_with_its_evidence(simulated_attester: Attester) -> None:
    class Keeper:
        """A verifier that has something for one quote."""

        def __init__(self) -> None:
            self.prefetched: list[bytes] = []

        def prefetch_for(self, quote: bytes) -> None:
            self.prefetched.append(quote)

        def collateral_json(self, quote: bytes) -> bytes | None:
            return b"for " + quote

    keeper: Any = Keeper()
    identity = attesting().identity(simulated_attester, stapled_by=keeper)
    quote = identity.credentials().quote
    assert quote is not None
    assert keeper.prefetched == [quote]
    assert identity.collateral() == b"for " + quote
    without = attesting().identity(None, stapled_by=keeper)
    assert without.collateral() is None
    assert keeper.prefetched == [quote]


@pytest.fixture(scope="module")
def simulated_attester() -> Attester:
    return cast("Attester", SimulatedAttester(Platform.create(now=NOW).launch(*sample_enclave())))


# --- binding


def binding(*arguments: str, serves: bool = True) -> Binding | None:
    """What a program receives, None where it refuses the arguments."""
    received: list[Binding] = []

    @click.command()
    @binding_options(serves=serves)
    def command(*, binding: Binding) -> None:
        received.append(binding)

    CliRunner().invoke(command, arguments)
    return received[0] if received else None


def test_everybody_asks_at_level_fresh_and_shows_themselves_at_any_unless_told_otherwise() -> None:
    for serves in (True, False):
        assert binding(serves=serves) == Binding()
    assert Binding() == Binding(
        level=BindingLevel.FRESH, minimum_level=BindingLevel.CERT, maximum_epoch=timedelta(seconds=300)
    )


def test_levels_and_epochs_are_what_was_said() -> None:
    assert binding("--level", "session", "--minimum-level", "fresh", "--maximum-epoch", "60") == Binding(
        level=BindingLevel.SESSION, minimum_level=BindingLevel.FRESH, maximum_epoch=timedelta(seconds=60)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--level", "none"),
        ("--level", "FRESH"),
        ("--minimum-level", "none"),
        ("--maximum-epoch", "0"),
        ("--maximum-epoch", "1000000"),
    ],
)
def test_a_binding_that_cannot_be_is_refused(arguments: tuple[str, ...]) -> None:
    assert binding(*arguments) is None


def test_only_who_serves_may_refuse_a_question() -> None:
    assert binding("--minimum-level", "fresh", serves=False) is None


# --- digests


DIGEST: Final = hashlib.sha256(b"x").hexdigest()


def test_a_digest_is_hex_of_its_size() -> None:
    assert parse_digest("--x", DIGEST.upper()) == bytes.fromhex(DIGEST)
    assert parse_digest("--x", "00" * 64, 64) == bytes(64)


@pytest.mark.parametrize("text", ["", "0", DIGEST[:-2], DIGEST + "00", "g" * 64])
def test_anything_else_is_no_digest(text: str) -> None:
    assert refused(lambda: parse_digest("--x", text)) is Reason.USAGE
