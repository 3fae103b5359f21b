"""The `jepa` command line: one function per command, without logic.

A command imports its module only when it is called, so that `--help` and mistakes do not wait for torch.
"""

import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Overrides, Recipe, choose
from jepa_pipeline.cli.benchmark import benchmark, table
from jepa_pipeline.cli.cluster import cancel, jobs, logs, rewrite_submit, submit
from jepa_pipeline.cli.config import config
from jepa_pipeline.cli.doctor import doctor
from jepa_pipeline.cli.embed import embed
from jepa_pipeline.cli.end import INTERRUPTED, exit_code, explain
from jepa_pipeline.cli.energy import energy
from jepa_pipeline.cli.every_command import Level, Quiet, add_epilogs, check_level, refuse_without_submit, split_shared
from jepa_pipeline.cli.export import export
from jepa_pipeline.cli.import_weights import import_weights
from jepa_pipeline.cli.probe import probe
from jepa_pipeline.cli.selftest import selftest
from jepa_pipeline.cli.shards import shards
from jepa_pipeline.cli.tune import tune
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.redaction import PRIVATE_ARGUMENTS, redacted_streams, remember_environment, remember_secrets
from jepa_pipeline.version import __version__

app = typer.Typer(
    help="Pretrain image and video encoders without labels by joint-embedding prediction, probe them and export them.",
    epilog="Add --submit to run any command as a Slurm job; see `jepa submit -h`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
masks = typer.Typer(help="Preview masks before training.", no_args_is_help=True)
views = typer.Typer(help="Preview views before training.", no_args_is_help=True)
app.add_typer(shards, name="shards")
app.add_typer(config, name="config")
app.add_typer(masks, name="masks")
app.add_typer(views, name="views")
app.add_typer(selftest, name="selftest")


def print_version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", "-V", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    quiet: Quiet = False,
    log_level: Level = "info",
) -> None:
    level = check_level(log_level, quiet)
    if level != "info":
        from jepa_pipeline.console import set_log_level

        set_log_level(level)


@app.command()
def quickstart(
    folder: Annotated[Path | None, typer.Argument(help="Folder in which everything is created; default: quickstart.")] = None,
    out: Annotated[Path | None, typer.Option(help="The same as FOLDER.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images and of the run.")] = 0,
) -> None:
    """Generate images, pretrain on them, probe and export, in minutes on a CPU and without downloads."""
    from jepa_pipeline.config.output_place import check_place

    place = choose(folder, out, "--out") or Path("quickstart")
    check_place(place / "images")

    from jepa_pipeline.commands.quickstart import quickstart

    quickstart(place, seed)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Pretrain an encoder, or resume an unfinished run with the same command.

    Ctrl-C, SIGTERM and SIGUSR1 stop the run after the current step with a checkpoint (exit code 75); a second Ctrl-C stops it
    immediately (130).
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.checks.given_paths import check_run

    check_run(run)

    from jepa_pipeline.commands.pretrain import pretrain

    pretrain(run)


@masks.command("preview")
def masks_preview(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: masks-NAME.png in this folder.")] = None,
) -> None:
    """Draw a recipe's masks: examples, how often each patch is used, and how long the masks are."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.preview import preview_masks

    preview_masks(run, out)


@views.callback()
def view_commands() -> None: ...  # a callback keeps typer from making a group of one command that command


@views.command("preview")
def views_preview(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: views-NAME.png in this folder.")] = None,
) -> None:
    """Draw the views of a recipe's first images or clips, as the method receives them."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.checks.given_paths import check_run

    check_run(run)

    from jepa_pipeline.commands.preview import preview_views

    preview_views(run, out)


app.command()(probe)
app.command()(export)
app.command(context_settings={"ignore_unknown_options": True})(submit)
app.command()(jobs)
app.command()(logs)
app.command()(cancel)
app.command()(benchmark)
app.command()(table)
app.command()(doctor)
app.command()(energy)
app.command("import")(import_weights)
app.command()(embed)
app.command()(tune)
add_epilogs(app)


def main() -> None:
    """Run the `jepa` command. Mistakes of the user are printed to stderr, one sentence per line, with exit code 2."""
    from jepa_pipeline.console import keep_streams

    keep_streams()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings of a lost process are pages, which the watchdog names
    words = [*sys.argv[1:], *json.loads(os.environ.pop(PRIVATE_ARGUMENTS, "[]"))]
    remember_environment()
    remember_secrets(words)
    with redacted_streams():
        run_command(words)


def run_command(words: list[str]) -> None:
    try:
        words, shared = split_shared(words)
        refuse_dashes(words)
        refuse_without_submit(words)
        app(args=[*shared, *(rewrite_submit(words) or words)])
    except SystemExit as exit:
        from jepa_pipeline.console import COMMAND

        if exit.code == INTERRUPTED and COMMAND not in os.environ:  # else the launcher says it; what was being written is deleted
            print("interrupted", file=sys.stderr)
        leave(exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1)
    except BaseException as error:
        explained = explain(error)
        if explained is not None:
            print(explained.text, file=sys.stderr)
            leave(explained.code)
        if not (was_distributed() or isinstance(error, Exception)):
            raise
        traceback.print_exc()  # here and not by the interpreter, for secrets are removed here
        leave(1)


def refuse_dashes(words: list[str]) -> None:
    """Raise UserError if an override is written as an option, such as --optim.lr=0.1."""
    for word in words:
        if re.match(r"--[a-z_]+\.[a-z_.]+(=|$)", word):
            raise UserError(
                f"{word} has dashes: an override is written KEY=VALUE, such as {word.removeprefix('--').partition('=')[0]}=VALUE"
            )


def leave(code: int) -> None:
    """Exit with a code, without Python's shutdown if that could abort in gloo's threads or print errors of interrupted ones."""
    code = exit_code(code)
    if was_distributed() or code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def was_distributed() -> bool:
    """Return whether this process joined a process group; without importing torch to find out."""
    distributed = sys.modules.get("jepa_pipeline.distributed")
    return distributed is not None and distributed.ProcessGroups.initialized
