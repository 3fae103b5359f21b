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

from jepa_pipeline.cli.arguments import Overrides, Recipe, Run, Time, parse_level
from jepa_pipeline.cli.benchmark import benchmark, table
from jepa_pipeline.cli.cluster import cancel, jobs, logs, rewrite_submit, submit
from jepa_pipeline.cli.doctor import doctor
from jepa_pipeline.cli.embed import embed
from jepa_pipeline.cli.end import INTERRUPTED, exit_code, explain
from jepa_pipeline.cli.energy import energy
from jepa_pipeline.cli.import_weights import import_weights
from jepa_pipeline.cli.selftest import selftest
from jepa_pipeline.cli.shards import shards
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.redaction import PRIVATE_ARGUMENTS, redact, redacted_streams, remember_environment, remember_secrets
from jepa_pipeline.version import __version__

app = typer.Typer(
    help="Pretrain image and video encoders without labels by joint-embedding prediction, probe them and export them.",
    epilog="Add --submit to run any command as a Slurm job; see `jepa submit --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="Check and explain configurations.", no_args_is_help=True)
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
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder in which everything is created.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images and of the run.")] = 0,
) -> None:
    """Generate images, pretrain on them, probe and export, in minutes on a CPU and without downloads."""
    from jepa_pipeline.commands.quickstart import quickstart

    quickstart(out, seed)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Pretrain an encoder, or resume an unfinished run with the same command.

    Ctrl-C, SIGTERM and SIGUSR1 stop the run after the current step with a checkpoint (exit code 75); a second Ctrl-C stops it
    immediately (130).
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.pretrain import pretrain

    pretrain(run)


@app.command()
def probe(
    run: Run,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labeled shards: a folder or URL with train/ and test/ in it, or that of the training shards; default: the folder "
            "around the run's own training shards."
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test shards, if DATA holds only training shards.")] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Level of a stack of encoders, such as 2, or all (concatenated); default: each level, and all."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Probe settings that override the defaults, such as iterations=20.")
    ] = None,
) -> None:
    """Probe a run's encoder with linear heads and nearest neighbors, next to an untrained encoder and raw pixels.

    'protocols=[linear,knn,attentive]' adds heads that attend to all tokens. On videos, probes of single frames and of shuffled
    frames show how much of the accuracy depends on time. A stack of encoders has rows for each level and for all concatenated.
    """
    from jepa_pipeline.config.parse import load_overrides
    from jepa_pipeline.config.probe import ProbeConfig

    if stray := [setting for setting in settings or [] if "=" not in setting]:
        raise UserError(
            f"{stray[0]} is not a setting KEY=VALUE: the first argument is the run, and --data names the shards to probe it on"
        )
    probe_config = load_overrides(ProbeConfig, settings or [])
    chosen_level = None if level is None else parse_level(level)

    from jepa_pipeline.commands.probe import probe

    probe(run, data, test=test, config=probe_config, level=chosen_level)


@app.command()
def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(help="Format: timm (images), hf (transformers), onnx, torch (torch.export) or jepa (this package)."),
    ] = "timm",
    out: Annotated[
        Path | None, typer.Option(help="Output folder; default: RUN/export/FORMAT, plus -DTYPE and -LEVEL if given.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Level of a stack of encoders, such as 1, exported without those above it; or all.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the weights: fp32, or for onnx fp16.")] = None,
    predictor: Annotated[bool, typer.Option("--predictor", help="With --to hf: also export a video predictor.")] = False,
) -> None:
    """Export a run's encoder to a format that other code loads, and check that it computes the same."""
    chosen_level = None if level is None else parse_level(level)

    from jepa_pipeline.commands.export import export

    export(run, to=to, out=out, level=chosen_level, dtype=dtype, predictor=predictor)


@config.command("check")
def config_check(recipe: Recipe, overrides: Overrides = None, time: Time = False) -> None:
    """Report all mistakes in a recipe, with file and line, and what would keep it from running on this machine."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.check_config import check_config

    check_config(run, timed=time)
    steps = f"{run.optim.total_steps} steps of {run.optim.batch_size_global} samples"
    print(f"{recipe} is valid: {steps}, {run.optim.describe_lr()}, config hash {run.hash()}")
    if run.method.encoder.timm:
        print(f"not checked: timm's {run.method.encoder.timm} and its args, which `jepa pretrain` checks first")


@config.command("show")
def config_show(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; default: the reference of all keys.")] = None,
    overrides: Overrides = None,
) -> None:
    """Print a recipe with all its keys and what they mean, or the reference of all keys."""
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.render import annotated_yaml, reference

    print(redact(annotated_yaml(load_config(recipe, overrides or []))) if recipe else reference())


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

    from jepa_pipeline.commands.preview import preview_views

    preview_views(run, out)


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
        refuse_dashes(words)
        app(args=rewrite_submit(words) or words)
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
