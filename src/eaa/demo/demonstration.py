"""`eaa demo`: real processes on loopback attest a workload end to end, and then four attacks are refused."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace

import click

from eaa.demo.children import Children, Service, workplace
from eaa.demo.script import TAMPERED, TEE, Setting, by_hand, shown
from eaa.errors import Reason, Unavailable
from eaa.program.output import SUCCESS

_CODE = re.compile(r"\[([A-Z_]+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What an attacker tries, and the reason code with which Shelter must refuse it."""

    name: str
    """Of the workload that his relay offers."""
    title: str
    enclave: str | None
    reason: Reason
    exit_code: int
    tee: str = TEE


ATTACKS = (
    Attack(
        name="impostor",
        title="a workload with another measurement",
        enclave="impostor",
        reason=Reason.MEASUREMENT_MISMATCH,
        exit_code=1,
    ),
    Attack(
        name="tampered",
        title="tampered evidence: one bit of the quote's signature is flipped",
        enclave="workload",
        tee=TAMPERED,
        reason=Reason.QUOTE_SIGNATURE,
        exit_code=3,
    ),
    Attack(name="silent", title="a server without evidence", enclave=None, reason=Reason.NO_EVIDENCE, exit_code=1),
    Attack(
        name="posing",
        title="the relay's own evidence presented as the workload's",
        enclave="relay",
        reason=Reason.ROLE_MISMATCH,
        exit_code=1,
    ),
)


@click.command("demo")
@click.option("--print-commands", is_flag=True, help="Print the command lines for doing it by hand, and run nothing.")
def demo_command(*, print_commands: bool) -> int:
    """Attest a workload end to end on this machine, then watch four attacks being refused.

    Starts a software TEE, a PCCS, the workload and the relay as real processes on loopback, and leaves nothing behind.
    Exit code 0 only if all five outcomes are as expected.
    """
    if print_commands:
        _print_commands()
        return 0
    started = time.monotonic()
    with workplace() as children:
        good = _Demonstration(children).run()
    if good:
        _say(
            f"All five outcomes are as expected ({time.monotonic() - started:.1f} s). Nothing was left behind.",
            bold=True,
        )
        return 0
    _say("Not every outcome was as expected.", bold=True)
    return 1


def _print_commands() -> None:
    for title, commands in by_hand():
        click.echo(f"# {title}")
        for command in commands:
            click.echo(shown(command))
        click.echo()


class _Demonstration:
    """The steps, in order. Each says what it does before it does it."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._setting = Setting(pccs="127.0.0.1:0", workload="tcp://127.0.0.1:0", relay="tcp://127.0.0.1:0")

    def run(self) -> bool:
        """Return whether all five outcomes were as expected."""
        self._prepare()
        accepted = self._attest()
        return all([accepted, *self._attacks()])

    def _prepare(self) -> None:
        _say("1. A PCCS, and a software TEE platform with enclave images", bold=True)
        self._do(self._setting.make_token())
        self._do(self._setting.create_platform("workload", "relay", "impostor"))
        pccs = self._start(self._setting.serve_pccs())
        self._setting = replace(self._setting, pccs=self._wait(pccs).removeprefix("http://"))
        _say("2. The platform's collateral goes into the PCCS", bold=True)
        self._do(self._setting.issue_collateral())
        self._do(self._setting.upload_collateral())
        _say("3. The launch measurements are computed from the images and recorded", bold=True)
        self._do(self._setting.measure("workload"))
        self._do(self._setting.record("workload", "workload"))
        self._do(self._setting.record("relay", "relay"))

    def _attest(self) -> bool:
        _say("4. The workload and the relay start, each with evidence of its own", bold=True)
        workload = self._wait(self._start(self._setting.serve_workload()))
        self._setting = replace(self._setting, workload=workload)
        self._setting = replace(self._setting, relay=self._wait(self._start(self._setting.serve_relay())))
        _say("5. Shelter attests both", bold=True)
        code, output = self._show(self._setting.attest())
        return self._outcome(as_expected=code == 0 and SUCCESS in output, expected=SUCCESS)

    def _attacks(self) -> list[bool]:
        _say("6. Now the node belongs to an attacker. His relay takes any workload; Shelter still decides", bold=True)
        relay = self._start(
            replace(self._setting, relay="tcp://127.0.0.1:0").serve_attackers_relay(
                *(attack.name for attack in ATTACKS)
            )
        )
        self._do(self._setting.tamper())
        workloads = [
            self._start(self._setting.serve_attackers_workload(attack.name, attack.enclave, tee=attack.tee))
            for attack in ATTACKS
        ]
        for service in workloads:
            self._wait(service)
        self._setting = replace(self._setting, relay=self._wait(relay))
        return [self._attack(number, attack) for number, attack in enumerate(ATTACKS, 1)]

    def _attack(self, number: int, attack: Attack) -> bool:
        _say(f"Attack {number}: {attack.title}", bold=True)
        code, output = self._show(self._setting.attest(attack.name))
        refused = code == attack.exit_code and attack.reason in _CODE.findall(output)
        return self._outcome(
            as_expected=refused, expected=f"refused with {attack.reason}, exit code {attack.exit_code}"
        )

    def _start(self, command: list[str]) -> Service:
        _command(command)
        return self._children.start(command)

    def _wait(self, service: Service) -> str:
        address = service.wait_until_ready()
        click.echo(f"  {service.name}: listening on {address}")
        return address

    def _do(self, command: list[str]) -> None:
        """Run a step that has to succeed."""
        code, _ = self._show(command)
        if code != 0:
            raise Unavailable(
                Reason.CONNECTION_FAILED,
                f"the step `{shown(command)}` ended with exit code {code}",
                hint="its own message stands above",
            )

    def _show(self, command: list[str]) -> tuple[int, str]:
        _command(command)
        done = self._children.run(command)
        output = done.stdout + done.stderr
        for line in output.splitlines():
            click.echo(f"  {line}")
        return done.returncode, output

    def _outcome(self, *, as_expected: bool, expected: str) -> bool:
        if as_expected:
            _say(f"  as expected: {expected}", color="green")
        else:
            _say(f"  NOT as expected: {expected}", color="red")
        return as_expected


def _command(command: list[str]) -> None:
    click.echo(f"$ {shown(command)}")


def _say(text: str, *, bold: bool = False, color: str | None = None) -> None:
    click.secho(text, bold=bold, fg=color)
