"""A run can begin with the networks of another, on clips of another length and size."""

import pytest
import torch
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.training.begun_from import read_initial_checkpoint
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.init_from_run import init_from_run
from jepa_pipeline.training.module import Pretraining

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
    return load_latest(folder / "checkpoints", print).state


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_second_phase_begins_where_the_first_ended(tiny, positions):
    kind = f"method.encoder.positions={positions}"
    quiet = Console(quiet=True)
    first = pretrain(tiny(*VIDEO, kind, "name=first"), quiet)
    larger = ["method.encoder.image_size=24", "method.encoder.frames=8", f"init_from={first}"]
    larger += ["method.encoder.init_depth_scaling=true", "method.predictor.mask_token_std=0"]  # of initial weights only
    second = pretrain(tiny(*VIDEO, kind, *STILL, *larger), quiet)
    before, after = state_of(first), state_of(second)
    for name, value in before["module"].items():
        if isinstance(value, torch.Tensor) and name.startswith("method.") and not name.endswith("pos_embed"):
            assert torch.allclose(value, after["module"][name], atol=1e-7), name
    steps = {float(moments["step"]) for moments in after["optimizer"]["state"].values()}
    assert steps == {5.0}, "the optimizer's moments go on: four steps of the first phase and one of the second"
    assert after["step"] == 1
    assert read_card(second).begun_from.startswith(str(first / "checkpoints/step-00000004")) and read_card(first).begun_from is None
    fresh = state_of(pretrain(tiny(*VIDEO, kind, *STILL, *larger[:2], "name=third"), quiet))
    name = "method.encoder.blocks.0.attn.qkv.weight"
    assert not torch.allclose(before["module"][name], fresh["module"][name], atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.encoder.depth=3"], "where method.encoder.depth is 2, but here it is 3: make it the same"),
        (["method.encoder.depth=1"], "where method.encoder.depth is 2, but here it is 1: make it the same"),
        (["method.encoder.num_heads=4"], "where method.encoder.num_heads is 2, but here it is 4"),
        (["method.predictor.num_heads=1"], "where method.predictor.num_heads is 2, but here it is 1"),
        (["method.encoder.positions=rope_tiled"], "where method.encoder.positions is rope, but here it is rope_tiled"),
        (["method.target=stop_gradient"], r"first difference: target\..*make target, regularizer, task"),
        (
            [
                "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}, {name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]"
            ],
            "first difference: predictor.mask_token",
        ),
        (["method.predictor.shared_mask_token=true"], "where method.predictor.shared_mask_token is False, but here it is True"),
        (["optim.name=sgd", "optim.lr=0.1"], "where optim.name is adamw, but here it is sgd"),
        (["init_from=hf:facebook/ijepa_vith14_1k"], "make one with `jepa import hf:facebook/ijepa_vith14_1k`"),
        (["init_from=nowhere"], "nowhere, but there is no such folder"),
        (["init_from=."], "which holds no checkpoint"),
    ],
    ids=[
        "depth",
        "fewer parameters",
        "heads",
        "predictor's heads",
        "rotary form",
        "target",
        "sets",
        "mask tokens",
        "optimizer",
        "name on a hub",
        "no folder",
        "no run",
    ],
)
def test_a_run_that_does_not_fit_is_refused_and_leaves_nothing(tiny, overrides, sentence):
    quiet = Console(quiet=True)
    first = pretrain(tiny(*VIDEO, "name=first"), quiet)
    config = tiny(*VIDEO, f"init_from={first}", *overrides, "name=second")
    with pytest.raises(UserError, match=sentence):
        pretrain(config, quiet)
    assert not config.folder.exists()


LEVEL = "predictor: {embed_dim: 16, depth: 1, num_heads: 2}, "
BLOCKS = "{name: masked, masks: [{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]}"
STACK = [
    "method={name: hjepa, levels: ["
    "{encoder: {image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, attention: causal, embed_dim: 24, depth: 2, num_heads: 2},"
    f" {LEVEL} task: {BLOCKS}}},"
    "{encoder: {stride: {time: 1, space: 2}, coarsening: conv, embed_dim: 16, depth: 1, num_heads: 2},"
    f" {LEVEL} task: {{name: forward}}}}]}}",
    "optim={batch_size_global: 4, total_samples: 16, warmup_samples: 0}",
]
LONGER = ["method.levels.0.encoder.image_size=24", "method.levels.0.encoder.frames=8"]


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_stack_goes_on_with_larger_and_longer_clips(tiny, positions):
    """The grids of all its levels grow; the strides, and so the networks, are the same."""
    kind, quiet = f"method.levels.0.encoder.positions={positions}", Console(quiet=True)
    first = pretrain(tiny(*STACK, kind, "name=first"), quiet)
    still = [*STILL[:-1], "method.levels.0.ema=[1.0, 1.0]", "method.levels.1.ema=[1.0, 1.0]"]
    config = tiny(*STACK, kind, *still, *LONGER, f"init_from={first}")
    assert [encoder.clip_grid for encoder in config.method.encoders] == [(4, 6, 6), (4, 3, 3)]
    before, after = state_of(first)["module"], state_of(pretrain(config, quiet))["module"]
    networks = [name for name in before if name.startswith("method.") and not name.endswith("pos_embed")]
    assert len(networks) > 100
    for name in networks:
        assert torch.allclose(before[name], after[name], atol=1e-7), name
    kept = load_encoder(config.folder)
    assert [encoder.grid for encoder in kept.encoders] == [(4, 6, 6), (4, 3, 3)]


