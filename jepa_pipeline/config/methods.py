"""The configurations of all methods, one class each."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.custom_method import CustomMethodConfig
from jepa_pipeline.config.encoders import FeatureEncoderConfig
from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, VJepa2Config, VJepaConfig
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig, HeadConfig
from jepa_pipeline.config.section import Positive, Share, Weight, type_name


class JointEmbeddingConfig(BaseMethodConfig):
    """A loss on the embeddings of several views of each image, which attracts them without collapse."""

    compares_samples: ClassVar[bool] = True

    encoder: FeatureEncoderConfig = Field(description="The trained encoder, which is exported.")
    projector: HeadConfig = Field(description="MLP from features to embeddings; not exported.")

    @property
    def encoders(self) -> tuple[EncoderConfig | BackboneConfig, ...]:
        """Return the encoder of the only level."""
        return (self.encoder,)

    def check_micro_batch(self, samples: int, processes: int) -> None:
        """Raise ValueError for micro-batches of one sample, which loss and batch norm cannot compare with others."""
        if samples < 2:
            raise ValueError(
                f"{type_name(type(self))} sees {samples} image at a time, but its loss and batch norm compare several: "
                "raise batch_size_global, or lower accumulate_steps or devices"
            )

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError if there are fewer than two views."""
        if len(sizes) < 2:
            raise ValueError(f"views.crops makes one view, but {type_name(type(self))} compares two or more: set count: 2")


class PairConfig(JointEmbeddingConfig):
    """A loss on two views of each image."""

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError unless there are two views."""
        if len(sizes) != 2:
            raise ValueError(f"views.crops makes {len(sizes)} views, but {type_name(type(self))} compares two: set count: 2")


class VICRegConfig(JointEmbeddingConfig):
    """VICReg (Bardes, Ponce and LeCun 2022)."""

    name: Literal["vicreg"] = Field(description="Which method.")
    invariance: Weight = Field(default=25.0, description="Weight of the squared distance between the views' embeddings.")
    variance: Weight = Field(default=25.0, description="Weight of the hinge on every dimension's standard deviation.")
    covariance: Weight = Field(default=1.0, description="Weight of the squared covariances.")


class BarlowTwinsConfig(JointEmbeddingConfig):
    """Barlow Twins (Zbontar et al. 2021)."""

    name: Literal["barlow_twins"] = Field(description="Which method.")
    off_diagonal: Weight = Field(default=0.0051, description="Weight of the squared correlations between different dimensions.")


class LeJEPAConfig(JointEmbeddingConfig):
    """LeJEPA (Balestriero and LeCun 2025): views close to the mean of the global views, embeddings normally distributed."""

    name: Literal["lejepa"] = Field(description="Which method.")
    weight: Share = Field(default=0.05, description="Weight of SIGReg; the distance to the center has weight 1 - weight.")
    slices: int = Field(default=1024, ge=1, description="Random directions of SIGReg, sampled at every step.")
    global_views: int = Field(default=2, ge=1, description="Number of first views whose mean is the center.")

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError if there are fewer views than global views."""
        super().check_views(sizes)
        if len(sizes) < self.global_views:
            raise ValueError(f"views.crops makes {len(sizes)} views, fewer than method.global_views {self.global_views}")


class SimCLRConfig(PairConfig):
    """SimCLR (Chen et al. 2020): InfoNCE on cosine similarities, with all other images of the batch as negatives."""

    name: Literal["simclr"] = Field(description="Which method.")
    temperature: Positive = Field(default=0.1, description="Divisor of the cosine similarities.")


class InfoNCEConfig(PairConfig):
    """InfoNCE on energies: the softmax of the negative squared distances between two views' unit embeddings."""

    name: Literal["info_nce"] = Field(description="Which method.")
    temperature: Positive = Field(default=0.1, description="Divisor of the energies.")


class SquareSquareConfig(PairConfig):
    """Square-square loss: low energy for two views of an image, energy above a margin for different images (LeCun's lectures)."""

    name: Literal["square_square"] = Field(description="Which method.")
    margin: Positive = Field(default=1.0, le=4.0, description="Energy above which different images no longer repel each other.")


class SwAVConfig(JointEmbeddingConfig):
    """SwAV (Caron et al. 2020): predict the code of one view from another; codes use all prototypes equally."""

    name: Literal["swav"] = Field(description="Which method.")
    prototypes: int = Field(default=3000, ge=2, description="Number of prototypes.")
    code_views: int = Field(default=2, ge=1, description="Number of first views that get codes.")
    temperature: Positive = Field(default=0.1, description="Divisor of the similarities to prototypes before the softmax.")
    epsilon: Positive = Field(default=0.05, description="Temperature of Sinkhorn's codes; smaller makes them harder.")
    sinkhorn_iterations: int = Field(default=3, ge=0, description="Sinkhorn iterations; 0: codes are a softmax, which collapses.")
    queue_length: int = Field(default=0, ge=0, description="Earlier embeddings, over all devices, that codes are computed with.")
    queue_start_steps: int = Field(default=0, ge=0, description="Optimizer steps before the queue starts to fill.")
    frozen_steps: int = Field(default=0, ge=0, description="Optimizer steps during which prototypes are frozen.")

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError if there are fewer views than code_views."""
        super().check_views(sizes)
        if len(sizes) < self.code_views:
            raise ValueError(f"views.crops makes {len(sizes)} views, fewer than method.code_views {self.code_views}")


class SelfPredictionConfig(PairConfig):
    """Prediction of one view's projection from the other's."""

    predictor: HeadConfig = Field(description="MLP from one view's projection to the other's.")

    @model_validator(mode="after")
    def check_predictor(self) -> Self:
        if self.projector.out != self.predictor.out:
            raise ValueError(f"predictor.out is {self.predictor.out} but projector.out is {self.projector.out}: make them equal")
        return self


class BYOLConfig(SelfPredictionConfig):
    """BYOL (Grill et al. 2020): the target projection is that of an exponential moving average of the network."""

    name: Literal["byol"] = Field(description="Which method.")
    ema: Share = Field(default=0.996, description="Momentum of the average at the first step; it rises to 1 along a cosine.")


class SimSiamConfig(SelfPredictionConfig):
    """SimSiam (Chen and He 2021): the target projection is the network's own, without gradient."""

    name: Literal["simsiam"] = Field(description="Which method.")


MethodConfig = (
    IJepaConfig
    | VJepaConfig
    | VJepa2Config
    | HJepaConfig
    | VICRegConfig
    | BarlowTwinsConfig
    | LeJEPAConfig
    | SimCLRConfig
    | InfoNCEConfig
    | SquareSquareConfig
    | SwAVConfig
    | BYOLConfig
    | SimSiamConfig
    | CustomMethodConfig
)
