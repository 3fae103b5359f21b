"""`jepa shards`: data sets."""

from pathlib import Path
from typing import Annotated

import typer

from jepa_pipeline.cli.arguments import Json, Workers

shards = typer.Typer(help="Make and verify data sets of WebDataset shards.", no_args_is_help=True)

NewFolder = Annotated[Path, typer.Argument(help="A new folder for train/ and test/.")]
LabelFile = Annotated[
    Path | None,
    typer.Option(
        help="A list of files or samples and their labels: CSV, TSV, JSON or text, with or without a header, also in the forms of "
        "Kinetics and Something-Something. What has no label in it is skipped. With the word none there are no labels."
    ),
]
NO_LABELS = Path("none")
ClassFile = Annotated[
    Path | None,
    typer.Option(
        help="The class names in order: one per line, or JSON, such as Something-Something's labels.json; labels count from 0."
    ),
]


def given(labels: Path | None) -> Path | None:
    """Return the list of labels, None for the word none; a file of that name is ./none."""
    return None if labels == NO_LABELS else labels


@shards.command("build")
def shards_build(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of JPEG, PNG, WebP, TIFF and .npy images, or of mp4, mov, m4v, mkv, webm, avi and gif videos; "
            "subfolders included."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder for the shards.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Shrink the shorter side to this many pixels; for videos with --reencode.")
    ] = None,
    reencode: Annotated[
        bool, typer.Option("--reencode", help="Reencode videos as H.264 in mp4, for fast access to any frame.")
    ] = False,
    gop: Annotated[
        int | None, typer.Option(min=1, help="With --reencode: frames from one key frame to the next; default: 12.")
    ] = None,
    crf: Annotated[int | None, typer.Option(min=0, max=51, help="With --reencode: x264's quality, 0 is best; default: 18.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Megabytes per shard.")] = 256,
    split: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of the files for OUT/test; the rest go to OUT/train.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle and the split.")] = 0,
    workers: Workers = None,
    labels: LabelFile = None,
    classes: ClassFile = None,
) -> None:
    """Pack a folder of images or videos into shards.

    If there are several top-level subfolders, they are the classes, unless they are parts such as train and val: build each by
    itself. Files are copied unchanged, except with --size or --reencode. Exit code 1 if no file of a class could be used.
    """
    from jepa_pipeline.checks.given_paths import check_media

    check_media(folder)

    from jepa_pipeline.commands.build_shards import build, reencoding_from_options

    encoding = reencoding_from_options(reencode, gop, crf)
    choice = {"labels": given(labels), "classes": classes, "no_labels": labels == NO_LABELS}
    built = build(
        folder, out, size=size, reencode=encoding, shard_size=shard_size, split=split, seed=seed, workers=workers, **choice
    )
    if built.lost:
        raise typer.Exit(1)


@shards.command("demo")
def shards_demo(
    out: NewFolder,
    images: Annotated[int, typer.Option(min=1, help="Number of images; a fifth of them is the test set.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
) -> None:
    """Generate a small labeled data set of ten shapes in 40x40 pixels, for the debug recipes."""
    from jepa_pipeline.commands.demo_shards import demo

    demo(out, images, seed)


@shards.command("demo-video")
def shards_demo_video(
    out: NewFolder,
    videos: Annotated[int, typer.Option(min=1, help="Number of videos; a fifth of them is the test set.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the videos.")] = 0,
) -> None:
    """Generate a small labeled data set of videos in which shapes move in eight directions."""
    from jepa_pipeline.commands.demo_shards import demo_video

    demo_video(out, videos, seed)


@shards.command("demo-scales")
def shards_demo_scales(
    out: Annotated[Path, typer.Argument(help="A new folder for fast/ and slow/, each with train/ and test/.")],
    videos: Annotated[int, typer.Option(min=1, help="Number of videos; a fifth of them is the test set.")] = 6000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the videos.")] = 0,
) -> None:
    """Generate a labeled data set of videos with two time scales, to see what each level of an H-JEPA represents.

    A small part darts in one of four directions, the classes of OUT/fast; the color of the scene slowly moves around the color
    circle at one of four rates, the classes of OUT/slow. Both hold the same videos. No single frame reveals either class.
    """
    from jepa_pipeline.commands.demo_shards import demo_scales

    demo_scales(out, videos, seed)


@shards.command("index")
def shards_index(
    tars: Annotated[
        list[str], typer.Argument(help="A folder of .tar shards, files, or URLs such as 'https://host/train-{000000..000099}.tar'.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for manifest and indexes; required for URLs; default: next to the tars.")
    ] = None,
    classes: ClassFile = None,
    workers: Workers = None,
    labels: LabelFile = None,
    member: Annotated[
        str | None, typer.Option(help="The member to use where a sample has several images or videos, such as left.jpg or png.")
    ] = None,
) -> None:
    """Index tar shards of images or videos that other tools wrote; they are read once and not changed.

    The manifest of an earlier `index` is replaced, that of `build` is not. Exit code 1 if tars, a class or all labels were lost.
    """
    from jepa_pipeline.commands.index_shards import index

    choice = {"labels": given(labels), "no_labels": labels == NO_LABELS, "member": member}
    result = index(tars, out=out, classes=classes, workers=workers, **choice)
    if result.skipped or result.lost:
        raise typer.Exit(1)


@shards.command("check")
def shards_check(
    folder: Annotated[str, typer.Argument(help="A folder or URL of shards, or a folder with train/ and test/ in it.")],
    json: Json = False,
    workers: Workers = None,
) -> None:
    """Read every byte and decode every image or frame; exit code 1 if anything is damaged."""
    from jepa_pipeline.commands.check_shards import check

    if check(folder, workers=workers, json=json).problems:
        raise typer.Exit(1)


@shards.command("stats")
def shards_stats(
    folder: Annotated[str, typer.Argument(help="A folder of shards, or one with train/ and test/ in it.")],
    json: Json = False,
    workers: Workers = None,
) -> None:
    """Summarize a data set from its manifest and indexes, without reading shards."""
    from jepa_pipeline.commands.shard_stats import stats

    stats(folder, workers=workers, json=json)
