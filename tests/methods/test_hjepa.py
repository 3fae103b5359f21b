"""H-JEPA: one level equals the flat method, and no level sees what its task masks."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.masks.build import build_mask_samplers, build_samplers_by_level
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.level_inputs import LevelInputs
from jepa_pipeline.models.coarse import tokens_below
from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.tokens import layer_norm

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
BLOCKS = "{name: blocks, num_blocks: 2, scale: [0.25, 0.3], context_keep: 0.25, target_keep: 0.4}"
MASKED = f"{{name: masked, masks: [{BLOCKS}]}}"
SIZES = "embed_dim: 16, depth: 1, num_heads: 2"
PREDICTOR = "{embed_dim: 16, depth: 1, num_heads: 2}"


def clips(*levels, attention="full", **changes):
    """Return the configuration of a stack on clips of 8 frames, 4x4x4 tubelets; levels: YAML of those above the first."""
    encoder = f"{{image_size: 24, patch_size: 6, frames: 8, tubelet_size: 2, attention: {attention}, {SIZES}}}"
    first = {"encoder": encoder, "predictor": PREDICTOR, "task": MASKED} | changes
    flow = ", ".join(["{" + ", ".join(f"{key}: {value}" for key, value in first.items()) + "}", *levels])
    return load_config(DEBUG / "hjepa.yaml", [f"method.levels=[{flow}]"]).method


def coarse(task=MASKED, stride="{time: 2, space: 2}", **changes):
    level = {"encoder": f"{{stride: {stride}, {SIZES}}}", "predictor": PREDICTOR, "task": task} | changes
    return "{" + ", ".join(f"{key}: {value}" for key, value in level.items()) + "}"


COARSE_BLOCKS = "{name: masked, masks: [{name: blocks, num_blocks: 1, scale: [0.25, 0.25], context_keep: 0.25, target_keep: 0.25}]}"
FORWARD, NEXT = "{name: forward, horizon: 2}", "{name: forward, horizon: 1}"


def build(config, seed=0):
    torch.manual_seed(seed)
    return build_method(config)


def batch_of(config, samples=4, seed=0, dtype=torch.float32):
    encoder = config.encoder
    time = [encoder.frames] if encoder.modality.has_time else []
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(samples, 3, *time, encoder.image_size, encoder.image_size, generator=generator, dtype=dtype)
    generators = [np.random.default_rng([seed, n]) for n in range(samples)]
    return Batch([pixels], [sampler(generators, seed) for sampler in build_mask_samplers(config)], None, [], [])


def train(method, config, steps=4):
    """Train a few steps with AdamW and return the losses."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.stack(list(method(batch_of(config, seed=step), step, seed=step).losses.values())).sum()
        loss.backward()
        optimizer.step()
        method.after_optimizer_step(step + 1, 10)
        losses.append(loss.detach())
    return losses


def gradients(method, batch, prefix="levels.0."):
    method.zero_grad()
    sum(method(batch, step=0, seed=0).losses.values()).backward()
    named = {name: parameter.grad for name, parameter in method.named_parameters() if name.startswith(prefix)}
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("ijepa", []),
        ("ijepa_vicreg", []),
        ("vjepa", []),
        ("vjepa", ["method.target=stop_gradient", "method.regularizer={name: sigreg}", "views.crops=[{count: 2}]"]),
    ],
)
def test_one_level_is_the_flat_method_bit_for_bit(recipe, overrides):
    flat = load_config(DEBUG / f"{recipe}.yaml", overrides).method
    masks = flat.masks if isinstance(flat.masks, tuple) else (flat.masks,)
    level = flat.model_dump(include={"encoder", "predictor", "target", "ema", "regularizer"})
    task = {"name": "masked", "masks": [mask_set.model_dump() for mask_set in masks]}
    stacked = type(load_config(DEBUG / "hjepa.yaml").method).model_validate(
        {"name": "hjepa", "levels": [{**level, "task": task, "distance": flat.distance}]}
    )
    jepa, hjepa = build(flat), build(stacked)
    assert train(jepa, flat) == train(hjepa, stacked)
    level = {name.removeprefix("levels.0."): value for name, value in hjepa.state_dict().items()}
    assert jepa.state_dict().keys() == level.keys()
    assert all(torch.equal(value, level[name]) for name, value in jepa.state_dict().items())
    assert isinstance(hjepa.encoder_to_export, Encoder)
    energies = jepa.energy(batch_of(flat))[0], hjepa.energy(batch_of(stacked))[0]
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(*energies, strict=True))


