"""Each optimizer follows its formula, and none applies a step that is not finite."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from torch import nn

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.optim import AdamWConfig, LARSConfig, OptimConfig, SGDConfig
from jepa_pipeline.methods.jepa import JEPA
from jepa_pipeline.training.checkpoint import load_latest
from jepa_pipeline.training.optim import TRUST_COEFFICIENT, FiniteGuard, build_optimizer, set_rates

OPTIM = TypeAdapter(OptimConfig)
HORIZONS = {"batch_size_global": 8, "total_samples": 48}
LARS = LARSConfig(name="lars", lr=0.2, **HORIZONS)
EVERY = [AdamWConfig(**HORIZONS), LARS, SGDConfig(name="sgd", lr=0.1, **HORIZONS)]
SHAPES = {"conv": (3, 2, 2, 2), "linear": (4, 3), "token": (1, 1, 5), "zero": (2, 2), "still": (2, 3), "bias": (4,), "scale": ()}


class Parts(nn.Module):
    """Weights and biases, a weight that is zero, and one whose gradient is zero."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator) * (name != "zero")))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def sample_gradients(step):
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) * (name != "still") for name, shape in SHAPES.items()}


def set_gradients(network, gradients):
    for name, gradient in gradients.items():
        network.get_parameter(name).grad = gradient.clone()


def values(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("lr_biases", [None, 0.03])
def test_lars_is_its_formula(momentum, decay, lr_biases):
    network = Parts()
    config = LARS.model_copy(update={"momentum": momentum, "lr_biases": lr_biases})
    optimizer = build_optimizer(network, config)
    slow = {name: value.double() for name, value in values(network).items() if name != "frozen"}
    memory = {name: torch.zeros_like(value) for name, value in slow.items()}
    for step, rate in enumerate((0.1, 0.2, 0.05)):
        set_gradients(network, sample_gradients(step))
        set_rates(optimizer, rate, decay)
        optimizer.step()
        for name, gradient in sample_gradients(step).items():
            update, own_rate = gradient.double(), rate * (lr_biases or 0.2) / 0.2
            if gradient.ndim > 1:
                w, g, own_rate = slow[name].norm().item(), update.norm().item(), rate
                ratio = 0.001 * w / (g + decay * w) if w > 0 and g > 0 else 1.0
                update = ratio * (update + decay * slow[name])
            memory[name] = momentum * memory[name] + update
            slow[name] = slow[name] - own_rate * memory[name]
    for name, expected in slow.items():
        torch.testing.assert_close(network.get_parameter(name).double(), expected, rtol=2e-6, atol=2e-7)
    assert torch.equal(network.frozen, torch.ones(2, 2))


def test_lars_is_invariant_to_the_scale_of_gradients_except_for_biases():
    first, second = Parts(), Parts()
    for network, scale in ((first, 1.0), (second, 8.0)):
        optimizer = build_optimizer(network, LARS)
        set_gradients(network, {name: scale * gradient for name, gradient in sample_gradients(0).items()})
        set_rates(optimizer, 0.2, 0.0)
        optimizer.step()
    assert torch.allclose(first.linear, second.linear, rtol=1e-6)
    before = Parts()
    assert torch.allclose(8 * (first.bias - before.bias), second.bias - before.bias, rtol=1e-5)
    moved = (first.linear - before.linear).norm() / before.linear.norm()
    assert moved.item() == pytest.approx(0.2 * TRUST_COEFFICIENT, rel=1e-4)


def test_sgd_is_its_formula():
    network, before = Parts(), values(Parts())
    optimizer = build_optimizer(network, EVERY[2])
    memory = dict.fromkeys(SHAPES, 0.0)
    for step in range(3):
        set_gradients(network, sample_gradients(step))
        set_rates(optimizer, 0.1, 0.5)
        optimizer.step()
        for name, gradient in sample_gradients(step).items():
            memory[name] = 0.9 * memory[name] + gradient + (0.5 * before[name] if gradient.ndim > 1 else 0)
            before[name] = before[name] - 0.1 * memory[name]
    for name in SHAPES:
        torch.testing.assert_close(network.get_parameter(name).detach(), before[name])


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.name)
def test_norms_and_biases_are_not_decayed_and_the_rule_reaches_every_group(config):
    config = config.model_copy(update={"lr_rule": "linear", "lr_batch_size": 4})
    network = Parts()
    optimizer = build_optimizer(network, config)
    assert [group["lr"] for group in optimizer.param_groups] == [2 * config.lr] * 2
    set_rates(optimizer, 0.3, 0.1)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {name for name in SHAPES if decays[id(network.get_parameter(name))] == 0} == {"bias", "scale"}
    assert id(network.frozen) not in decays


