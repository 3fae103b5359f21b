"""The recordings that files are parts of: frames, cameras and clips that show the same, which a split must not separate."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from jepa_pipeline.data.data_parts import EPISODE

CAMERAS = {
    *("cam", "cams", "camera", "cameras", "view", "views", "viewpoint", "rgb", "rgbd", "depth", "color", "observation", "obs"),
    *("image", "images", "img", "video", "videos", "frames", "left", "right", "front", "back", "top", "bottom", "side", "wrist"),
    *("hand", "gripper", "head", "chest", "overhead", "ego", "exo", "static", "agentview", "high", "low"),
}
"""Words of folders that hold one camera's or sensor's view of recordings."""
WORD = re.compile(r"[a-z]+")
BEGIN = re.compile(rf"{EPISODE.pattern}(?![A-Za-z0-9])", re.IGNORECASE)
"""A recording at the start of a file's name, such as episode_7 of episode_7_wrist."""
FRAME = re.compile(r"(?:(?P<recording>.+?)[-_. ]?)??(?<![A-Za-z])(?:frame|frm)s?[-_ ]?[0-9]+", re.IGNORECASE)
"""The name of a frame, such as frame_003 or g01_c02_frame003, with what is before it."""
CLIP = re.compile(r"(?P<recording>.+_g[0-9]+)_c[0-9]+")
"""The name of a clip of UCF-101 and UCF-50, whose groups (g01) are clips of the same video."""
NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>[0-9]{1,12})")
FEWEST_FRAMES = 3
"""Numbered images in a folder that look like frames."""


def group_files(names: Sequence[str], robot: bool, classes: bool) -> list[str | None]:
    """Return the recording of each file, None for those that stand alone: all files of a recording belong in the same part.

    Args:
        names: paths.
        robot: they are of a LeRobot data set, where the cameras of an episode have files of the same name.
        classes: first-level folders are classes, and no recordings.
    """
    found = [name_episode(name) if robot else find_recording(name, int(classes)) for name in names]
    sizes = Counter(found)
    return [recording if robot or sizes[recording] > 1 else None for recording in found]


def name_episode(name: str) -> str:
    """Return chunk and episode of a LeRobot video, without its camera."""
    path = PurePosixPath(name)
    chunk = next((part for part in path.parts if part.startswith("chunk-")), "")
    return f"{chunk}/{path.stem}"


def find_recording(name: str, level: int) -> str | None:
    """Return the recording that folders or the name of a file tell: an episode's folder, the start of a name, a folder of frames.

    Folders of cameras do not count: cat/left/episode_7 and cat/right/episode_7 are the same recording.
    """
    folder, _, file = name.rpartition("/")
    kept, is_recording = read_folders(folder, level)
    stem = file.rpartition(".")[0]
    if is_recording:
        return "/".join(kept)
    if begin := BEGIN.match(stem):
        return "/".join([*kept, begin[0]])
    frame = FRAME.fullmatch(stem) or CLIP.fullmatch(stem)
    if frame and frame["recording"]:
        return "/".join([*kept, frame["recording"]])
    return "/".join(kept) if frame and len(kept) > level else None


@lru_cache(maxsize=4096)
def read_folders(path: str, level: int) -> tuple[tuple[str, ...], bool]:
    """Return the folders of a path without cameras, up to the first that is a recording, and whether there is one."""
    kept: list[str] = []
    for depth, folder in enumerate(path.split("/") if path else ()):
        words = {*WORD.findall(folder.lower())}
        if depth >= level and EPISODE.fullmatch(folder):
            return (*kept, folder), True
        if not words or words - CAMERAS:
            kept.append(folder)
    return tuple(kept), False


def describe_recordings(names: Sequence[str], groups: Sequence[str | None], classes: bool) -> Iterator[str]:
    """Yield sentences on what a split does with recordings: those that it keeps together, and frames of which it does not know."""
    if recordings := [*dict.fromkeys(filter(None, groups))]:
        yield f"{len(recordings)} recordings, such as {recordings[0]}: all files of one are in the same part of the split"
    folders: dict[str, list[str]] = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        if group is None:
            folder, _, file = name.rpartition("/")
            folders[folder].append(file.rpartition(".")[0])
    named = [folder for folder, stems in folders.items() if all(map(FRAME.fullmatch, stems))]
    deep = [folder for folder in folders if folder and len(folder.split("/")) > int(classes)]
    below = [folder for folder in deep if are_numbered(folders[folder])]
    for frames in (named, below if len(below) > 1 else []):
        if sum(len(folders[folder]) for folder in frames) * 2 > groups.count(None):
            alone = (name for name, group in zip(names, groups, strict=True) if group is None)
            example = next(name for name in alone if name.rpartition("/")[0] in frames)
            yield (
                f"{example} and other files are numbered as frames of recordings are; if so, the split puts neighbors into "
                "both parts: move each recording into a folder with a name such as episode_7, or build each part by itself"
            )
            return


def are_numbered(stems: Sequence[str]) -> bool:
    """Return whether the files of a folder have the same name but for a number, from 0 or 1 without a gap."""
    matches = [match for stem in stems if (match := NUMBERED.fullmatch(stem))]
    numbers = {int(match["number"]) for match in matches}
    same = len(matches) == len(stems) >= FEWEST_FRAMES and len({match["prefix"] for match in matches}) == 1
    return same and min(numbers) <= 1 and numbers == {*range(min(numbers), min(numbers) + len(stems))}
