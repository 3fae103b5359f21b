"""A recipe's own words about itself, for `jepa config list`. They change nothing in a run and are not inherited by `extends`."""

from pydantic import Field

from jepa_pipeline.config.section import Section


class AboutConfig(Section):
    """The purpose of a recipe, as `jepa config list` shows it."""

    data: str = Field(min_length=1, description="Data that the recipe is made for.")
    hardware: str = Field(min_length=1, description="Hardware that the recipe is made for.")
    parameters: float | None = Field(default=None, gt=0, description="Parameters of the exported encoder, in millions.")
    hours: float | None = Field(
        default=None, gt=0, description="Hours of the whole run on that hardware: measured if `measured` is given, else calculated."
    )
    measured: str | None = Field(
        default=None, min_length=1, description="Result that was measured, which docs/results.md has too; null: not yet run."
    )
