"""The command line: one function a verb, no logic. A verb's room is imported when the verb is called."""

import errno
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline import __version__
from jepa_pipeline.config.errors import UserError

app = typer.Typer(
    help="Pretrain image encoders without labels by joint-embedding prediction, probe them and export them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
shards = typer.Typer(help="Make and verify data sets of WebDataset shards.", no_args_is_help=True)
config = typer.Typer(help="Check and explain configurations.", no_args_is_help=True)
masks = typer.Typer(help="Look at masks before training with them.", no_args_is_help=True)
selftest = typer.Typer(help="Prove on this machine what is claimed.", no_args_is_help=True)
app.add_typer(shards, name="shards")
app.add_typer(config, name="config")
app.add_typer(masks, name="masks")
app.add_typer(selftest, name="selftest")

REFUSED_BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

Recipe = Annotated[Path, typer.Argument(help="A YAML recipe, such as those in configs/, or a run folder.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Dotted assignments laid over the recipe, such as optim.lr=3e-4.")]
Run = Annotated[Path, typer.Argument(help="A run folder, such as runs/NAME.")]


def read_numbers(text: str) -> list[int]:
    """Whole numbers with commas between them; none of an empty text."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--workers is {text}: it is one or more whole numbers with commas between, such as 1,2,4")
    return [int(part) for part in parts]


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
    from jepa_pipeline.quickstart import quickstart

    quickstart(out, seed)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Pretrain an encoder; the same command again continues an unfinished run.

    Ctrl-C, SIGTERM and SIGUSR1 end it at the next step with a checkpoint (exit code 75), a second Ctrl-C at once (130).
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])

    from jepa_pipeline.pretrain import pretrain

    pretrain(run)


@app.command()
def probe(
    run: Run,
    data: Annotated[
        str, typer.Option(help="Labelled shards: a folder or URL with train/ and test/ in it, or that of the training shards.")
    ],
    test: Annotated[str | None, typer.Option(help="Test shards, where DATA holds only the training shards.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="Assignments over the probe's defaults, such as iterations=20.")
    ] = None,
) -> None:
    """Judge a run's encoder by linear heads and nearest neighbours, beside a random encoder and raw pixels."""
    from jepa_pipeline.config.load import load_overrides
    from jepa_pipeline.config.probe import ProbeConfig

    choices = load_overrides(ProbeConfig, settings or [])

    from jepa_pipeline.probe import probe

    probe(run, data, test=test, config=choices)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="Whose format: timm.")] = "timm",
    out: Annotated[Path | None, typer.Option(help="Where to; RUN/export/FORMAT unless said.")] = None,
) -> None:
    """Write a run's encoder in a format others load, checked to be the same encoder."""
    from jepa_pipeline.export import export

    export(run, to=to, out=out)


@shards.command("build")
def shards_build(
    images: Annotated[Path, typer.Argument(help="A folder of JPEG, PNG and WebP images of any nesting.")],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    size: Annotated[int | None, typer.Option(min=1, help="Shrink the shorter side to this many pixels.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Megabytes per shard.")] = 256,
    split: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the images for OUT/test, the rest for OUT/train.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Key of the shuffle and the split.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Pack a folder of images into shards; the first-level folders are the classes where there are several."""
    from jepa_pipeline.shards import build

    build(images, out, size=size, shard_size=shard_size, split=split, seed=seed, workers=workers)


@shards.command("index")
def shards_index(
    tars: Annotated[
        list[str], typer.Argument(help="A folder of .tar shards, files, or URLs such as 'https://host/train-{000000..000099}.tar'.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for manifest and indexes; beside the tars unless said. URLs need it.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="A file with one class name a line; labels count from 0.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Make tar shards of any writer a data set; they are read once and not changed.

    A manifest of an earlier `index` is replaced, one that `build` wrote is not. Exit code 1 if tars had to be left out.
    """
    from jepa_pipeline.index import index

    if index(tars, out=out, classes=classes, workers=workers).left_out:
        raise typer.Exit(1)


@shards.command("check")
def shards_check(
    folder: Annotated[str, typer.Argument(help="A folder or URL of shards, or a folder with train/ and test/ in it.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all problems.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Read every byte and decode every image; exit code 1 if anything is damaged."""
    from jepa_pipeline.check import check

    if check(folder, workers=workers, json=json).problems:
        raise typer.Exit(1)


@shards.command("stats")
def shards_stats(
    folder: Annotated[str, typer.Argument(help="A folder of shards, or one with train/ and test/ in it.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Say what is in a data set by its manifest and indexes; no shard is read."""
    from jepa_pipeline.stats import stats

    stats(folder, workers=workers, json=json)


@shards.command("bench")
def shards_bench(
    data: Annotated[str, typer.Argument(help="A folder or URL of shards, read in place of the recipe's data.train.")],
    recipe: Annotated[Path, typer.Option("--config", help="A YAML recipe, such as those in configs/.")],
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time for each number of workers, and for one process.")] = 20.0,
    workers: Annotated[str, typer.Option(help="Numbers of workers to measure, such as 1,2,4; the recipe's unless said.")] = "",
    step_rate: Annotated[float | None, typer.Option(min=1e-9, help="Optimiser steps/s of one device that are to be fed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Measure how fast the images of a recipe come, beside a bare loop and plain webdataset, and how many workers feed it."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, [*(overrides or []), f"data.train={json.dumps(data)}"])
    numbers = read_numbers(workers)

    from jepa_pipeline.bench import bench

    bench(run, numbers, seconds=seconds, step_rate=step_rate, as_json=as_json)


@config.command("check")
def config_check(recipe: Recipe, overrides: Overrides = None) -> None:
    """Say everything that is wrong with a recipe, with its lines."""
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or [])
    print(f"{recipe}: fine; {run.optim.total_steps} steps of {run.optim.batch_size_global} samples, config hash {run.hash()}")


@config.command("show")
def config_show(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; every key with its default where there is none.")] = None,
    overrides: Overrides = None,
) -> None:
    """Print a recipe in full with what each key means, or the reference of all keys."""
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.show import annotated_yaml, reference

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

    from jepa_pipeline.preview import preview_masks

    preview_masks(run, out)


@selftest.callback()
def selftests() -> None: ...


@selftest.command("resume")
def selftest_resume(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe; a small I-JEPA on drawn images where there is none.")
    ] = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=6, help="Optimiser steps of both runs.")] = 12,
    kills: Annotated[int, typer.Option(min=1, help="How often the second run is killed and continued.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Key of the moments at which it is killed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; a temporary one unless said.")] = None,
) -> None:
    """Kill a run at random, continue it, and compare every tensor of every step with a run left alone.

    Exit code 1 if any differs.
    """
    from jepa_pipeline.config.load import load_config

    run = load_config(recipe, overrides or []) if recipe else None

    from jepa_pipeline.selftest import resume

    if not resume(run, total_steps=steps, kills=kills, seed=seed, out=out):
        raise typer.Exit(1)


def main() -> None:
    """The `jepa` command. A user's mistake is one sentence a line on stderr, and exit code 2."""
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno not in REFUSED_BY_DISK:
            raise
        print(f"{error.filename or 'a file'} cannot be used: {error.strerror}", file=sys.stderr)
        sys.exit(2)
