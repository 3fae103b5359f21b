"""The targets and regularizers of a JEPA."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.networks import BackboneConfig
from jepa_pipeline.losses.vicreg import covariance, variance_hinge
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.ema import copy_frozen

VIC = "method.regularizer={name: vicreg, weight: 0.5, variance: 2.0, covariance: 3.0}"


def make(config):
    torch.manual_seed(0)
    (sampler,) = build_mask_samplers(config.method)
    masks = sampler([np.random.default_rng(n) for n in range(5)], 0)
    return build_method(config.method), Batch([torch.randn(5, 3, 16, 16)], [masks], None, [], [])


def encoder_gradient(method, batch):
    method.zero_grad()
    sum(method(batch, step=0, seed=0).losses.values()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in method.encoder.parameters()])


def test_the_shared_target_has_a_gradient_and_the_stopped_one_has_none(tiny):
    stopped, batch = make(tiny("method.target=stop_gradient"))
    shared, _ = make(tiny("method.target=shared", VIC))
    shared.regularizer = stopped.regularizer  # so that only the target differs
    assert sum(shared(batch, step=0, seed=0).losses.values()) == sum(stopped(batch, step=0, seed=0).losses.values())
    assert not torch.allclose(encoder_gradient(shared, batch), encoder_gradient(stopped, batch))
    assert {name.partition(".")[0] for name in shared.state_dict()} == {"encoder", "predictor"}


def test_without_an_average_the_trained_encoder_is_exported(tiny):
    for overrides in (["method.target=stop_gradient"], ["method.target=shared", VIC]):
        method, _ = make(tiny(*overrides))
        assert (method.export_kind, method.encoder_to_export) == ("online", method.encoder)
    method, _ = make(tiny())
    assert (method.export_kind, method.encoder_to_export) == ("target", method.target)


def test_vicreg_sees_every_token_of_context_and_target(tiny):
    method, batch = make(tiny("method.target=shared", VIC))
    losses, (pixels,), (masks,) = method(batch, step=0, seed=0).losses, batch.views, batch.masks
    tokens = [method.encoder(pixels, masks=[masks.context])[0].flatten(0, 1), method.encoder(pixels).flatten(0, 1)]
    assert losses.keys() == {"prediction", "variance", "covariance"}
    assert losses["variance"].item() == pytest.approx(0.5 * 2.0 * np.mean([variance_hinge(x).item() for x in tokens]), rel=1e-5)
    assert losses["covariance"].item() == pytest.approx(0.5 * 3.0 * sum(covariance(x).item() for x in tokens), rel=1e-5)


def test_only_representations_with_a_gradient_are_regularized(tiny):
    method, batch = make(tiny(VIC))
    context = method.encoder(batch.views[0], masks=[batch.masks[0].context])[0].flatten(0, 1)
    assert method(batch, step=0, seed=0).losses["covariance"].item() == pytest.approx(1.5 * covariance(context).item(), rel=1e-5)


def test_sigreg_depends_on_the_seed_and_trains_the_expander(tiny):
    expander = "method.regularizer={name: sigreg, slices: 16, expander: {hidden: [8], out: 12}}"
    method, batch = make(tiny("method.target=shared", expander))
    first = method(batch, step=0, seed=0).losses["sigreg"]
    assert first == method(batch, step=0, seed=0).losses["sigreg"]
    assert first != method(batch, step=0, seed=5).losses["sigreg"]
    encoder_gradient(method, batch)
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.regularizer.expander.parameters())


def test_all_targets_are_layer_normalized(tiny):
    for overrides in ([], ["method.target=stop_gradient"], ["method.target=shared", VIC]):
        method, batch = make(tiny(*overrides))
        targets = method(batch, step=0, seed=0).targets
        assert torch.allclose(targets, F.layer_norm(targets, targets.shape[-1:]), atol=1e-4)


def test_a_shared_target_needs_a_regularizer(tiny):
    with pytest.raises(ConfigError, match="set regularizer to"):
        tiny("method.target=shared")


def test_sigregs_weight_means_the_same_for_every_grid(tiny):
    """Copies of a token change nothing."""
    method, _ = make(tiny("method.target=shared", "method.regularizer={name: sigreg}"))
    vectors = torch.randn(40, 1, 24)
    once, often = (method.regularizer([vectors.expand(-1, tokens, -1)], 0)["sigreg"] for tokens in (1, 9))
    assert often.item() == pytest.approx(once.item(), rel=1e-4)


def test_a_regularized_jepa_runs_without_gradients(tiny):
    method, batch = make(tiny("method.target=shared", VIC))
    with torch.no_grad():
        losses = method(batch, step=0, seed=0).losses
    assert losses.keys() == {"prediction", "variance", "covariance"}


def test_targets_have_no_dropout():
    config = BackboneConfig(timm="resnet18", args={"drop_path_rate": 0.9, "channels": (4, 4, 8, 8)})
    target = copy_frozen(torch.nn.Sequential(torch.nn.Dropout(0.5), Backbone(config)))
    pixels = torch.randn(4, 3, 32, 32)
    assert torch.equal(target(pixels), target(pixels)) and target.training
