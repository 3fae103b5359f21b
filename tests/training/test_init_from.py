"""A run can begin with the networks of another, on clips of another length and size."""

import pytest
import torch
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.pretrain import pretrain
from jepa_pipeline.training.checkpoint import load_last

VIDEO = [
    "method.name=vjepa2",
    "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, positions: rope, embed_dim: 24, depth: 2, num_heads: 2}",
    "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]",
    "optim={batch_size_global: 4, total_samples: 16, warmup_samples: 0}",
]
STILL = [
    "name=second",
    "optim.lr=1e-20",
    "optim.start_lr=0",
    "optim.final_lr=0",
    "optim.weight_decay=0",
    "optim.total_samples=4",
    "method.ema=[1.0, 1.0]",
]


def state_of(folder):
    return load_last(folder / "checkpoints", print).state


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_second_phase_begins_where_the_first_ended(tiny, positions):
    kind = f"method.encoder.positions={positions}"
    quiet = Console(quiet=True)
    first = pretrain(tiny(*VIDEO, kind, "name=first"), quiet)
    larger = ["method.encoder.image_size=24", "method.encoder.frames=8", f"init_from={first}"]
    second = pretrain(tiny(*VIDEO, kind, *STILL, *larger), quiet)
    before, after = state_of(first), state_of(second)
    for name, value in before["module"].items():
        if isinstance(value, torch.Tensor) and name.startswith("method.") and not name.endswith("pos_embed"):
            assert torch.allclose(value, after["module"][name], atol=1e-7), name
    steps = {float(moments["step"]) for moments in after["optimizer"]["state"].values()}
    assert steps == {5.0}, "the optimiser's moments go on: four steps of the first phase and one of the second"
    assert after["step"] == 1
    fresh = state_of(pretrain(tiny(*VIDEO, kind, *STILL, *larger[:2], "name=third"), quiet))
    name = "method.encoder.blocks.0.attn.qkv.weight"
    assert not torch.allclose(before["module"][name], fresh["module"][name], atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.encoder.depth=3"], "whose networks are others than this run's"),
        (["method.encoder.tubelet_size=1"], "first difference: encoder.patch_embed.proj.weight"),
        (["optim.name=sgd", "optim.lr=0.1"], "whose optimiser is adamw, and this run's is sgd"),
        (["init_from=nowhere"], "nowhere, which holds no checkpoint"),
    ],
    ids=["depth", "tubelet", "optimiser", "no run"],
)
def test_a_run_that_does_not_fit_is_refused_and_leaves_nothing(tiny, overrides, sentence):
    quiet = Console(quiet=True)
    first = pretrain(tiny(*VIDEO, "name=first"), quiet)
    config = tiny(*VIDEO, f"init_from={first}", *overrides, "name=second")
    with pytest.raises(UserError, match=sentence):
        pretrain(config, quiet)
    assert not config.folder.exists()
