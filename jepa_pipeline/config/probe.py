"""Settings of the probes of frozen encoders."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import MAX_COUNT, Section

Decay = Annotated[float, Field(ge=0.0)]
Rate = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Protocol = Literal["linear", "knn", "attentive"]


class AttentiveConfig(Section):
    """Attentive heads on all tokens of a frozen encoder: one per pair of lr and weight_decay, all trained on the same batches."""

    form: Literal["vjepa", "vjepa2"] = Field(
        default="vjepa",
        description="vjepa: one learned query attends to the tokens; gradients are clipped, and biases and norms not decayed. "
        "vjepa2: three transformer blocks come first; nothing is clipped, and everything is decayed.",
    )
    heads: Count | None = Field(
        default=None,
        description="Attention heads; null: the encoder's number for vjepa (16 for a timm network), 16 for vjepa2; reduced to "
        "the next number that divides the width of the tokens.",
    )
    lr: tuple[Rate, ...] = Field(default=(3e-4, 1e-3, 3e-3), min_length=1, description="Grid of AdamW's peak learning rates.")
    weight_decay: tuple[Decay, ...] = Field(default=(1e-2, 1e-1), min_length=1, description="Grid of AdamW's weight decays.")
    epochs: int = Field(
        default=20, ge=1, description="Passes over the training samples; the learning rate decays to 0 along a cosine."
    )
    warmup_epochs: float = Field(default=0.0, ge=0.0, description="Passes over which the learning rate rises linearly to its peak.")
    batch_size: int = Field(default=64, ge=1, description="Images or videos per training step.")
    segments: int = Field(
        default=2, ge=1, le=MAX_COUNT, description="Evenly spaced clips per video, whose tokens are concatenated; an image is one."
    )
    views: int = Field(
        default=3,
        ge=1,
        le=MAX_COUNT,
        description="Crops of a test video whose predictions are averaged; training and images use the center crop.",
    )
    memory_gb: float = Field(
        default=4.0,
        ge=0.0,
        description="Main memory in GB for the training tokens of all encoders, in bf16; if they need more, they are "
        "recomputed in every epoch.",
    )

    @model_validator(mode="after")
    def check_warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of epochs {self.epochs}")
        return self


class ProbeConfig(Section):
    """Classifiers on frozen features; their hyperparameters are chosen on held-out training samples."""

    protocols: tuple[Protocol, ...] = Field(
        default=("linear", "knn"),
        min_length=1,
        description="linear: logistic regression on pooled features; knn: nearest neighbors of pooled features; "
        "attentive: heads that attend to all tokens, which take much longer.",
    )
    batch_size: int = Field(
        default=256, ge=1, description="Images, or frames of all clips, per forward pass of the frozen encoders."
    )
    workers: int = Field(default=2, ge=0, le=MAX_COUNT, description="Data workers.")
    segments: int = Field(
        default=2, ge=1, le=MAX_COUNT, description="Evenly spaced clips per video, whose features linear and knn average."
    )
    features: tuple[Literal["last", "last4"], ...] = Field(
        default=("last", "last4"),
        min_length=1,
        description="last: the pooled features, which are the mean of the tokens, or a timm network's own pooling; "
        "last4: the means of the last four blocks, or stages, concatenated.",
    )
    weight_decay: tuple[Decay, ...] = Field(
        default=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        min_length=1,
        description="Grid of weight decays of the linear heads: the loss has this times half the squared weights added.",
    )
    iterations: int = Field(default=50, ge=1, description="Maximum L-BFGS iterations of each linear head.")
    selection_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of each class's training samples held out for choosing hyperparameters."
    )
    k: tuple[Count, ...] = Field(default=(5, 10, 20), min_length=1, description="Numbers of neighbors of the k-NN classifiers.")
    attentive: AttentiveConfig = Field(
        default_factory=lambda: AttentiveConfig.model_validate({}), description="The attentive heads."
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the held-out share, the untrained encoder, shuffled frames and attentive heads.",
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="Precision of the frozen encoders and attentive heads.")
