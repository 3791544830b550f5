"""A workload while it runs: it reads its files again, all of them or nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from eaa.errors import Misuse, Reason
from eaa.workload.cli import cli
from support.peers import eventually
from support.relay_sessions import echo_application, metrics_at
from support.system import Running, Site, run, running


def text_of(site: Site, app: str, *more: str, mutual: bool = True) -> str:
    """A workload's configuration file, beside its reference values."""
    lines = [
        *('listen = "tcp://127.0.0.1:0"', 'metrics = "tcp://127.0.0.1:0"', f"mutual = {str(mutual).lower()}"),
        *(f'app = "{app}"', 'attester = "sgx_sim"', f'simulator = "{site.tee}"'),
        *(f'enclave = "{site.image("workload")}"', f'trust-anchor = ["{site.root}"]'),
        *(f'collateral = "{site.collateral}"', 'reference-values = "values.toml"', 'policy = "policy.toml"'),
    ]
    return "\n".join([*lines, *more]) + "\n"


@dataclass
class Here:
    site: Site
    folder: Path
    app: str
    workload: Running
    relay: Running
    metrics: str

    def reload(self, wanted: str) -> str:
        self.workload.process.send_signal(signal.SIGHUP)
        return self.workload.wait_for(f".*{wanted}.*").group()

    def visit(self) -> int:
        return self.site.shelter(self.relay_address, "--no-greeting").code

    relay_address: str = ""


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Here]:
    (tmp_path / "values.toml").write_text(site.values.read_text())
    (tmp_path / "policy.toml").write_text('minimum_binding = "fresh"\n')
    with echo_application() as app:
        (tmp_path / "workload.toml").write_text(text_of(site, app))
        with running("enclave-tls-server", "--config", tmp_path / "workload.toml") as workload:
            address, metrics = workload.wait_for(r"listening on (\S+), (\S+) \(metrics").groups()
            with site.relay(address) as relay:
                found = Here(site=site, folder=tmp_path, app=app, workload=workload, relay=relay, metrics=metrics)
                found.relay_address = relay.address()
                yield found


def test_a_relay_that_is_acceptable_no_more_is_refused_from_then_on(here: Here) -> None:
    """Channels that were kept ready included."""
    eventually(lambda: here.visit() == 0, what="a session")
    values = here.folder / "values.toml"
    values.write_text(here.site.values.read_text().replace(here.site.mr_enclaves["relay"], "00" * 32))
    here.reload("reloaded")
    assert here.visit() != 0
    here.workload.wait_for(Reason.MEASUREMENT_MISMATCH)
    values.write_text(here.site.values.read_text())
    here.reload("reloaded")
    eventually(lambda: here.visit() == 0, what="a session")
    assert metrics_at(here.metrics)['eaa_reloads_total{result="done"}'] == 2


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("values.toml", "this is no TOML", Reason.REFERENCE_VALUES_INVALID),
        ("policy.toml", "unheard_of = 1", Reason.POLICY_INVALID),
        ("workload.toml", None, Reason.CONFIG_INVALID),
        ("workload.toml", 'unheard-of = "1"', Reason.CONFIG_INVALID),
    ],
)
def test_a_bad_file_changes_nothing_at_all(here: Here, name: str, text: str | None, reason: Reason) -> None:
    path = here.folder / name
    path.write_text(text_of(here.site, here.app, mutual=False) if text is None else text)
    assert f"[{reason}]" in here.reload("nothing is reloaded")
    eventually(lambda: here.visit() == 0, what="a session")
    assert metrics_at(here.metrics)['eaa_reloads_total{result="refused"}'] == 1


def test_a_configuration_is_checked_without_a_tee_an_address_or_an_application(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "workload.toml"
    (tmp_path / "values.toml").write_text(site.values.read_text())
    (tmp_path / "policy.toml").write_text('minimum_binding = "fresh"\n')
    lines = text_of(site, "unix:///nowhere").splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith(("attester", "simulator", "enclave"))))
    done = CliRunner().invoke(cli, ["--config", str(config), "--check-config", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.output)["app"] == "unix:///nowhere"
    (tmp_path / "policy.toml").unlink()
    failed = run("enclave-tls-server", "--config", config, "--check-config")
    assert (failed.code, failed.reason) == (2, Reason.FILE_UNREADABLE)


@pytest.mark.parametrize(("wrong", "near"), [("gracee", "grace"), ("max_connection", "max-connections")])
def test_a_misspelled_key_is_told_the_one_that_was_meant(site: Site, tmp_path: Path, wrong: str, near: str) -> None:
    config = tmp_path / "workload.toml"
    config.write_text(text_of(site, "127.0.0.1:1", f"{wrong} = 1"))
    result = CliRunner().invoke(cli, ["--config", str(config), "--check-config"])
    assert isinstance(result.exception, Misuse)
    assert result.exception.reason is Reason.CONFIG_INVALID
    assert near in str(result.exception.hint)
