"""Record labeled videos of walks through a maze, whose classes can only be recognized by the order of the frames.

    pip install vizdoom
    python tools/vizdoom_clips.py data/vizdoom_videos --clips 3000
    jepa shards build data/vizdoom_videos data/vizdoom --split 0.2

Each video has 24 frames of 160x120 pixels of one of six actions: turning or stepping to the left or right, or walking forward or
backward. It begins anywhere in the maze of ViZDoom's scenario "my way home" (Kempka et al. 2016; MIT licence).
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import UInt8
from rich.progress import track

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.video_writer import encode_video

ACTIONS = ("turn_left", "turn_right", "forward", "backward", "step_left", "step_right")
FRAMES, FPS = 24, 17.5
TICS_PER_FRAME = 2
WANDERING_TICS = (10, 120)
"""Range of the length of a random walk between two videos."""
MOVED = 60.0
"""Map units that a step or walk covers within a video unless a wall blocks it."""


def new_game(seed: int) -> Any:
    """Return the maze in first-person view, without weapon and status display."""
    try:
        import vizdoom  # pyright: ignore[reportMissingImports]  # no dependency of the package
    except ImportError:
        raise UserError("recording needs ViZDoom: pip install vizdoom") from None
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / "my_way_home.cfg"))
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_render_weapon(False)
    game.set_render_hud(False)
    buttons = vizdoom.Button
    game.set_available_buttons(
        [
            buttons.TURN_LEFT,
            buttons.TURN_RIGHT,
            buttons.MOVE_FORWARD,
            buttons.MOVE_BACKWARD,
            buttons.MOVE_LEFT,
            buttons.MOVE_RIGHT,
        ]
    )
    variables = vizdoom.GameVariable
    game.set_available_game_variables([variables.POSITION_X, variables.POSITION_Y])
    game.set_episode_timeout(100_000)
    game.set_seed(seed)
    game.init()
    game.new_episode()
    return game


def wander(game: Any, generator: np.random.Generator) -> None:
    """Walk randomly to another place."""
    for _ in range(int(generator.integers(2, 6))):
        chosen = int(generator.integers(3))
        game.make_action([int(number == chosen) for number in range(len(ACTIONS))], int(generator.integers(*WANDERING_TICS)))
        if game.is_episode_finished():
            game.new_episode()


def record(game: Any, action: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float] | None:
    """Return the frames during an action and the distance covered, or None if the episode ended before."""
    pressed = [int(number == action) for number in range(len(ACTIONS))]
    frames, start = [], np.array(game.get_state().game_variables)
    last = start
    for _ in range(FRAMES):
        if game.is_episode_finished():
            return None
        state = game.get_state()
        frames.append(state.screen_buffer)
        last = np.array(state.game_variables)
        game.make_action(pressed, TICS_PER_FRAME)
    return np.stack(frames), float(np.hypot(*(last - start)))


def main(
    out: Annotated[Path, typer.Argument(help="A new folder of videos by class.")],
    clips: Annotated[int, typer.Option(min=len(ACTIONS), help="Number of videos; all classes have equally many.")] = 3000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the walks.")] = 0,
) -> None:
    """Record videos of a player in a maze, labeled by their action."""
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not an empty folder: name another one, or delete it first")
    game, generator = new_game(seed), np.random.default_rng(seed)
    for number in track(range(clips), f"recording {out}"):
        action = number % len(ACTIONS)
        while True:
            wander(game, generator)
            recorded = record(game, action)
            if recorded is None:
                game.new_episode()
            elif ACTIONS[action].startswith("turn") or recorded[1] > MOVED:
                break
        folder = out / ACTIONS[action]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.mp4").write_bytes(encode_video(recorded[0], FPS))
    print(f"{out}: {clips} videos of {FRAMES} frames, {len(ACTIONS)} classes")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"{error}")
