"""`jepa shards`: data sets."""

from pathlib import Path
from typing import Annotated

import typer

shards = typer.Typer(help="Make and verify data sets of WebDataset shards.", no_args_is_help=True)


@shards.command("build")
def shards_build(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of JPEG, PNG and WebP images, or of mp4, mov, m4v, mkv, webm, avi and gif videos, of any nesting."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Shrink the shorter side to this many pixels; of videos with --reencode.")
    ] = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Encode videos anew, as H.264 in mp4, for fast access to any frame.")
    ] = False,
    gop: Annotated[
        int | None, typer.Option(min=1, help="With --reencode: frames from one key frame to the next; 12 unless said.")
    ] = None,
    crf: Annotated[
        int | None, typer.Option(min=0, max=51, help="With --reencode: x264's quality, 0 the best; 18 unless said.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Megabytes per shard.")] = 256,
    split: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of the files for OUT/test, the rest for OUT/train.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Key of the shuffle and the split.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Pack a folder of images, or of videos, into shards; the first-level folders are the classes where there are several.

    Files are stored byte for byte unless --size or --reencode changes them.
    """
    from jepa_pipeline.commands.build_shards import build, reencoding

    how = reencoding(reencode, gop, crf)
    build(folder, out, size=size, reencode=how, shard_size=shard_size, split=split, seed=seed, workers=workers)


@shards.command("demo")
def shards_demo(
    out: Annotated[Path, typer.Argument(help="A new folder for train/ and test/.")],
    images: Annotated[int, typer.Option(min=1, help="Images in all; a fifth of them is the test set.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Key of the images.")] = 0,
) -> None:
    """Draw a small labeled data set, ten shapes of 40x40 pixels, for a first try and for the recipes in configs/debug."""
    from jepa_pipeline.commands.demo_shards import demo

    demo(out, images, seed)


@shards.command("demo-video")
def shards_demo_video(
    out: Annotated[Path, typer.Argument(help="A new folder for train/ and test/.")],
    videos: Annotated[int, typer.Option(min=1, help="Videos in all; a fifth of them is the test set.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Key of the videos.")] = 0,
) -> None:
    """Draw a small labeled data set of videos, shapes that move in eight directions, for a first try of methods for video."""
    from jepa_pipeline.commands.demo_shards import demo_video

    demo_video(out, videos, seed)


@shards.command("demo-scales")
def shards_demo_scales(
    out: Annotated[Path, typer.Argument(help="A new folder for fast/ and slow/, each with train/ and test/.")],
    videos: Annotated[int, typer.Option(min=1, help="Videos in all; a fifth of them is the test set.")] = 6000,
    seed: Annotated[int, typer.Option(min=0, help="Key of the videos.")] = 0,
) -> None:
    """Draw a labeled data set of videos with structure at two time scales, to see what the levels of an H-JEPA know.

    A small part darts in one of four directions, the classes of OUT/fast; the color of the scene slowly goes round the color
    circle at one of four rates, the classes of OUT/slow. Both hold the same videos, and no single frame tells either class.
    """
    from jepa_pipeline.commands.demo_shards import demo_scales

    demo_scales(out, videos, seed)


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
    """Make tar shards of any writer, of images or of videos, a data set; they are read once and not changed.

    A manifest of an earlier `index` is replaced, one that `build` wrote is not. Exit code 1 if tars had to be left out.
    """
    from jepa_pipeline.commands.index_shards import index

    if index(tars, out=out, classes=classes, workers=workers).left_out:
        raise typer.Exit(1)


@shards.command("check")
def shards_check(
    folder: Annotated[str, typer.Argument(help="A folder or URL of shards, or a folder with train/ and test/ in it.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all problems.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Read every byte and decode every image or frame; exit code 1 if anything is damaged."""
    from jepa_pipeline.commands.check_shards import check

    if check(folder, workers=workers, json=json).problems:
        raise typer.Exit(1)


@shards.command("stats")
def shards_stats(
    folder: Annotated[str, typer.Argument(help="A folder of shards, or one with train/ and test/ in it.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores unless said.")] = None,
) -> None:
    """Say what is in a data set by its manifest and indexes; no shard is read."""
    from jepa_pipeline.commands.shard_stats import stats

    stats(folder, workers=workers, json=json)
