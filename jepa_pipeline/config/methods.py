"""What is learned, and from what: one class a method."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.hjepa import HJepaConfig
from jepa_pipeline.config.jepa import IJepaConfig, Positive, Share, VJepa2Config, VJepaConfig, Weight
from jepa_pipeline.config.networks import BackboneConfig, HeadConfig
from jepa_pipeline.config.section import Section, kind_name


class JointEmbeddingConfig(Section):
    """Views of one image, one embedding of each, and a loss that draws them together without letting them collapse."""

    encoder: BackboneConfig = Field(description="The encoder that is trained and kept.")
    projector: HeadConfig = Field(description="From its features to the embedding that the loss sees; dropped after training.")

    def check_part(self, samples: int) -> None:
        """Refuse parts of a batch in which nothing can be compared or normalized."""
        if samples < 2:
            raise ValueError(
                f"{kind_name(type(self))} sees {samples} image at a time, and neither it nor batch norm can compare that: "
                "raise batch_size_global, or lower accumulate_steps or devices"
            )

    def check_views(self, sizes: list[int]) -> None:
        """Refuse fewer than two views."""
        if len(sizes) < 2:
            raise ValueError(f"views.crops makes one view, but {kind_name(type(self))} compares two or more: set count: 2")


class PairConfig(JointEmbeddingConfig):
    """Two views of one image."""

    def check_views(self, sizes: list[int]) -> None:
        """Refuse anything but two views."""
        if len(sizes) != 2:
            raise ValueError(f"views.crops makes {len(sizes)} views, but {kind_name(type(self))} compares two: set count: 2")


class VICRegConfig(JointEmbeddingConfig):
    """VICReg (Bardes, Ponce and LeCun 2022)."""

    name: Literal["vicreg"] = Field(description="Which method.")
    invariance: Weight = Field(default=25.0, description="Weight of the distance between the views' embeddings.")
    variance: Weight = Field(default=25.0, description="Weight of the hinge on each dimension's deviation.")
    covariance: Weight = Field(default=1.0, description="Weight of the squared covariances.")


class BarlowTwinsConfig(JointEmbeddingConfig):
    """Barlow Twins (Zbontar et al. 2021)."""

    name: Literal["barlow_twins"] = Field(description="Which method.")
    off_diagonal: Weight = Field(default=0.0051, description="Weight of the squared correlations of different dimensions.")


class LeJEPAConfig(JointEmbeddingConfig):
    """LeJEPA (Balestriero and LeCun 2025): views near the mean of the global views, embeddings normally distributed."""

    name: Literal["lejepa"] = Field(description="Which method.")
    weight: Share = Field(default=0.05, description="Weight of SIGReg; the distance to the center has 1 minus this.")
    slices: int = Field(default=1024, ge=1, description="Random directions of SIGReg, drawn anew each step.")
    global_views: int = Field(default=2, ge=1, description="The first so many views make the center.")

    def check_views(self, sizes: list[int]) -> None:
        """Refuse fewer views than the global ones."""
        super().check_views(sizes)
        if len(sizes) < self.global_views:
            raise ValueError(f"views.crops makes {len(sizes)} views, fewer than method.global_views {self.global_views}")


class SimCLRConfig(PairConfig):
    """SimCLR (Chen et al. 2020): InfoNCE over cosines, every other image of the batch a negative."""

    name: Literal["simclr"] = Field(description="Which method.")
    temperature: Positive = Field(default=0.1, description="Divides the cosines.")


class InfoNCEConfig(PairConfig):
    """InfoNCE over energies: the softmax of minus the squared distances between two views' unit embeddings."""

    name: Literal["info_nce"] = Field(description="Which method.")
    temperature: Positive = Field(default=0.1, description="Divides the energies.")


class SquareSquareConfig(PairConfig):
    """Square-square, of the energy-based lectures: low energy for views of one image, energy above a margin for those of two."""

    name: Literal["square_square"] = Field(description="Which method.")
    margin: Positive = Field(default=1.0, le=4.0, description="Energy above which different images push each other no more.")


class SwAVConfig(JointEmbeddingConfig):
    """SwAV (Caron et al. 2020): the code of one view is predicted from another; codes use all prototypes equally."""

    name: Literal["swav"] = Field(description="Which method.")
    prototypes: int = Field(default=3000, ge=2, description="Number of prototypes.")
    code_views: int = Field(default=2, ge=1, description="The first so many views are given codes.")
    temperature: Positive = Field(default=0.1, description="Of the predictions.")
    epsilon: Positive = Field(default=0.05, description="Of Sinkhorn's codes; smaller makes them harder.")
    sinkhorn_iterations: int = Field(default=3, ge=0, description="0 makes codes a softmax, which nothing keeps from collapsing.")
    queue_length: int = Field(default=0, ge=0, description="Earlier embeddings that take part in the codes, over all devices.")
    queue_start_steps: int = Field(default=0, ge=0, description="Optimizer steps before the queue begins to fill.")
    frozen_steps: int = Field(default=0, ge=0, description="Optimizer steps during which prototypes do not move.")

    def check_views(self, sizes: list[int]) -> None:
        """Refuse fewer views than are given codes."""
        super().check_views(sizes)
        if len(sizes) < self.code_views:
            raise ValueError(f"views.crops makes {len(sizes)} views, fewer than method.code_views {self.code_views}")


class SelfPredictionConfig(PairConfig):
    """One view's projection predicted from the other's."""

    predictor: HeadConfig = Field(description="From one view's projection to the other's.")

    @model_validator(mode="after")
    def the_predictor_answers_in_the_projectors_space(self) -> Self:
        if self.projector.out != self.predictor.out:
            raise ValueError(f"predictor.out is {self.predictor.out} but projector.out is {self.projector.out}: make them equal")
        return self


class BYOLConfig(SelfPredictionConfig):
    """BYOL (Grill et al. 2020): the projection that is predicted is a slow average's."""

    name: Literal["byol"] = Field(description="Which method.")
    ema: Share = Field(default=0.996, description="The average's momentum at the first step; it rises to 1 along a cosine.")


class SimSiamConfig(SelfPredictionConfig):
    """SimSiam (Chen and He 2021): the projection that is predicted is the network's own, without its gradient."""

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
)
