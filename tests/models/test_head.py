"""The perceptron is the published one."""

import torch
from torch import nn

from jepa_pipeline.config.networks import HeadConfig
from jepa_pipeline.models.head import MLP


def kinds(head):
    return [type(layer) for layer in head.layers]


def test_hidden_layers_are_linear_norm_relu_and_the_last_is_linear():
    head = MLP(8, HeadConfig(hidden=(16, 12), out=4))
    assert kinds(head) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [layer.bias is None for layer in head.layers if isinstance(layer, nn.Linear)] == [True, True, False]
    assert head(torch.randn(5, 8)).shape == (5, 4)


def test_the_last_bias_and_norm_are_as_asked():
    plain = MLP(8, HeadConfig(hidden=(), out=4, last_bias=False))
    assert kinds(plain) == [nn.Linear] and plain.layers[0].bias is None
    normed = MLP(8, HeadConfig(hidden=(), out=4, last_norm=True))
    assert kinds(normed) == [nn.Linear, nn.BatchNorm1d]
    assert normed.layers[0].bias is None, "the norm would take it away"
    assert list(normed.layers[1].parameters()) == []
    output = normed(torch.randn(64, 8))
    assert torch.allclose(output.mean(0), torch.zeros(4), atol=1e-6) and torch.allclose(output.std(0), torch.ones(4), atol=0.02)


def test_vicregs_expander_has_the_papers_parameters():
    with torch.device("meta"):
        head = MLP(2048, HeadConfig(hidden=(8192, 8192), out=8192, last_bias=False))
    assert sum(parameter.numel() for parameter in head.parameters()) == 2048 * 8192 + 2 * 8192**2 + 2 * 2 * 8192
