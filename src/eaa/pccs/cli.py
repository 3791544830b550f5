"""eaa-pccs: a provisioning certificate caching service, and what its operators do with one."""

from __future__ import annotations

from typing import Final

import click

from eaa import __version__
from eaa.program.lazy import LazyGroup
from eaa.program.run import run

COMMANDS: Final = {
    "serve": ("eaa.pccs.serving:serve", "Serve what was uploaded, and what the upstream has."),
    "upload": ("eaa.pccs.uploading:upload", "Store collateral in a PCCS, ours or another."),
    "check": ("eaa.pccs.check_command:check", "Say what is cached, for whom, until when, and what changes next."),
    "export": ("eaa.pccs.export_command:export", "Write what the database holds into a file, signed."),
    "import": ("eaa.pccs.import_command:import_file", "Store what is in a file, verified."),
    "fetch": ("eaa.pccs.fetch_command:fetch", "Fetch collateral of platform models into a file."),
    "migrate": ("eaa.pccs.migrate_command:migrate", "Bring the database to the schema of this version."),
    "hash-token": ("eaa.pccs.hashing:hash_token", "Print the slow, salted hash of a token."),
}
"""Name -> where it is, and one line of help: what runs is imported when it runs."""


class _DefaultServe(LazyGroup):
    """A group whose verb `serve` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultServe, commands_at=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """A provisioning certificate caching service (PCCS) with Intel's own REST API.

    `eaa-pccs` alone is `eaa-pccs serve`. Stopped by SIGTERM (exit code 143) or Ctrl-C (130) it lets
    requests in progress finish first.
    """


def main() -> None:
    """Run the program."""
    run(cli, "eaa-pccs")
