"""One I-JEPA step equals the paper told slowly, through three updates of encoder, predictor and target."""

import math

import numpy as np
import pytest
import torch

from jepa_pipeline.batch import Batch
from jepa_pipeline.data.views import normalize
from jepa_pipeline.masks.build import build_masks
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.methods.jepa import linear_momentum
from jepa_pipeline.training.module import Pretraining


class PlainViT:
    """A transformer from the definition: explicit softmax attention, one image and one token list at a time, in float64."""

    def __init__(self, state, prefix, heads):
        self.state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.heads = heads
        self.depth = 1 + max(int(name.split(".")[1]) for name in self.state if name.startswith("blocks."))

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        return unit * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attend(self, x, name):
        n, d = x.shape
        q, k, v = self.linear(x, f"{name}.qkv").split(d, dim=1)
        size = d // self.heads
        outputs = []
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            outputs.append(torch.softmax(scores, dim=1) @ v[:, part])
        return self.linear(torch.cat(outputs, dim=1), f"{name}.proj")

    def blocks(self, x):
        for index in range(self.depth):
            name = f"blocks.{index}"
            x = x + self.attend(self.norm(x, f"{name}.norm1"), f"{name}.attn")
            hidden = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + self.linear(gelu, f"{name}.mlp.fc2")
        return self.norm(x, "norm")


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


def patches(image, patch, vit):
    side = image.shape[1] // patch
    weight, bias = vit.state["patch_embed.proj.weight"], vit.state["patch_embed.proj.bias"]
    cut = [image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] for r in range(side) for c in range(side)]
    return torch.stack([(weight * piece).sum((1, 2, 3)) + bias for piece in cut])


def paper_loss(state, images, masks, config):
    """Equation 1 of Assran et al. 2023 with the smooth-L1 distance of the release."""
    side = config.encoder.grid[0]
    dim, width = config.encoder.size.embed_dim, config.predictor.embed_dim
    encoder = PlainViT(state, "encoder.", config.encoder.size.num_heads)
    target = PlainViT(state, "target.", config.encoder.size.num_heads)
    predictor = PlainViT(state, "predictor.", config.predictor.num_heads)
    errors = []
    for image, context, blocks in zip(images, masks.context, masks.targets, strict=True):
        with torch.no_grad():
            everything = target.blocks(patches(image, config.encoder.patch_size, target) + positions(side, side, dim))
            centred = everything - everything.mean(1, keepdim=True)
            everything = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5)
        seen = (patches(image, config.encoder.patch_size, encoder) + positions(side, side, dim))[context]
        seen = encoder.blocks(seen)
        place = positions(side, side, width)
        for block in blocks:
            asked = predictor.state["mask_token"][0, 0] + place[block]
            tokens = torch.cat([predictor.linear(seen, "embed") + place[context], asked])
            answers = predictor.linear(predictor.blocks(tokens)[len(context) :], "proj")
            difference = (answers - everything[block]).abs()
            errors.append(torch.where(difference < 1, 0.5 * difference.square(), difference - 0.5).mean())
    return torch.stack(errors).mean()


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


def test_three_steps_equal_the_paper_told_slowly(tiny):
    config = tiny("optim={batch_size_global: 4, total_samples: 24, warmup_samples: 8, final_weight_decay: 0.4}")
    torch.manual_seed(0)
    method = build_method(config.method).double()
    with torch.no_grad():  # positions in float64 too, as the slow telling has them
        for network in (method.encoder, method.target):
            network.pos_embed.copy_(positions(4, 4, 24)[None])
        method.predictor.pos_embed.copy_(positions(4, 4, 16))
        for parameter in method.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # away from zero biases
    module = Pretraining(config, method)
    optimizer = module.configure_optimizers()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    trained = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
    sampler, memory = build_masks(config.method.masks, (4, 4)), {}
    for step in (1, 2, 3):
        pixels = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(step), dtype=torch.uint8)
        masks = sampler([np.random.default_rng([step, n]) for n in range(4)], 0)
        images = normalize(pixels, config.views.mean, config.views.std).double()

        leaves = {name: state[name].requires_grad_(name in trained) for name in state}
        slow = paper_loss(leaves, images, masks, config.method)
        gradients = dict(zip(trained, torch.autograd.grad(slow, [leaves[name] for name in trained]), strict=True))
        state = {name: value.detach() for name, value in leaves.items()}
        lr, decay = schedule(step, 6, 2, config.optim)
        adamw(state, gradients, memory, step, lr, decay, config.optim.betas, config.optim.eps)
        momentum = 0.996 + (1 - 0.996) * (step - 1) / 6
        for name in trained:
            if name.startswith("encoder."):
                twin = name.replace("encoder.", "target.", 1)
                state[twin] = momentum * state[twin] + (1 - momentum) * state[name]

        def closure(images=images, masks=masks):
            optimizer.zero_grad()
            loss = sum(module.method(Batch([images], [masks], None, [], [])).losses.values())
            loss.backward()
            return loss

        fast = take_step(module, optimizer, closure)
        assert fast.item() == pytest.approx(slow.item(), abs=1e-6)
        for name, value in method.state_dict().items():
            assert torch.allclose(value, state[name], atol=1e-6, rtol=0), name


def take_step(module, optimizer, closure):
    """What Lightning's loop does around one optimiser step, on the module's own hooks."""
    from unittest.mock import patch

    from lightning import LightningModule

    losses = []
    with patch.object(LightningModule, "optimizer_step", lambda self, epoch, index, opt, *_: losses.append(opt.step(closure))):
        module.optimizer_step(0, 0, optimizer)
    return losses[0]


def test_momentum_is_linear_in_the_optimiser_step():
    assert [linear_momentum(step, 4, 0.9, 1.0) for step in (1, 3, 5, 9)] == pytest.approx([0.9, 0.95, 1.0, 1.0])


def test_only_encoder_and_predictor_get_gradients(tiny):
    config = tiny()
    method = build_method(config.method)
    masks = build_masks(config.method.masks, (4, 4))([np.random.default_rng(n) for n in range(3)], 0)
    output = method(Batch([torch.randn(3, 3, 16, 16)], [masks], None, [], []))
    sum(output.losses.values()).backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("target."), name
    assert output.features.shape == (3, 24) and output.targets.shape == output.predictions.shape
    assert not (output.features.requires_grad or output.targets.requires_grad or output.predictions.requires_grad)
