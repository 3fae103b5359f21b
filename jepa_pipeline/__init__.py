"""Pretrain image and video encoders without labels by joint-embedding prediction, probe them and export them.

The Python API mirrors the command line; each name is imported when it is first used, so that
`import jepa_pipeline` costs nothing:

    from jepa_pipeline import load_config, pretrain, probe, export, load_encoder

    run = pretrain(load_config("configs/ijepa_fashion_mnist.yaml"))
    rows = probe(run, "data/fashion_mnist")
    export(run, to="timm")
    encoder = load_encoder(run)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from jepa_pipeline.version import __version__

if TYPE_CHECKING:
    from jepa_pipeline.commands.embed import embed
    from jepa_pipeline.commands.export import export
    from jepa_pipeline.commands.import_weights import import_weights
    from jepa_pipeline.commands.pretrain import pretrain
    from jepa_pipeline.commands.probe import probe
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.models.weights import load_encoder
    from jepa_pipeline.training.trained_method import load_method

__all__ = ["__version__", "embed", "export", "import_weights", "load_config", "load_encoder", "load_method", "pretrain", "probe"]

_MODULES = {
    "embed": "jepa_pipeline.commands.embed",
    "export": "jepa_pipeline.commands.export",
    "import_weights": "jepa_pipeline.commands.import_weights",
    "load_config": "jepa_pipeline.config.load",
    "load_encoder": "jepa_pipeline.models.weights",
    "load_method": "jepa_pipeline.training.trained_method",
    "pretrain": "jepa_pipeline.commands.pretrain",
    "probe": "jepa_pipeline.commands.probe",
}


def __getattr__(name: str) -> object:
    """Import a function of the API when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