SECOND = "method.levels.1.encoder"
MASKED = BLOCKS.replace("[0.2, 0.4]", "[0.25, 0.25]")
REFUSED = [
    ([f"{SECOND}.stride.space=4"], f"where {SECOND}.stride.space is 2, but here it is 4: make it the same"),
    ([*LONGER, f"{SECOND}.stride.time=2"], f"where {SECOND}.stride.time is 1, but here it is 2: make it the same"),
    ([f"{SECOND}.coarsening=pool"], f"where {SECOND}.coarsening is conv, but here it is pool"),
    ([f"{SECOND}.depth=2"], f"where {SECOND}.depth is 1, but here it is 2"),
    ([f"{SECOND}.num_heads=4"], f"where {SECOND}.num_heads is 2, but here it is 4"),
    (["method.levels.0.encoder.embed_dim=32"], "where method.levels.0.encoder.embed_dim is 24, but here it is 32"),
    (["method.levels.1.predictor.depth=2"], "where method.levels.1.predictor.depth is 1, but here it is 2"),
    (["method.levels.1.target=stop_gradient"], r"first difference: levels.1.target\..*: make target, regularizer"),
    ([f"method.levels.1.task={MASKED}"], r"first difference: levels.1.predictor.mask_token"),
]


def test_a_stack_of_another_shape_is_refused(tiny):
    quiet = Console(quiet=True)
    first = pretrain(tiny(*STACK, "name=first", "optim.total_samples=4"), quiet)
    levels = tiny(*STACK).method.levels
    lower = tiny(*STACK, f"init_from={first}", "name=lower")
    lower = lower.model_copy(update={"method": lower.method.model_copy(update={"levels": levels[:1]})})
    refused = [(lower, f"where {SECOND}.coarsening is conv, but here it is None; .* and 8 more keys differ: make them the same")]
    refused += [(tiny(*STACK, f"init_from={first}", *overrides, "name=second"), sentence) for overrides, sentence in REFUSED]
    for config, sentence in refused:
        with pytest.raises(UserError, match=sentence):
            pretrain(config, quiet)
        assert not config.folder.exists()


def test_only_the_moments_come_from_there(tiny):
    first = pretrain(tiny(*VIDEO, "name=first"), Console(quiet=True))
    config = tiny(*VIDEO, "optim.betas=[0.5, 0.6]", f"init_from={first}", "name=second")
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
    config.folder.mkdir()
    state = init_from_run(module, first, config, print)
    optimizer = module.configure_optimizers()
    optimizer.load_state_dict(state)
    assert all(group["betas"] == (0.5, 0.6) for group in optimizer.param_groups)
    saved = state_of(first)["optimizer"]["state"]
    assert all(torch.equal(saved[number]["exp_avg"], state["state"][number]["exp_avg"]) for number in saved)


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_same_again(tiny):
    """The first run has gone on meanwhile; what it was then is still there, or its absence is said."""
    quiet = Console(quiet=True)
    first = pretrain(tiny(*VIDEO, "name=first", "checkpoint.every_steps=2"), quiet)
    config = tiny(*VIDEO, f"init_from={first}", "name=second")
    older, newest = sorted((first / "checkpoints").glob("step-*"))
    newest.rename(first / "newest")

    def begin():
        module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
        init_from_run(module, first, config, print)
        return module.method.encoder.norm.weight.clone()

    config.folder.mkdir()
    before = begin()
    (first / "newest").rename(newest)
    assert torch.equal(before, begin())
    older.rename(first / "older")
    with pytest.raises(UserError, match="which is no longer in"):
        begin()


def test_another_runs_folder_is_never_changed(tiny):
    """Nor is it named as what to delete."""
    quiet, told = Console(quiet=True), []
    first = pretrain(tiny(*VIDEO, "name=first", "checkpoint.every_steps=2"), quiet)
    checkpoints = sorted((first / "checkpoints").glob("step-*"))
    (checkpoints[1] / "state.pt").write_bytes(b"")

    def begin(name):
        config = tiny(*VIDEO, f"init_from={first}", f"name={name}")
        config.folder.mkdir(exist_ok=True)
        module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
        init_from_run(module, first, config, told.append)

    begin("second")
    assert "step-00000004 is damaged" in told[0] and told[0].endswith("using the one before it")
    (checkpoints[0] / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-00000002, which is damaged \(.metadata is not what was written\): copy it back"):
        begin("second")
    with pytest.raises(UserError, match=r"first, where .*step-00000002 is damaged .* and no other is left: name another run"):
        begin("third")
    assert sorted((first / "checkpoints").glob("step-*")) == checkpoints


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"path": "runs/a"}', b"\xff\xfe", b'{"path": "a", "step": "many"}'])
def test_a_damaged_record_of_the_first_weights_is_one_sentence(tmp_path, content):
    assert read_initial_checkpoint(tmp_path) is None
    (tmp_path / "begun_from.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"^\S*begun_from.json is damaged: copy it back, or delete this run's folder to start over$"
    ):
        read_initial_checkpoint(tmp_path)
