"""Pretrain image encoders without labels by joint-embedding prediction, probe them and export them.

The Python API mirrors the command line; each name is imported when it is first used, so that
`import jepa_pipeline` costs nothing:

    from jepa_pipeline import load_config, pretrain, probe, export, load_encoder

    run = pretrain(load_config("configs/ijepa_fashion_mnist.yaml"))
    rows = probe(run, "data/fashion_mnist")
    export(run, to="timm")
    encoder = load_encoder(run)
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jepa_pipeline.config.load import load_config
    from jepa_pipeline.export import export
    from jepa_pipeline.models.weights import load_encoder
    from jepa_pipeline.pretrain import pretrain
    from jepa_pipeline.probe import probe
    from jepa_pipeline.training.trained import load_method

__version__ = "0.1.0"
__all__ = ["__version__", "export", "load_config", "load_encoder", "load_method", "pretrain", "probe"]

_HOMES = {
    "export": "jepa_pipeline.export",
    "load_config": "jepa_pipeline.config.load",
    "load_encoder": "jepa_pipeline.models.weights",
    "load_method": "jepa_pipeline.training.trained",
    "pretrain": "jepa_pipeline.pretrain",
    "probe": "jepa_pipeline.probe",
}


class _Package(ModuleType):
    """A verb and the file it lives in share a name; here the name is the verb's, whoever imports the file first."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        verb = getattr(importlib.import_module(_HOMES[name]), name)
        self.__dict__[name] = verb
        return verb

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return  # the import system binding jepa_pipeline/pretrain.py to the name `pretrain`
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