@pytest.mark.parametrize("task", [COARSE_BLOCKS, NEXT])
def test_a_detached_level_does_not_change_the_gradients_below(task):
    flat, stack = clips(attention="causal"), clips(coarse(task), attention="causal")
    below, both = build(flat), build(stack)
    assert all(torch.equal(both.state_dict()[name], value) for name, value in below.state_dict().items())
    expected, found = gradients(below, batch_of(flat)), gradients(both, batch_of(stack))
    assert expected.keys() == found.keys() and len(expected) > 20
    assert all(torch.equal(gradient, found[name]) for name, gradient in expected.items())


@pytest.mark.parametrize("task", [COARSE_BLOCKS, NEXT])
def test_a_level_that_is_not_detached_trains_the_encoders_below(task):
    flat, stack = clips(attention="causal"), clips(coarse(task, detach="false"), attention="causal")
    expected, found = gradients(build(flat), batch_of(flat)), gradients(build(stack), batch_of(stack))
    moved = [name for name, gradient in expected.items() if not torch.allclose(gradient, found[name])]
    assert moved and all("encoder" in name for name in moved)  # not the predictor below


def test_a_masked_level_sees_only_the_patches_under_its_context_tokens():
    config = clips(coarse(COARSE_BLOCKS))
    method, batch = build(config), batch_of(config)
    (pixels,), masks = batch.views, batch.masks[1]
    before = method.energy(batch)[1]
    visible = torch.zeros(4, 2, 2, 2, dtype=torch.bool).flatten(1).scatter(1, masks.context, True).view(4, 1, 2, 2, 2)
    visible = visible.repeat_interleave(4, 2).repeat_interleave(12, 3).repeat_interleave(12, 4)
    assert 0 < visible.float().mean() < 0.5
    changed = torch.where(visible, pixels, torch.randn_like(pixels))
    contexts = [LevelInputs(method.jepas, [True, True], x).contexts(1, [masks])[0] for x in (pixels, changed)]
    assert torch.equal(*contexts)
    assert not torch.equal(before.targets, method.energy(batch._replace(views=[changed]))[1].targets)


def test_all_levels_of_a_forward_stack_are_causal():
    config = clips(coarse(NEXT), attention="causal", task=NEXT)
    method, batch = build(config), batch_of(config)
    pixels = batch.views[0].clone()
    pixels[:, :, 4:] = torch.randn_like(pixels[:, :, 4:])  # the last two of four steps; above, the second of two
    with torch.no_grad():
        original, altered = (method.encoder_to_export.level_intermediates(x, 1) for x in (batch.views[0], pixels))
    for ((before,), (after,)), past in zip(zip(original, altered, strict=True), (2 * 16, 1 * 4), strict=True):
        assert torch.allclose(before[:, :past], after[:, :past], atol=1e-6)
        assert not torch.allclose(before[:, past:], after[:, past:], atol=1e-2)


def test_a_window_of_one_encodes_every_time_step_separately():
    config = clips(attention="causal, window: 1")
    encoder, (pixels,) = build(config).jepas[0].encoder, batch_of(config).views
    changed = pixels.clone()
    changed[:, :, 2:4] = torch.randn_like(changed[:, :, 2:4])
    with torch.no_grad():
        same = torch.isclose(encoder(pixels), encoder(changed), atol=1e-6).all(-1).unflatten(1, (4, 16))
        mask = torch.tensor([[17, 3, 40]]).expand(4, -1)
        assert torch.allclose(encoder(pixels, masks=[mask])[0][:, 1], encoder(changed, masks=[mask])[0][:, 1], atol=1e-6)
    assert same[:, [0, 2, 3]].all() and not same[:, 1].any()


def test_each_target_encoder_runs_once_per_step():
    half = "{name: masked, masks: [{name: blocks, num_blocks: 1, scale: [1, 1], time: [0.5, 0.5], context_keep: 0.5}]}"
    config = clips(coarse(COARSE_BLOCKS), coarse(half, "{space: 2}"))
    method, calls = build(config), []
    for number, level in enumerate(method.jepas):
        level.target.register_forward_hook(lambda _, given, mask, number=number: calls.append((number, mask)))
    method(batch_of(config), step=0, seed=0)
    # then the contexts of the upper levels, through the exported encoders below, with as many tokens as they cover
    assert [number for number, _ in calls[:3]] == [0, 1, 2]
    assert sorted(number for number, _ in calls[3:]) == [0, 0, 1]
    assert [mask[0].shape[1] for number, mask in calls[3:] if number == 0] == [2 * 8, 1 * 4 * 8]


