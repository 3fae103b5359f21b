"""data.channels is the one number of channels: what contradicts it, or cannot work on it, is refused with the key to change."""

import pytest

from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.config.run import RunConfig

FOUR = ["data.channels=4", "views.mean=[0.1, 0.2, 0.3, 0.4]", "views.std=[0.1, 0.1, 0.1, 0.1]"]
IJEPA, SIMCLR, VJEPA = (f"configs/debug/{name}.yaml" for name in ("ijepa", "simclr", "vjepa"))
VIEWS = "views.crops=[{count: 2, flip: 0.5, blur: {}}]"


@pytest.mark.parametrize(("recipe", "more"), [(IJEPA, []), (SIMCLR, [VIEWS])])
def test_the_encoder_takes_the_number_of_the_data(recipe: str, more: list[str]):
    config = load_config(recipe, [*FOUR, *more])
    assert config.method.encoder.in_channels == 4
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config  # as a run folder holds it
    assert load_config(recipe).method.encoder.in_channels == 3
    assert config.method.encoder.describe().endswith(", 4 channels")
    assert not load_config(recipe).method.encoder.describe().endswith("channels")


def test_the_first_level_of_a_stack_takes_it():
    path = {"name": "x", "data": {"train": "x", "channels": 2}, "views": {"mean": [0.5] * 2, "std": [0.5] * 2}}
    level = {"encoder": {"arch": "vit_tiny"}, "task": {"name": "masked", "masks": [{"name": "multiblock"}]}}
    above = {
        "encoder": {"stride": {"space": 2}, "embed_dim": 96, "depth": 1, "num_heads": 3},
        "task": {"name": "masked", "masks": [{"name": "multiblock", "target_scale": [0.18, 0.25], "context_keep": 0.24}]},
    }
    method = {"name": "hjepa", "levels": [level, above]}
    config = RunConfig.model_validate({**path, "method": method, "optim": {"total_samples": 4096}})
    assert config.method.encoders[0].in_channels == 2


@pytest.mark.parametrize(
    ("channels", "bits", "form"),
    [(3, None, (3, 8)), (1, None, (1, 16)), (4, 8, (4, 8)), (3, 16, (3, 16))],
)
def test_bits_follow_from_the_channels_unless_given(channels: int, bits: int | None, form: tuple[int, int]):
    values = [0.5] * channels
    overrides = [f"data.channels={channels}", f"views.mean={values}", f"views.std={values}"]
    config = load_config(IJEPA, [*overrides, *([f"data.bits={bits}"] if bits else [])])
    assert config.data.pixel_format == PixelFormat(*form)


REFUSED = {
    "another number": (
        IJEPA,
        [*FOUR, "method.encoder.in_channels=3"],
        "data.channels is 4, but in_channels of the method's encoder is 3",
    ),
    "a number of its own": (IJEPA, ["method.encoder.in_channels=4"], "remove in_channels, which follows data.channels"),
    "no mean": (
        IJEPA,
        FOUR[:1],
        "data.channels is 4, but views.mean and views.std have 3 values: take those that `jepa shards stats`",
    ),
    "a mean too long": (IJEPA, FOUR[1:], "data.channels is 3, but views.mean and views.std have 4 values"),
    "another length": (IJEPA, [*FOUR[:2]], "mean has 4 values and std 3"),
    "none": (IJEPA, ["data.channels=0"], "'data.channels' is 0"),
    "17": (IJEPA, ["data.channels=17"], "'data.channels' is 17"),
    "12 bits": (IJEPA, ["data.bits=12"], "'data.bits' is 12: it should be 8 or 16"),
    "jitter": (
        SIMCLR,
        [*FOUR, "views.crops=[{count: 2, jitter: {hue: 0.1}}]"],
        "views.crops.0.jitter to null; crops, flips and blur work",
    ),
    "gray": (SIMCLR, [*FOUR, "views.crops=[{count: 2, gray: 0.2}]"], "set views.crops.0.gray to 0"),
    "solarize": (SIMCLR, [*FOUR, "views.crops=[{}, {solarize: 0.2}]"], "set views.crops.1.solarize to 0"),
    "clips": (VJEPA, FOUR, "images of 4 channels of 16 bits, but clips are 8-bit RGB"),
    "deep clips": (VJEPA, ["data.bits=16"], "but clips are 8-bit RGB"),
    "in_chans": (SIMCLR, ["method.encoder.args={in_chans: 4}"], "args.in_chans duplicates in_channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_the_key(name: str):
    recipe, overrides, sentence = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        load_config(recipe, overrides)
    assert sentence in str(error.value)


def test_a_card_has_a_value_for_each_channel_and_old_cards_load():
    old = {"mean": [0.5] * 3, "std": [0.5] * 3, "name": "x", "method": "ijepa", "step": 1, "samples": 1}
    old |= {"config_hash": "c", "data_hash": "d", "version": "0", "encoder": {"arch": "vit_tiny"}}
    card = EncoderCard.model_validate(old)
    assert card.pixel_format == PixelFormat(3, 8) and card.mean == (0.5, 0.5, 0.5)
    assert EncoderCard.model_validate(old | {"encoder": {"timm": "resnet18"}}).encoder.in_channels == 3
    with pytest.raises(ValueError, match=r"mean has 3 values and std 3, but encoder.in_channels is 5"):
        EncoderCard.model_validate(old | {"encoder": {"arch": "vit_tiny", "in_channels": 5}})
    assert EncoderConfig(arch="vit_tiny", in_channels=12).input_shape == "224x224, 12 channels"
    assert BackboneConfig(timm="resnet18", in_channels=1).input_shape == "224x224, 1 channel"
