"""I-JEPA, V-JEPA and V-JEPA 2 equal slow implementations of the papers over three updates of encoder, predictor and target."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from jepa_pipeline.batch import Batch
from jepa_pipeline.data.views import normalize
from jepa_pipeline.masks.build import build_mask_sampler, build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.targets import linear_momentum
from jepa_pipeline.training.module import Pretraining


class PlainViT:
    """A transformer by definition: explicit softmax attention, one image or clip at a time, in float64.

    rotary: whether queries and keys are rotated by the positions (time, row, column) of their tokens.
    """

    def __init__(self, state, prefix, heads, rotary=False):
        self.rotary = rotary
        self.state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.heads = heads
        self.depth = 1 + max(int(name.split(".")[1]) for name in self.state if name.startswith("blocks."))

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name):
        centered = x - x.mean(-1, keepdim=True)
        unit = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-6)
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attend(self, x, name, where):
        n, d = x.shape
        q, k, v = self.linear(x, f"{name}.qkv").split(d, dim=1)
        size = d // self.heads
        if self.rotary:
            q, k = (rotated(vectors, where, size) for vectors in (q, k))
        outputs = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            outputs.append(torch.softmax(scores, dim=1) @ v[:, part])
        return self.linear(torch.cat(outputs, dim=1), f"{name}.proj")

    def blocks(self, x, where):
        for index in range(self.depth):
            name = f"blocks.{index}"
            x = x + self.attend(self.norm(x, f"{name}.norm1"), f"{name}.attn", where)
            hidden = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + self.linear(gelu, f"{name}.mlp.fc2")
        return self.norm(x, "norm")


def rotated(vectors, where, size):
    """Rotate every head of every token: a third of its channels, in pairs, by time, a third by row and a third by column."""
    third = 2 * (size // 3 // 2)
    output = [[*row] for row in vectors]
    for token, position in enumerate(where):
        for head in range(0, vectors.shape[1], size):
            for axis in range(3):
                for pair in range(third // 2):
                    angle = position[axis] * 10_000 ** (-pair / (third / 2))
                    first = head + axis * third + 2 * pair
                    x, y = vectors[token, first], vectors[token, first + 1]
                    output[token][first] = x * math.cos(angle) - y * math.sin(angle)
                    output[token][first + 1] = y * math.cos(angle) + x * math.sin(angle)
    return torch.stack([torch.stack(row) for row in output])


def rope_table(grid, size):
    """Return sines and cosines of the angles of a head's channels, in float64 and in the networks' layout."""
    third = 2 * (size // 3 // 2)
    angles = torch.zeros(math.prod(grid), size, dtype=torch.float64)
    for token, position in enumerate(product(*map(range, grid))):
        for channel in range(3 * third):
            axis, inside = divmod(channel, third)
            angles[token, channel] = position[axis] * 10_000 ** (-(inside // 2) / (third / 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def clip_positions(grid, dim, kind):
    """Return the positions of a clip: channels of time, then row, then column; for each axis sines, then cosines."""
    widths = {"sincos": (dim // 2, dim // 4, dim // 4), "sincos_uniform": (2 * math.ceil(dim / 6),) * 3}[kind]
    table = []
    for position in product(*map(range, grid)):
        channels = []
        for index, width in zip(position, widths, strict=True):
            angles = [index / 10_000 ** (k / (width / 2)) for k in range(width // 2)]
            channels += [*map(math.sin, angles), *map(math.cos, angles)]
        table.append(channels[:dim])
    return torch.tensor(table, dtype=torch.float64)


def positions(rows, columns, dim):
    table = torch.zeros(rows * columns, dim, dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            for k in range(dim // 4):
                frequency = 10_000 ** (-k / (dim / 4))
                table[row * columns + column, [k, dim // 4 + k]] = torch.tensor(
                    [math.sin(column * frequency), math.cos(column * frequency)], dtype=torch.float64
                )
                table[row * columns + column, [dim // 2 + k, 3 * dim // 4 + k]] = torch.tensor(
                    [math.sin(row * frequency), math.cos(row * frequency)], dtype=torch.float64
                )
    return table


def table(config, dim):
    """Return the position encoding that is added to the tokens."""
    if config.rotary:
        return torch.zeros(math.prod(config.clip_grid), dim, dtype=torch.float64)
    return clip_positions(config.clip_grid, dim, config.positions) if config.modality.has_time else positions(*config.grid, dim)


def patches(view, config, vit):
    """Return the tokens of an image "C H W" or a clip "C T H W"; an image is a clip of one frame."""
    clip = view if view.ndim == 4 else view[:, None]
    weight, bias, (length, side) = vit.state["patch_embed.proj.weight"], vit.state["patch_embed.proj.bias"], (0, config.patch_size)
    weight = weight if weight.ndim == 5 else weight[:, :, None]
    length = config.tubelet_size
    return torch.stack(
        [
            (weight * clip[:, t * length : (t + 1) * length, r * side : (r + 1) * side, c * side : (c + 1) * side]).sum(
                (1, 2, 3, 4)
            )
            + bias
            for t, r, c in product(*map(range, config.clip_grid))
        ]
    )


def distance(config, difference):
    """Return the smooth L1 distance of I-JEPA's release, or V-JEPA's L1 (Bardes et al. 2024, equation 1)."""
    if config.name == "ijepa":
        return torch.where(difference < 1, 0.5 * difference.square(), difference - 0.5).mean()
    return difference.mean()


def paper_loss(state, views, sets, config):
    """Return equation 1 of Assran et al. 2023 or of Bardes et al. 2024, averaged over the mask sets."""
    encoder_config = config.encoder
    where = list(product(*map(range, encoder_config.clip_grid)))
    dim, width, rotary = encoder_config.size.embed_dim, config.predictor.embed_dim, encoder_config.rotary
    encoder = PlainViT(state, "encoder.", encoder_config.size.num_heads, rotary)
    target = PlainViT(state, "target.", encoder_config.size.num_heads, rotary)
    predictor = PlainViT(state, "predictor.", config.predictor.num_heads, rotary)
    added, position = table(encoder_config, dim), table(encoder_config, width)
    set_losses = []
    for number, masks in enumerate(sets):
        errors = []
        for view, context, blocks in zip(views, masks.context, masks.targets, strict=True):
            with torch.no_grad():
                tokens_target = target.blocks(patches(view, encoder_config, target) + added, where)
                centered = tokens_target - tokens_target.mean(1, keepdim=True)
                tokens_target = centered / torch.sqrt(centered.square().mean(1, keepdim=True) + 1e-5)
            context_tokens = (patches(view, encoder_config, encoder) + added)[context]
            context_tokens = encoder.blocks(context_tokens, [where[token] for token in context])
            for block in blocks:
                queries = predictor.state["mask_token"][number, 0] + position[block]
                tokens = torch.cat([predictor.linear(context_tokens, "embed") + position[context], queries])
                predicted = predictor.blocks(tokens, [where[token] for token in [*context, *block]])[len(context) :]
                errors.append(distance(config, (predictor.linear(predicted, "proj") - tokens_target[block]).abs()))
        set_losses.append(torch.stack(errors).mean())
    return torch.stack(set_losses).mean()


def adamw(state, gradients, memory, step, lr, decay, betas, eps):
    for name, gradient in gradients.items():
        first, second = memory.setdefault(name, [torch.zeros_like(gradient), torch.zeros_like(gradient)])
        first.mul_(betas[0]).add_(gradient * (1 - betas[0]))
        second.mul_(betas[1]).add_(gradient.square() * (1 - betas[1]))
        rate = first / (1 - betas[0] ** step) / (torch.sqrt(second / (1 - betas[1] ** step)) + eps)
        state[name] = state[name] * (1 - lr * (decay if gradient.ndim > 1 else 0)) - lr * rate


def schedule(step, total, warmup, config):
    lr = (
        config.start_lr + (config.lr - config.start_lr) * step / warmup
        if step < warmup
        else config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    )
    decay = config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * 0.5 * (
        1 + math.cos(math.pi * step / total)
    )
    return lr, decay


CLIPS = "image_size: 12, patch_size: 4, frames: 6, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2"
SETS = "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.3, target_keep: 0.3}, {name: causal}]"
CASES = {
    "ijepa": ((0.996, 1.0), []),
    "vjepa": ((0.998, 1.0), ["method.name=vjepa", f"method.encoder={{{CLIPS}, positions: sincos}}", SETS]),
    "vjepa, uniform positions": (
        (0.998, 1.0),
        ["method.name=vjepa", f"method.encoder={{{CLIPS}, positions: sincos_uniform}}", SETS],
    ),
    "vjepa2": ((0.99925, 0.99925), ["method.name=vjepa2", f"method.encoder={{{CLIPS}, positions: rope}}", SETS]),
}


@pytest.mark.parametrize(("ema", "overrides"), CASES.values(), ids=CASES.keys())
def test_three_steps_equal_the_paper(tiny, ema, overrides):
    config = tiny("optim={batch_size_global: 4, total_samples: 24, warmup_samples: 8, final_weight_decay: 0.4}", *overrides)
    torch.manual_seed(0)
    method = build_method(config.method).double()
    with torch.no_grad():  # positions in float64, as in the slow implementation
        for network, dim in ((method.encoder, 24), (method.target, 24), (method.predictor, 16)):
            if config.method.encoder.rotary:
                network.rope.copy_(rope_table(config.method.encoder.clip_grid, dim // 2))
            else:
                network.pos_embed.copy_(table(config.method.encoder, dim))
        for parameter in method.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # away from zero biases
    module = Pretraining(method, config.optim, config.views, config.seed)
    optimizer = module.configure_optimizers()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    trained = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    samplers, memory = build_mask_samplers(config.method), {}
    for step in (1, 2, 3):
        time, side = (
            [config.method.encoder.frames] if config.method.encoder.modality.has_time else [],
            config.method.encoder.image_size,
        )
        shape = (4, 3, *time, side, side)
        pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(step), dtype=torch.uint8)
        masks = [sampler([np.random.default_rng([step, n]) for n in range(4)], 0) for sampler in samplers]
        images = normalize(pixels, config.views.mean, config.views.std).double()

        leaves = {name: state[name].requires_grad_(name in trained) for name in state}
        slow = paper_loss(leaves, images, masks, config.method)
        gradients = dict(zip(trained, torch.autograd.grad(slow, [leaves[name] for name in trained]), strict=True))
        state = {name: value.detach() for name, value in leaves.items()}
        lr, decay = schedule(step, 6, 2, config.optim)
        adamw(state, gradients, memory, step, lr, decay, config.optim.betas, config.optim.eps)
        momentum = ema[0] + (ema[1] - ema[0]) * (step - 1) / 6
        for name in trained:
            if name.startswith("encoder."):
                target_name = name.replace("encoder.", "target.", 1)
                state[target_name] = momentum * state[target_name] + (1 - momentum) * state[name]

        def closure(images=images, masks=masks):
            optimizer.zero_grad()
            loss = sum(module.method(Batch([images], masks, None, [], []), step=0, seed=0).losses.values())
            loss.backward()
            return loss

        fast = take_step(module, optimizer, closure)
        assert fast.item() == pytest.approx(slow.item(), abs=1e-6)
        for name, value in method.state_dict().items():
            assert torch.allclose(value, state[name], atol=1e-6, rtol=0), name


def take_step(module, optimizer, closure):
    """Take an optimizer step as Lightning's loop does, through the module's hooks."""
    from unittest.mock import patch

    from lightning import LightningModule

    losses = []
    with patch.object(LightningModule, "optimizer_step", lambda self, epoch, index, opt, *_: losses.append(opt.step(closure))):
        module.optimizer_step(0, 0, optimizer)
    return losses[0]


def test_momentum_is_linear_in_the_optimizer_step():
    assert [linear_momentum(step, 4, 0.9, 1.0) for step in (1, 3, 5, 9)] == pytest.approx([0.9, 0.95, 1.0, 1.0])


def test_only_encoder_and_predictor_get_gradients(tiny):
    config = tiny()
    method = build_method(config.method)
    masks = build_mask_sampler(config.method.masks, (1, 4, 4))([np.random.default_rng(n) for n in range(3)], 0)
    output = method(Batch([torch.randn(3, 3, 16, 16)], [masks], None, [], []), step=0, seed=0)
    sum(output.losses.values()).backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("target."), name
    assert output.features.shape == (3, 24) and output.targets.shape == output.predictions.shape
    assert not (output.features.requires_grad or output.targets.requires_grad or output.predictions.requires_grad)