def test_the_loss_is_the_weighted_sum_of_the_levels():
    light, heavy = (clips(coarse(COARSE_BLOCKS, weight=weight)) for weight in (1.0, 3.0))
    one, other = build(light)(batch_of(light), step=0, seed=0).losses, build(heavy)(batch_of(heavy), step=0, seed=0).losses
    assert list(one) == ["level1/weighted/prediction", "level2/weighted/prediction"]
    assert one["level1/weighted/prediction"] == other["level1/weighted/prediction"]
    assert torch.isclose(3 * one["level2/weighted/prediction"], other["level2/weighted/prediction"])
    plain = build(heavy)(batch_of(heavy), step=0, seed=0).metrics["level2/prediction"]
    assert torch.isclose(one["level2/weighted/prediction"], plain) and not plain.requires_grad


@pytest.mark.parametrize("coarsening", ["pool", "conv"])
def test_a_token_is_computed_from_the_tokens_below_it(coarsening):
    config = clips(f"{{encoder: {{stride: {{time: 2, space: 2}}, coarsening: {coarsening}, {SIZES}}}, task: {COARSE_BLOCKS}}}")
    encoder = build(config).jepas[1].encoder
    tokens = torch.randn(1, 64, 16)
    made = encoder.patch_embed(tokens.unflatten(1, (4, 4, 4)).movedim(-1, 1))[0]
    members = tokens_below(torch.arange(8)[None], encoder.config).view(8, 8)
    for cell, (time, row, column) in enumerate(product(range(2), repeat=3)):
        inside = [((2 * time + t) * 4 + 2 * row + y) * 4 + 2 * column + x for t, y, x in product(range(2), repeat=3)]
        assert members[cell].tolist() == inside
        weight, bias = encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias
        if coarsening == "pool":
            expected = weight @ tokens[0, inside].mean(0) + bias
        else:
            expected = (
                sum(weight[:, :, t, y, x] @ tokens[0, inside[t * 4 + y * 2 + x]] for t, y, x in product(range(2), repeat=3)) + bias
            )
        assert torch.allclose(made[cell], expected, atol=1e-5)


def test_a_forward_level_equals_a_loop_over_samples_and_steps():
    config = clips(attention="causal", task=FORWARD)
    method = build(config).double()
    batch = batch_of(config, samples=2, dtype=torch.float64)
    (pixels,), level = batch.views, method.jepas[0]
    online, target = level.encoder(pixels), layer_norm(level.target(pixels).detach())
    states, ahead = layer_norm(online), {1: [], 2: []}
    for sample, start in product(range(2), range(4)):
        state = states[sample, start * 16 : start * 16 + 16]
        for step in (1, 2):
            prediction = level.predictor(state[None])[0]
            state = layer_norm(prediction)
            if start + step < 4:
                ahead[step].append(F.l1_loss(prediction, target[sample, (start + step) * 16 : (start + step + 1) * 16]).item())
    output = method(batch, step=0, seed=0)
    for step, errors in ahead.items():
        assert output.metrics[f"level1/prediction/ahead{step}"].item() == pytest.approx(np.mean(errors), rel=1e-6)
    assert output.losses["level1/weighted/prediction"].item() == pytest.approx(
        np.mean([np.mean(errors) for errors in ahead.values()]), rel=1e-6
    )
    error = method.energy(batch)[0].error
    assert error[:, :2].isnan().all() and not error[:, 2:].isnan().any()
    assert error[:, 3].mean(dim=(1, 2)).tolist() == pytest.approx([ahead[2][1], ahead[2][3]], rel=1e-6)


def test_a_roll_out_continues_from_its_own_predictions():
    config = clips(attention="causal", task=FORWARD).encoders[0]
    predictor = ForwardPredictor(load_config(DEBUG / "hjepa.yaml").method.levels[0].predictor, config).eval()
    states = torch.randn(2, 5, 16, 16)  # of two clips and five time steps
    ahead = predictor.roll_out(states, 3)
    assert ahead.shape == (2, 5, 3, 16, 16)
    assert torch.allclose(ahead[:, :, 1:], predictor.roll_out(layer_norm(ahead[:, :, 0]), 2), atol=1e-6)
    assert torch.allclose(ahead[1, 3], predictor.roll_out(states[1, 3], 3), atol=1e-6)


