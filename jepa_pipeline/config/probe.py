"""How a frozen encoder is judged."""

from typing import Literal

from pydantic import Field

from jepa_pipeline.config.section import Section


class ProbeConfig(Section):
    """Linear heads and nearest neighbours on frozen features; the head is chosen on held-out training samples."""

    batch_size: int = Field(256, ge=1, description="Images per forward pass of feature extraction and per step of the heads.")
    workers: int = Field(2, ge=0, description="Decoding processes.")
    features: tuple[Literal["last", "last4"], ...] = Field(
        ("last", "last4"), min_length=1, description="Mean tokens of the last block, or of the last four blocks concatenated."
    )
    lr: tuple[float, ...] = Field((1e-3, 3e-3, 1e-2), min_length=1, description="Learning rates of the grid of heads.")
    weight_decay: tuple[float, ...] = Field((1e-6, 1e-4, 1e-2), min_length=1, description="Weight decays of the grid of heads.")
    epochs: int = Field(50, ge=1, description="Passes over the training features.")
    selection_share: float = Field(0.1, gt=0, lt=1, description="Share of the training set held out to choose the head.")
    k: tuple[int, ...] = Field((5, 10, 20), min_length=1, description="Neighbours of the k-NN classifiers.")
    seed: int = Field(0, ge=0, description="Key of the held-out share, the heads and the random-init encoder.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the frozen encoder.")
