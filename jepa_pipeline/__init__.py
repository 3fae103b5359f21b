"""Pretrain image and video encoders without labels by joint-embedding prediction, probe them and export them.

The Python API mirrors the command line; each name is imported when it is first used, so that
`import jepa_pipeline` costs nothing:

    from jepa_pipeline import export, features, load_config, load_encoder, pretrain, probe

    run = pretrain(load_config("configs/ijepa_fashion_mnist.yaml"))
    rows = probe(run, "data/fashion_mnist")
    vectors = features(run, "data/fashion_mnist/test").values
    export(run, to="timm")
    encoder = load_encoder(run)

Data sets, encoders and methods of your own: `pretrain(config, data=..., encoder=..., method=...)`, see docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from jepa_pipeline.version import __version__

if TYPE_CHECKING:
    from jepa_pipeline.batch import Batch, Masks, Output
    from jepa_pipeline.commands.embed import embed, features
    from jepa_pipeline.commands.export import export
    from jepa_pipeline.commands.import_weights import import_weights
    from jepa_pipeline.commands.pretrain import pretrain
    from jepa_pipeline.commands.probe import probe
    from jepa_pipeline.config.errors import UserError
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.config.probe import ProbeConfig
    from jepa_pipeline.config.run import RunConfig
    from jepa_pipeline.distributed import gather
    from jepa_pipeline.methods.method import Method
    from jepa_pipeline.models.custom import FeatureNetwork, TokenNetwork, keep_tokens
    from jepa_pipeline.models.encoder import Encoder
    from jepa_pipeline.models.interface import BaseEncoder
    from jepa_pipeline.models.weights import load_encoder
    from jepa_pipeline.probes.embed import EmbeddedFeatures
    from jepa_pipeline.results.probe_report import ProbeRow
    from jepa_pipeline.training.trained_method import load_method

__all__ = [
    "BaseEncoder",
    "Batch",
    "EmbeddedFeatures",
    "Encoder",
    "FeatureNetwork",
    "Masks",
    "Method",
    "Output",
    "ProbeConfig",
    "ProbeRow",
    "RunConfig",
    "TokenNetwork",
    "UserError",
    "__version__",
    "embed",
    "export",
    "features",
    "gather",
    "import_weights",
    "keep_tokens",
    "load_config",
    "load_encoder",
    "load_method",
    "pretrain",
    "probe",
]

_MODULES = {
    "BaseEncoder": "jepa_pipeline.models.interface",
    "Batch": "jepa_pipeline.batch",
    "EmbeddedFeatures": "jepa_pipeline.probes.embed",
    "Encoder": "jepa_pipeline.models.encoder",
    "FeatureNetwork": "jepa_pipeline.models.custom",
    "Masks": "jepa_pipeline.batch",
    "Method": "jepa_pipeline.methods.method",
    "Output": "jepa_pipeline.batch",
    "ProbeConfig": "jepa_pipeline.config.probe",
    "ProbeRow": "jepa_pipeline.results.probe_report",
    "RunConfig": "jepa_pipeline.config.run",
    "TokenNetwork": "jepa_pipeline.models.custom",
    "UserError": "jepa_pipeline.config.errors",
    "embed": "jepa_pipeline.commands.embed",
    "export": "jepa_pipeline.commands.export",
    "features": "jepa_pipeline.commands.embed",
    "gather": "jepa_pipeline.distributed",
    "import_weights": "jepa_pipeline.commands.import_weights",
    "keep_tokens": "jepa_pipeline.models.custom",
    "load_config": "jepa_pipeline.config.load",
    "load_encoder": "jepa_pipeline.models.weights",
    "load_method": "jepa_pipeline.training.trained_method",
    "pretrain": "jepa_pipeline.commands.pretrain",
    "probe": "jepa_pipeline.commands.probe",
}


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
