"""The command line: one function a verb, no logic. A verb's file is imported when the verb is called."""

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Overrides, Recipe, Run
from jepa_pipeline.cli.benchmark import benchmark, table
from jepa_pipeline.cli.cluster import cancel, jobs, logs, submit, submitted
from jepa_pipeline.cli.doctor import doctor
from jepa_pipeline.cli.energy import energy
from jepa_pipeline.cli.shards import shards
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.version import __version__

app = typer.Typer(
    help="Pretrain image and video encoders without labels by joint-embedding prediction, probe them and export them.",
    epilog="With --submit any command becomes a Slurm job; `jepa submit --help` explains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="Check and explain configurations.", no_args_is_help=True)
masks = typer.Typer(help="Look at masks before training with them.", no_args_is_help=True)
views = typer.Typer(help="Look at views before training on them.", no_args_is_help=True)
selftest = typer.Typer(help="Prove on this machine what is claimed.", no_args_is_help=True)
app.add_typer(shards, name="shards")
app.add_typer(config, name="config")
app.add_typer(masks, name="masks")
app.add_typer(views, name="views")
app.add_typer(selftest, name="selftest")

REFUSED_BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and leave.")] = False,
) -> None: ...


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Everything is made in this folder.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Key of the images and of the run.")] = 0,
) -> None:
    """Make images, pretrain on them, probe, export: the whole path in minutes on a CPU, with nothing to download."""
    from jepa_pipeline.commands.quickstart import quickstart

    quickstart(out, seed)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Pretrain an encoder; the same command again continues an unfinished run.

    Ctrl-C, SIGTERM and SIGUSR1 end it at the next step with a checkpoint (exit code 75), a second Ctrl-C at once (130).
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
            help="Labeled shards: a folder or URL with train/ and test/ in it, or that of the training shards; the folder around "
            "those the run was trained on unless said."
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(help="Test shards, where DATA holds only the training shards.")] = None,
    level: Annotated[
        str | None,
        typer.Option(help="Of a stack of encoders the only level to probe, such as 2, or all; each by itself and all unless said."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Assignments over the probe's defaults, such as iterations=20.")
    ] = None,
) -> None:
    """Judge a run's encoder by linear heads and nearest neighbors, beside a random encoder and raw pixels.

    With 'protocols=[linear,knn,attentive]' also by heads that attend to all tokens. Of videos it is judged too by what it knows of
    frames apart and of frames in a random order, and a sentence says how much of the accuracy is due to time. Of a stack of
    encoders, as hjepa trains it, every level has rows of its own, and so have all of them together.
    """
    from jepa_pipeline.config.level import read_level
    from jepa_pipeline.config.load import load_overrides
    from jepa_pipeline.config.probe import ProbeConfig

    choices, only = load_overrides(ProbeConfig, settings or []), None if level is None else read_level(level)

    from jepa_pipeline.commands.probe import probe

    probe(run, data, test=test, config=choices, level=only)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="Whose format: timm, or jepa, this package's own, for any encoder.")] = "timm",
    out: Annotated[Path | None, typer.Option(help="Where to; RUN/export/FORMAT, or FORMAT-LEVEL, unless said.")] = None,
    level: Annotated[
        str | None, typer.Option(help="Of a stack of encoders the level that is read, without those above it, such as 1; or all.")
    ] = None,
) -> None:
    """Write a run's encoder in a format others load, checked to be the same encoder."""
    from jepa_pipeline.config.level import read_level

    only = None if level is None else read_level(level)

    from jepa_pipeline.commands.export import export

    export(run, to=to, out=out, level=only)


@config.command("check")
def config_check(recipe: Recipe, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a recipe, with its lines."""
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.networks import BackboneConfig

    run = load_config(recipe, overrides or [])
    steps = f"{run.optim.total_steps} steps of {run.optim.batch_size_global} samples"
    print(f"{recipe}: fine; {steps}, {run.optim.describe_rate()}, config hash {run.hash()}")
    if isinstance(run.method.encoder, BackboneConfig):
        print(f"timm's {run.method.encoder.timm} and its args are not looked up here; `jepa pretrain` does before anything else")


@config.command("show")
def config_show(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; every key with its default where there is none.")] = None,
    overrides: Overrides = None,
) -> None:
    """Print a recipe in full with what each key means, or the reference of all keys."""
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.render import annotated_yaml, reference

    print(annotated_yaml(load_config(recipe, overrides or [])) if recipe else reference())


@masks.command("preview")
def masks_preview(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The PNG to write; masks-NAME.png here unless said.")] = None,
) -> None:
    """Draw a recipe's masks: a contact sheet, how often each patch is used, and how long the masks are."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.preview import preview_masks

    preview_masks(run, out)


@views.callback()
def view_commands() -> None: ...


@views.command("preview")
def views_preview(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The PNG to write; views-NAME.png here unless said.")] = None,
) -> None:
    """Draw a recipe's views: a contact sheet of its first images, each with all the views a method is given of it."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.commands.preview import preview_views

    preview_views(run, out)


@selftest.callback()
def selftests() -> None: ...


@selftest.command("resume")
def selftest_resume(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe; a small I-JEPA on drawn images where there is none.")
    ] = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=6, help="Optimizer steps of both runs.")] = 12,
    kills: Annotated[int, typer.Option(min=1, help="How often the second run is killed and continued.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Key of the moments at which it is killed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; a temporary one unless said.")] = None,
) -> None:
    """Kill a run at random, continue it, and compare every tensor of every step with a run left alone.

    Exit code 1 if any differs.
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or []) if recipe else None

    from jepa_pipeline.commands.selftest import resume

    if not resume(run, total_steps=steps, kills=kills, seed=seed, out=out):
        raise typer.Exit(1)


app.command(context_settings={"ignore_unknown_options": True})(submit)
app.command()(jobs)
app.command()(logs)
app.command()(cancel)
app.command()(benchmark)
app.command()(table)
app.command()(doctor)
app.command()(energy)


def main() -> None:
    """The `jepa` command. A user's mistake is one sentence a line on stderr, and exit code 2."""
    try:
        app(args=submitted(sys.argv[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        leave(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in REFUSED_BY_DISK:
            raise
        print(f"{error.filename or 'a file'} cannot be used: {error.strerror}", file=sys.stderr)
        leave(2)
    except SystemExit as exit:
        leave(exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1)
    except BaseException:
        if not was_one_of_several():
            raise
        traceback.print_exc()
        leave(1)


def leave(code: int) -> None:
    """Exit; at once, where the normal way may end in an abort of gloo's threads."""
    if was_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def was_one_of_several() -> bool:
    """Whether this process trained with others."""
    distributed = sys.modules.get("jepa_pipeline.distributed")
    return distributed is not None and distributed.Groups.met
