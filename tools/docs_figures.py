"""Draw the figures of the documentation: `python tools/docs_figures.py` writes docs/figures/*.svg.

Masks are those that the samplers themselves return, so that the pictures show what is trained.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.video_masks import BlocksConfig, CausalConfig
from jepa_pipeline.masks.causal import Causal
from jepa_pipeline.masks.multiblock import MultiBlock
from jepa_pipeline.masks.multiblock3d import MultiBlock3d

FOLDER = Path(__file__).parents[1] / "docs/figures"
CONTEXT, HIDDEN, TARGETS = "#4878a8", "#e4e4e4", ("#d9822b", "#c0504d", "#e0b23c", "#9a5ea1")
TRAINED, AVERAGED, LOSS, INK = "#dce9f5", "#fbe9d3", "#f7d9d9", "#333333"
SEED = 4
CELL = 12


class Drawing:
    """An SVG image on a white ground, so that it can be read in light and dark pages."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'font-family="sans-serif" font-size="13" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]

    def text(self, x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> None:
        self.lines.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(words)}</text>')

    def rectangle(self, x: float, y: float, width: float, height: float, fill: str, extra: str = "") -> None:
        self.lines.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"{extra}/>')

    def box(self, x: float, y: float, width: float, height: float, words: str, fill: str) -> None:
        """Draw a network or a loss; `words` may have several lines."""
        self.rectangle(x, y, width, height, fill, f' stroke="{INK}" rx="6"')
        lines = words.split("\n")
        for number, line in enumerate(lines):
            self.text(x + width / 2, y + height / 2 + 5 + 16 * (number - (len(lines) - 1) / 2), line)

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.lines.append(
            f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.3"{dashes} marker-end="url(#tip)"/>'
        )

    def grid(self, x: float, y: float, colors: Sequence[Sequence[str]], cell: float = CELL) -> None:
        """Draw patches, a color each; those of one color are one path."""
        paths: dict[str, str] = {}
        for row, line in enumerate(colors):
            for column, color in enumerate(line):
                corner = f"M{x + column * cell:g} {y + row * cell:g}"
                paths[color] = paths.get(color, "") + f"{corner}h{cell - 1:g}v{cell - 1:g}h{1 - cell:g}z"
        self.lines += [f'<path fill="{color}" d="{path}"/>' for color, path in paths.items()]

    def finish(self) -> str:
        return "\n".join([*self.lines, "</svg>"]) + "\n"


def patch_colors(shape: tuple[int, ...], context: np.ndarray, targets: Sequence[np.ndarray]) -> np.ndarray:
    """Return the color of each patch of a grid (..., rows, columns): context, a target block, or hidden."""
    colors = np.full(int(np.prod(shape)), HIDDEN, dtype=object)
    for number, block in enumerate(targets):
        colors[block] = TARGETS[number % len(TARGETS)]
    colors[context] = CONTEXT
    return colors.reshape(shape)


def image_masks(side: int = 14, seed: int = SEED) -> np.ndarray:
    """Return the colors of I-JEPA's masks of one image."""
    sampler = MultiBlock(MultiBlockConfig.model_validate({}), (side, side))
    masks = sampler([np.random.default_rng(seed)], 0)
    return patch_colors((side, side), masks.context[0].numpy(), [*masks.targets[0].numpy()])


def jepa() -> str:
    """Context, target and prediction of I-JEPA."""
    draw, colors = Drawing(860, 330, "A joint-embedding predictive architecture"), image_masks(10)
    visible = np.where(colors == CONTEXT, CONTEXT, HIDDEN)
    draw.grid(20, 40, [*visible], 11)
    draw.text(20, 30, "visible patches (context)", "start")
    draw.grid(20, 205, [["#8fb3d4"] * 10] * 10, 11)
    draw.text(20, 195, "the whole image", "start")
    draw.box(180, 60, 120, 60, "context\nencoder", TRAINED)
    draw.box(380, 60, 120, 60, "predictor", TRAINED)
    draw.box(180, 230, 120, 60, "target\nencoder", AVERAGED)
    draw.box(690, 145, 140, 60, "distance\n(the loss)", LOSS)
    draw.arrow((135, 90), (178, 90))
    draw.arrow((300, 90), (378, 90))
    draw.text(339, 80, "tokens")
    draw.arrow((135, 260), (178, 260))
    draw.arrow((300, 260), (520, 260))
    draw.text(410, 250, "layer norm, hidden patches only")
    predicted = np.where(np.isin(colors, TARGETS), colors, "#f4f4f4")
    draw.grid(530, 40, [*predicted], 9)
    draw.text(575, 30, "predicted representation")
    draw.grid(530, 215, [*predicted], 9)
    draw.text(575, 205, "target representation")
    draw.arrow((500, 90), (526, 90))
    draw.arrow((622, 90), (655, 90), (655, 165), (688, 165))
    draw.arrow((622, 260), (655, 260), (655, 185), (688, 185))
    draw.arrow((440, 145), (440, 122))
    draw.text(440, 160, "mask tokens: where to predict")
    draw.arrow((240, 122), (240, 228), dashed=True)
    draw.text(250, 180, "EMA, no gradient", "start")
    return draw.finish()


def masks() -> str:
    """Masks of images and clips, as the samplers return them."""
    draw = Drawing(860, 500, "Masks: what is context and what is target")
    draw.text(20, 22, "I-JEPA (multiblock): context, four target blocks, and patches that are neither", "start")
    for number in range(4):
        draw.grid(20 + 200 * number, 34, [*image_masks(seed=SEED + number)])
    grid = (8, 14, 14)
    rows: list[tuple[str, BlocksConfig | CausalConfig, Callable[..., MultiBlock3d | Causal]]] = [
        ("V-JEPA (blocks): blocks of space and time; eight time steps of one clip", blocks(), MultiBlock3d),
        ("causal: the future from the past", CausalConfig.model_validate({"name": "causal", "context_time": 0.5}), Causal),
    ]
    for number, (words, config, sampler) in enumerate(rows):
        sampled = sampler(config, grid)([np.random.default_rng(SEED)], 0)
        colors = patch_colors(grid, sampled.context[0].numpy(), [*sampled.targets[0].numpy()])
        top = 245 + 125 * number
        draw.text(20, top - 10, words, "start")
        for step in range(grid[0]):
            draw.grid(20 + 103 * step, top, [*colors[step]], 6)
    for number, (color, words) in enumerate(
        ((CONTEXT, "context: encoded"), (TARGETS[0], "target: predicted"), (HIDDEN, "neither"))
    ):
        draw.rectangle(20 + 170 * number, 473, 12, 12, color)
        draw.text(38 + 170 * number, 484, words, "start")
    return draw.finish()


def blocks() -> BlocksConfig:
    return BlocksConfig.model_validate(
        {"name": "blocks", "num_blocks": 4, "scale": [0.15, 0.15], "context_keep": 0.3, "target_keep": 0.4}
    )


def ema() -> str:
    """The target as a moving average, and the schedule of its momentum."""
    draw = Drawing(860, 230, "The target encoder is a moving average of the context encoder")
    draw.text(20, 24, "after every optimizer step:  target ← m · target + (1 − m) · encoder", "start")
    for number in range(4):
        x = 20 + 120 * number
        draw.box(x, 50, 80, 40, f"encoder {number}", TRAINED)
        draw.box(x, 150, 80, 40, f"target {number}", AVERAGED)
        draw.arrow((x + 40, 90), (x + 40, 148), dashed=True)
        if number < 3:
            draw.arrow((x + 80, 70), (x + 118, 70))
            draw.arrow((x + 80, 170), (x + 118, 170))
    draw.text(186, 125, "1 − m", "start")
    draw.text(119, 162, "m")
    draw.text(119, 62, "step")
    left, right, top, bottom = 590, 830, 60, 180
    draw.arrow((left, bottom), (left, top - 15))
    draw.arrow((left, bottom), (right + 15, bottom))
    draw.lines.append(
        f'<polyline points="{left},{bottom - 20} {right},{top}" fill="none" stroke="{TARGETS[0]}" stroke-width="2.5"/>'
    )
    draw.text(left - 8, bottom - 16, "0.996", "end")
    draw.text(left - 8, top + 5, "1", "end")
    draw.text((left + right) / 2, bottom + 20, "optimizer steps")
    draw.text((left + right) / 2, top - 20, "momentum m (method.ema)")
    return draw.finish()


def views() -> str:
    """Methods that compare views."""
    draw = Drawing(860, 230, "Joint embedding: two views of one image have similar embeddings")
    draw.rectangle(20, 75, 90, 90, "#8fb3d4")
    draw.text(65, 62, "image")
    for y, words in ((35, "view 1"), (145, "view 2")):
        draw.rectangle(180, y, 55, 55, "#b9cfe4")
        draw.text(207, y - 7, words)
        draw.arrow((110, 120), (178, y + 27))
        draw.box(290, y, 110, 55, "encoder", TRAINED)
        draw.box(450, y, 110, 55, "projector", TRAINED)
        draw.arrow((235, y + 27), (288, y + 27))
        draw.arrow((400, y + 27), (448, y + 27))
        draw.arrow((560, y + 27), (620, y + 27), (660, 105 if y == 35 else 130))
    draw.text(345, 123, "the same weights")
    draw.text(505, 123, "the same weights")
    draw.box(662, 85, 175, 65, "similar pairs, and\na term against collapse", LOSS)
    return draw.finish()


def hierarchy() -> str:
    """Levels of an H-JEPA: coarser in space and time, each with an encoder, a predictor and a loss."""
    draw = Drawing(860, 350, "A hierarchy of JEPAs")
    levels = [
        ("pixels: 16 frames", 8, 8, "#b9cfe4"),
        ("level 1: 8 time steps of 4 x 4 tokens", 8, 4, CONTEXT),
        ("level 2: 2 time steps of 2 x 2 tokens", 2, 2, TARGETS[3]),
    ]
    for number, (words, steps, side, color) in enumerate(levels):
        y = 265 - 115 * number
        span = 400 / steps
        cell = 40 / side
        for step in range(steps):
            draw.grid(30 + span * (step + 0.5) - 20, y, [[color] * side] * side, cell)
        draw.text(30, y + 60, words, "start")
        if number:
            draw.arrow((230, y + 113), (230, y + 66))
            draw.box(480, y - 5, 110, 50, f"encoder {number}", TRAINED)
            draw.box(625, y - 5, 100, 50, f"predictor {number}", TRAINED)
            draw.box(760, y - 5, 80, 50, f"loss {number}", LOSS)
            draw.arrow((590, y + 20), (623, y + 20))
            draw.arrow((725, y + 20), (758, y + 20))
    draw.text(675, 97, "far ahead, little detail")
    draw.text(675, 212, "soon, in detail")
    draw.arrow((535, 283), (535, 197))
    draw.text(545, 262, "patches", "start")
    draw.arrow((535, 143), (535, 82))
    draw.text(545, 120, "tokens, coarsened", "start")
    return draw.finish()


FIGURES = {"jepa": jepa, "masks": masks, "ema": ema, "views": views, "hierarchy": hierarchy}

if __name__ == "__main__":
    for name, draw_figure in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw_figure())
