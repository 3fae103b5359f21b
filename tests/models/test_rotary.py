"""Rotary positions: attention hears of distances alone, save in the form that V-JEPA 2 was released with."""

import math

import pytest
import torch
from torch.nn import functional as F

from jepa_pipeline.models.rotary import gather_rope, rope_table
from jepa_pipeline.models.transformer import Transformer
from timm.layers import apply_rot_embed_cat

GRID = (4, 5, 6)


def place(number, grid):
    """Time step, row and column of a token."""
    return number // (grid[1] * grid[2]), number // grid[2] % grid[1], number % grid[2]


def turned_slowly(vector, where, tiled):
    """One head's channels at one place, a pair at a time; in the released form each channel of a pair has an angle of its own."""
    output, dim = vector.clone(), 2 * ((len(vector) // 3) // 2)
    for axis in range(3):
        angles = [where[axis] / 10_000 ** (k / (dim / 2)) for k in range(dim // 2)]
        angles = angles + angles if tiled else [angle for angle in angles for _ in range(2)]
        for even in range(0, dim, 2):
            a, b = vector[axis * dim + even], vector[axis * dim + even + 1]
            output[axis * dim + even] = a * math.cos(angles[even]) - b * math.sin(angles[even])
            output[axis * dim + even + 1] = b * math.cos(angles[even + 1]) + a * math.sin(angles[even + 1])
    return output


@pytest.mark.parametrize("tiled", [False, True], ids=["rope", "rope_tiled"])
@pytest.mark.parametrize(("head_dim", "rest"), [(6, 0), (24, 0), (32, 2), (64, 4), (80, 2)])
def test_every_pair_is_turned_by_its_angle(head_dim, rest, tiled):
    table = rope_table(GRID, head_dim, tiled)
    assert table.shape == (120, 2 * head_dim) and table.dtype == torch.float32
    heads = torch.randn(120, head_dim, dtype=torch.float64)
    turned = apply_rot_embed_cat(heads, table)
    slow = torch.stack([turned_slowly(vector, place(n, GRID), tiled) for n, vector in enumerate(heads)])
    assert torch.allclose(turned, slow, atol=1e-6)
    assert torch.equal(turned[:, head_dim - rest :], heads[:, head_dim - rest :])
    assert torch.equal(turned[0], heads[0])  # the origin turns nothing


def logits(queries, keys, table, first, steps):
    """Of all pairs of a box of places that begins at `first`."""
    box = [t * 64 + r * 8 + c for t, r, c in ((first[0] + t, first[1] + r, first[2] + c) for t, r, c in steps)]
    return apply_rot_embed_cat(queries, table[box]) @ apply_rot_embed_cat(keys, table[box]).T


@pytest.mark.parametrize("head_dim", [24, 32, 64, 80])
@pytest.mark.parametrize("shift", [(5, 0, 0), (0, 4, 0), (0, 0, 5), (3, 5, 2)])
def test_attention_depends_on_distances_alone_but_not_as_released(head_dim, shift):
    steps = [(t, r, c) for t in range(2) for r in range(3) for c in range(3)]
    queries, keys = (F.normalize(torch.randn(2, 18, head_dim, generator=torch.Generator().manual_seed(0)), dim=-1)).unbind()
    moved = {}
    for tiled in (False, True):
        table = rope_table((8, 8, 8), head_dim, tiled)
        here, there = (logits(queries, keys, table, first, steps) for first in ((0, 0, 0), shift))
        moved[tiled] = (here - there).abs().max()
    assert moved[False] < 1e-6 < 0.05 < moved[True]


def test_norms_stay_but_not_as_released():
    heads = torch.randn(120, 64)
    for tiled, low, high in ((False, 0.0, 1e-5), (True, 0.05, 10.0)):
        turned = apply_rot_embed_cat(heads, rope_table(GRID, 64, tiled))
        assert low <= (turned.norm(dim=1) / heads.norm(dim=1) - 1).abs().max() < high


def test_places_have_the_same_angles_in_every_grid():
    small, large = rope_table((2, 3, 4), 32, tiled=False), rope_table((5, 7, 9), 32, tiled=False)
    assert torch.equal(small.view(2, 3, 4, 64), large.view(5, 7, 9, 64)[:2, :3, :4])


def test_choices_of_samples_get_their_own_angles():
    table = rope_table(GRID, 24, tiled=False)
    index = torch.randint(120, (3, 7))
    chosen = gather_rope(table, index)
    assert chosen.shape == (3, 1, 7, 48)
    assert all(torch.equal(chosen[b, 0, k], table[index[b, k]]) for b in range(3) for k in range(7))


def test_bf16_rounds_what_goes_in_and_what_comes_out_alone(monkeypatch):
    torch.manual_seed(0)
    blocks, table = Transformer(64, 1, 2, 1.0, rotary=True), rope_table((64, 4, 4), 32, tiled=False)
    seen = {}

    def attend(q, k, v, **_):
        seen["turned"] = torch.stack([q, k])
        return v

    monkeypatch.setattr("timm.layers.attention.F.scaled_dot_product_attention", attend)
    blocks[0].attn.fused_attn = True
    blocks[0].attn.qkv.register_forward_hook(lambda *call: seen.update(qkv=call[2]))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        blocks(torch.randn(2, 1024, 64), table)
    assert seen["qkv"].dtype == seen["turned"].dtype == torch.bfloat16
    given = seen["qkv"].view(2, 1024, 3, 2, 32).permute(2, 0, 3, 1, 4)[:2]
    exact = apply_rot_embed_cat(given.double(), table.double())
    error = (seen["turned"].double() - exact).abs()
    assert (error <= exact.abs() * 2**-8 + 1e-6).all()  # half a unit in bf16's last place
    assert (error > exact.abs() * 2**-10).any()
