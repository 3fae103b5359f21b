"""How a frozen encoder is judged."""

from typing import Annotated, Literal

from pydantic import Field

from jepa_pipeline.config.section import Section

Decay = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


class ProbeConfig(Section):
    """Linear heads and nearest neighbours on frozen features; the head is chosen on held-out training samples."""

    batch_size: int = Field(default=256, ge=1, description="Images per forward pass of the frozen encoders.")
    workers: int = Field(default=2, ge=0, description="Decoding processes.")
    features: tuple[Literal["last", "last4"], ...] = Field(
        default=("last", "last4"),
        min_length=1,
        description="last: the pooled features, which are an encoder's mean tokens or what timm's network pools itself; "
        "last4: the mean tokens (or places of the maps) of the last four blocks or stages, concatenated.",
    )
    weight_decay: tuple[Decay, ...] = Field(
        default=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        min_length=1,
        description="Grid of the heads: each adds this times half the squared weights to its loss.",
    )
    iterations: int = Field(default=50, ge=1, description="L-BFGS iterations of each head at most.")
    selection_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of each class's training samples held out to choose the head."
    )
    k: tuple[Count, ...] = Field(default=(5, 10, 20), min_length=1, description="Neighbours of the k-NN classifiers.")
    seed: int = Field(default=0, ge=0, description="Key of the held-out share and of the random-init encoder.")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="Arithmetic of the frozen encoders.")
