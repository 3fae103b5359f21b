"""How a frozen encoder is judged."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section

Decay = Annotated[float, Field(ge=0.0)]
Rate = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Protocol = Literal["linear", "knn", "attentive"]


class AttentiveConfig(Section):
    """Attentive heads on all tokens of a frozen encoder: one for each pair of lr and weight_decay, all seeing the same batches."""

    form: Literal["vjepa", "vjepa2"] = Field(
        default="vjepa",
        description="vjepa: one learned query attends to the tokens; gradients are clipped, biases and norms are not decayed. "
        "vjepa2: three transformer blocks on the tokens before it; nothing is clipped, everything decays.",
    )
    heads: Count | None = Field(
        default=None,
        description="Attention heads; null: of vjepa the encoder's own (16 of a network of timm), of vjepa2 16. Where the "
        "tokens' width is no multiple of these, the next smaller number that divides it.",
    )
    lr: tuple[Rate, ...] = Field(default=(3e-4, 1e-3, 3e-3), min_length=1, description="Grid of peak learning rates, of AdamW.")
    weight_decay: tuple[Decay, ...] = Field(default=(1e-2, 1e-1), min_length=1, description="Grid of weight decays, of AdamW.")
    epochs: int = Field(default=20, ge=1, description="Passes over the training samples; the rate falls to 0 as a cosine.")
    warmup_epochs: float = Field(default=0.0, ge=0.0, description="Passes in which the rate rises linearly to its peak.")
    batch_size: int = Field(default=64, ge=1, description="Images or videos of a training step.")
    segments: int = Field(
        default=2, ge=1, description="Clips taken from a video, evenly spaced, whose tokens are one set; an image has one."
    )
    views: int = Field(
        default=3, ge=1, description="Crops of a test video whose answers are averaged; in training, and of images, the center one."
    )
    memory_gb: float = Field(
        default=4.0,
        ge=0.0,
        description="Most GB of main memory for the tokens of the training samples from all encoders, as bf16; where they "
        "need more, they are computed anew in every epoch.",
    )

    @model_validator(mode="after")
    def warmup_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of epochs {self.epochs}")
        return self


class ProbeConfig(Section):
    """Classifiers on frozen features; what there is to choose of them is chosen on held-out training samples."""

    protocols: tuple[Protocol, ...] = Field(
        default=("linear", "knn"),
        min_length=1,
        description="linear: logistic regression on pooled features; knn: nearest neighbors of the same; "
        "attentive: heads that attend to all tokens, which take much longer.",
    )
    batch_size: int = Field(
        default=256, ge=1, description="Images per forward pass of the frozen encoders, or frames of all its clips together."
    )
    workers: int = Field(default=2, ge=0, description="Decoding processes.")
    segments: int = Field(
        default=2, ge=1, description="Clips taken from a video, evenly spaced, whose features linear and knn are given the mean of."
    )
    features: tuple[Literal["last", "last4"], ...] = Field(
        default=("last", "last4"),
        min_length=1,
        description="last: the pooled features, which are an encoder's mean tokens or what timm's network pools itself; "
        "last4: the mean tokens (or places of the maps) of the last four blocks or stages, concatenated.",
    )
    weight_decay: tuple[Decay, ...] = Field(
        default=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        min_length=1,
        description="Grid of the linear heads: each adds this times half the squared weights to its loss.",
    )
    iterations: int = Field(default=50, ge=1, description="L-BFGS iterations of each linear head at most.")
    selection_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of each class's training samples held out to choose the head."
    )
    k: tuple[Count, ...] = Field(default=(5, 10, 20), min_length=1, description="Neighbors of the k-NN classifiers.")
    attentive: AttentiveConfig = Field(
        default_factory=lambda: AttentiveConfig.model_validate({}), description="The attentive heads."
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Key of the held-out share, of the random-init encoder, of shuffled frames and of attentive heads.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Arithmetic of the frozen encoders and of attentive heads."
    )