@pytest.mark.parametrize("good_steps", [0, 2])
@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.name)
def test_after_a_broken_step_no_weight_moves_again(config, good_steps):
    network, guard = Parts(), FiniteGuard()
    optimizer = build_optimizer(network, config)

    def take_step(step, factor):
        set_gradients(network, {name: gradient * factor for name, gradient in sample_gradients(step).items()})
        set_rates(optimizer, 0.1, 0.1)
        norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
        guard.check(step, torch.tensor(1.0), norm, optimizer)
        optimizer.step()

    start = values(network)
    for step in range(1, good_steps + 1):
        take_step(step, 1.0)
    before = values(network)
    assert good_steps == 0 or not torch.equal(before["linear"], start["linear"])
    for step, factor in enumerate((float("nan"), float("inf"), 1.0), start=good_steps + 1):
        take_step(step, factor)
    assert int(guard.broken_step) == good_steps + 1
    assert all(torch.equal(value, before[name]) for name, value in values(network).items())
    if good_steps:
        assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.name)
def test_an_optimizer_resumes_from_its_state(config, tmp_path):
    network, other = Parts(), Parts()
    optimizer = build_optimizer(network, config)
    guard = FiniteGuard()

    def take_step(network, optimizer, step):
        set_gradients(network, sample_gradients(step))
        set_rates(optimizer, 0.1, 0.1)
        guard.check(step, torch.tensor(1.0), torch.tensor(1.0), optimizer)
        optimizer.step()

    take_step(network, optimizer, 1)
    other.load_state_dict(network.state_dict())
    second = build_optimizer(other, config)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    take_step(network, optimizer, 2)
    take_step(other, second, 2)
    assert all(torch.equal(value, values(network)[name]) for name, value in values(other).items())


@pytest.mark.parametrize("optim", [["optim.name=lars", "optim.lr=0.2"], ["optim.name=sgd", "optim.lr=0.1"]], ids=["lars", "sgd"])
def test_a_broken_step_ends_the_run_and_leaves_a_valid_checkpoint(tiny, monkeypatch, optim):
    config = tiny(*optim, "log.every_steps=6", "checkpoint.every_steps=2")
    original, calls = JEPA.forward, []

    def forward(self, *inputs):
        output = original(self, *inputs)
        calls.append(1)
        factor = float("nan") if len(calls) == 3 else 1.0
        return output._replace(losses={name: loss * factor for name, loss in output.losses.items()})

    monkeypatch.setattr(JEPA, "forward", forward)
    with pytest.raises(UserError, match="step 3 gave a loss or gradient that is not finite; it was not applied"):
        pretrain(config, Console(quiet=True))
    state = load_latest(config.folder / "checkpoints", log=pytest.fail).state
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["module"].values() if isinstance(value, torch.Tensor))
    monkeypatch.undo()
    pretrain(config, Console(quiet=True))
    assert load_latest(config.folder / "checkpoints", log=pytest.fail).state["step"] == 6


def test_the_default_optimizer_is_adamw():
    assert OPTIM.validate_python({"total_samples": 4096}) == AdamWConfig(total_samples=4096)


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.name)
def test_an_optimizer_survives_being_written_and_read(config):
    dumped = OPTIM.dump_python(config, mode="json")
    assert dumped["name"] == config.name
    assert OPTIM.validate_python(dumped) == OPTIM.validate_python(config) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 1.0


@pytest.mark.parametrize(
    ("values", "where", "kind"),
    [
        ({"name": "adam"}, (), "union_tag_invalid"),
        ({"name": None}, (), "union_tag_invalid"),
        ({"name": "lars"}, ("lars", "lr"), "missing"),
        ({"name": "lars", "lr": 1.0, "betas": [0.9, 0.9]}, ("lars", "betas"), "extra_forbidden"),
        ({"momentum": 0.9}, ("adamw", "momentum"), "extra_forbidden"),
        ({"name": "sgd", "lr": 1.0, "final_weight_decay": -1}, ("sgd", "final_weight_decay"), "greater_than_equal"),
        ({"name": "sgd", "lr": 1.0, "momentum": 1.0}, ("sgd", "momentum"), "less_than"),
    ],
)
def test_keys_that_an_optimizer_does_not_have_are_refused(values, where, kind):
    with pytest.raises(ValidationError) as raised:
        OPTIM.validate_python({"total_samples": 4096, **values})
    assert [(error["loc"], error["type"]) for error in raised.value.errors()] == [(where, kind)]
