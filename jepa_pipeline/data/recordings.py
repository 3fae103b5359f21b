"""The recordings that files are parts of: frames, cameras and clips that show the same, which a split must not separate."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
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
    path = PurePosixPath(name)
    kept: list[str] = []
    for depth, folder in enumerate(path.parts[:-1]):
        if depth >= level and EPISODE.fullmatch(folder):
            return "/".join([*kept, folder])
        if not {*WORD.findall(folder.lower())} <= CAMERAS or not WORD.search(folder.lower()):
            kept.append(folder)
    if begin := BEGIN.match(path.stem):
        return "/".join([*kept, begin[0]])
    frame = FRAME.fullmatch(path.stem) or CLIP.fullmatch(path.stem)
    if frame and frame["recording"]:
        return "/".join([*kept, frame["recording"]])
    return "/".join(kept) if frame and len(kept) > level else None


def describe_recordings(names: Sequence[str], groups: Sequence[str | None], classes: bool) -> Iterator[str]:
    """Yield sentences on what a split does with recordings: those that it keeps together, and frames of which it does not know."""
    if recordings := [*dict.fromkeys(filter(None, groups))]:
        yield f"{len(recordings)} recordings, such as {recordings[0]}: all files of one are in the same part of the split"
    folders: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    alone = [PurePosixPath(name) for name, group in zip(names, groups, strict=True) if group is None]
    for path in alone:
        folders[path.parent].append(path)
    named = [paths for paths in folders.values() if all(FRAME.fullmatch(path.stem) for path in paths)]
    below = [paths for folder, paths in folders.items() if len(folder.parts) > int(classes) and are_numbered(paths)]
    for frames in (named, below if len(below) > 1 else []):
        if sum(map(len, frames)) * 2 > len(alone):
            yield (
                f"{frames[0][0]} and other files are numbered as frames of recordings are; if so, the split puts neighbors into "
                "both parts: move each recording into a folder with a name such as episode_7, or build each part by itself"
            )
            return


def are_numbered(paths: Sequence[PurePosixPath]) -> bool:
    """Return whether the files of a folder have the same name but for a number, from 0 or 1 without a gap."""
    matches = [match for path in paths if (match := NUMBERED.fullmatch(path.stem))]
    numbers = {int(match["number"]) for match in matches}
    same = len(matches) == len(paths) >= FEWEST_FRAMES and len({match["prefix"] for match in matches}) == 1
    return same and min(numbers) <= 1 and numbers == {*range(min(numbers), min(numbers) + len(paths))}