def test_a_world_model_encodes_and_rolls_out_as_the_energy_does():
    config = clips(coarse(NEXT), attention="causal", task=FORWARD)
    method, batch = build(config), batch_of(config)
    train(method, config)  # until targets differ from the trained encoders
    for number, (energy, steps) in enumerate(zip(method.energy(batch), (2, 1), strict=True), start=1):
        world = method.world_model(number)
        states = world.encode(batch.views[0])
        assert world.roll_out(states[:, 0], 7).shape == (len(states), 7, *states.shape[2:])
        ahead = world.roll_out(states[:, -1 - steps], steps)
        error = (ahead - energy.targets.flatten(2, 3)[:, -steps:]).abs().mean(-1)
        assert torch.allclose(error, energy.error[:, -steps:].flatten(2), atol=1e-5)
    connected = build(clips(coarse(NEXT, detach="false"), attention="causal", task=FORWARD))
    assert connected.encoders_behind(2) == [level.encoder for level in connected.jepas]
    assert method.encoders_behind(2) == [method.jepas[0].target, method.jepas[1].encoder]
    with pytest.raises(ValueError, match="level 3 of a stack of 2"):
        method.world_model(3)
    clip = batch.views[0]
    with pytest.raises(ValueError, match=f"^clips have {clip.shape[2] + 2} frames, but the encoder was trained on {clip.shape[2]}"):
        world.encode(torch.cat([clip, clip[:, :, :2]], 2))
    with pytest.raises(ValueError, match=f"^clips have {2 * clip.shape[3]}x{clip.shape[3]} pixels, but the encoder was trained on"):
        world.encode(torch.cat([clip, clip], 3))
    assert torch.allclose(world.encode(clip[:, :, :-4]), world.encode(clip)[:, : (clip.shape[2] - 4) // 4], atol=1e-5)
    with pytest.raises(ValueError, match="its task is masked"):
        build(clips()).world_model(1)


def test_a_conditional_roll_out_learns_the_effect_of_conditions():
    """Each step moves a single token by its condition, so its position after three steps depends on all three conditions."""
    config = load_config(DEBUG / "hjepa.yaml").method
    encoder = config.encoder.model_copy(update={"image_size": 6, "embed_dim": 8, "num_heads": 2})
    torch.manual_seed(0)
    predictor = ForwardPredictor(config.levels[0].predictor, encoder, condition_dim=2)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=3e-3)
    directions = torch.randn(2, 8)

    def draw(samples):
        actions = torch.randn(samples, 4, 2)
        positions = torch.randn(samples, 1, 8) + torch.cat([torch.zeros(samples, 1, 8), (actions @ directions)[:, :3].cumsum(1)], 1)
        return layer_norm(positions)[:, :, None], actions

    for _ in range(300):
        states, actions = draw(128)
        loss = F.l1_loss(predictor.roll_out(states[:, 0], 3, actions[:, :3]), states[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    states, actions = draw(512)
    with torch.no_grad():
        true = F.l1_loss(predictor.roll_out(states[:, 0], 3, actions[:, :3]), states[:, 1:])
        wrong = F.l1_loss(predictor.roll_out(states[:, 0], 3, actions[:, :3].roll(1, 0)), states[:, 1:])
    assert true < 0.5 * wrong
    with pytest.raises(ValueError, match="needs conditions"):
        predictor(states[:, 0])


def test_a_stack_returns_the_features_of_any_level_or_all():
    config = clips(coarse(COARSE_BLOCKS))
    stack, pixels = build(config).encoder_to_export, batch_of(config).views[0]
    assert isinstance(stack, Stack) and (stack.width, stack.depth) == (32, 1)
    first, second = (stack.read_level(level)(pixels) for level in (1, 2))
    assert first.shape == (4, 64, 16) and second.shape == (4, 8, 16)
    both = stack(pixels).unflatten(1, (4, 4, 4))
    assert torch.equal(both[..., :16].flatten(1, 3), first)
    assert torch.equal(both[:, 2, 1, 3, 16:], second[:, 0b101])  # step 2 of 4, row 1 of 4, column 3 of 4
    assert torch.allclose(stack.pooled(pixels), torch.cat([first.mean(1), second.mean(1)], 1), atol=1e-6)
    pooled, blocks = stack.pooled_and_intermediates(pixels, 1)
    assert torch.allclose(pooled, stack.pooled(pixels), atol=1e-6) and torch.equal(blocks[0], stack(pixels))
    assert stack.pooled(pixels[:, :, :1]).shape == (4, 32)  # a single frame is repeated for every level
    with pytest.raises(ValueError, match="level 3 of a stack of 2"):
        stack.read_level(3)


def test_levels_of_images_mask_their_own_grids():
    multiblock = "{name: multiblock, num_targets: 1, target_scale: [0.2, 0.3], context_keep: 0.3}"
    task = f"{{name: masked, masks: [{multiblock}]}}"
    image = f"{{image_size: 32, patch_size: 4, {SIZES}}}"
    config = clips(coarse(task, "{space: 2}"), encoder=image, task=task)
    assert [sampler.grid for level in build_samplers_by_level(config) for sampler in level] == [(8, 8), (4, 4)]
    output = build(config)(batch_of(config), step=0, seed=0)
    assert output.above[0].features.shape == (4, 16) and all(loss.requires_grad for loss in output.losses.values())


def test_the_energy_is_the_distance_at_each_token():
    config = clips(coarse(COARSE_BLOCKS))
    method, batch = build(config), batch_of(config)
    losses, energies = method(batch, step=0, seed=0).losses, method.energy(batch)
    for number, (energy, masks) in enumerate(zip(energies, batch.masks, strict=True), start=1):
        predicted = torch.zeros_like(energy.error.flatten(1), dtype=torch.bool).scatter(1, masks.targets.flatten(1), True)
        assert torch.equal(~energy.error.flatten(1).isnan(), predicted)
        assert torch.isclose(energy.error[~energy.error.isnan()].mean(), losses[f"level{number}/weighted/prediction"], rtol=1e-5)
        assert not energy.error.requires_grad and math.prod(energy.targets.shape[1:4]) == predicted.shape[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method.levels.1.encoder.stride.time=3", "level 2: encoder.stride.time 3 does not divide the 4 time steps"),
        ("method.levels.0.encoder.attention=full", "set attention of the first level's encoder to causal"),
        ("method.levels.1.task.horizon=2", "leaves no past of 2 time steps"),
        ("method.levels.1.encoder.stride.time=4", "forward needs two time steps or more, but the level has one"),
        ("method.levels.1.encoder.num_heads=5", "embed_dim 32 is not a multiple of num_heads 5"),
        ("method.levels.1.encoder.dept=3", "did you mean 'method.levels.1.encoder.depth'"),
        ("method.levels.1.task.name=forwards", "did you mean 'forward'"),
        ("method.levels.0.task.masks=[{name: multiblock}]", "choose blocks or causal"),
        ("method.levels.0.target=shared", "collapses"),
        ("method.levels.0.detach=false", "there is no level below: remove detach"),
        ("method.levels.0.encoder.window=9", "more than the 4 time steps"),
        ("method.levels.1.encoder.window=3", "more than the 2 time steps"),
        (
            "method.levels.0.encoder={attention: full, window: 2}",
            "or remove window",
        ),
    ],
)
def test_an_invalid_configuration_has_an_error_of_one_sentence(change, message):
    with pytest.raises(ConfigError) as error:
        load_config(DEBUG / "hjepa.yaml", [change])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_error_for_an_upper_level_without_stride_names_the_stride():
    with pytest.raises(ConfigError) as error:
        clips(coarse(encoder=f"{{coarsening: conv, {SIZES}}}"))
    assert "stride" in str(error.value) and "attention" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_a_level_above_a_single_time_step_has_image_masks(attention):
    """If each token of a level spans the clip, the level above can mask only in space."""
    images = "{name: masked, masks: [{name: multiblock, num_targets: 1, target_scale: [0.1, 0.3], target_aspect: [0.7, 1.5], context_keep: 0.3}]}"
    blocks = "{name: masked, masks: [{name: blocks, num_blocks: 1, scale: [0.2, 0.3], context_keep: 0.25, target_keep: 0.2}]}"
    levels = coarse(blocks, "{time: 4}"), coarse(images, "{space: 1}")
    config = clips(*levels, attention=attention)
    assert [encoder.clip_grid for encoder in config.encoders] == [(4, 4, 4), (1, 4, 4), (1, 4, 4)]
    method = build(config)
    losses = method(batch_of(config), step=0, seed=0).losses
    torch.stack([*losses.values()]).sum().backward()
    assert losses["level3/weighted/prediction"] > 0 and method.jepas[2].encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
