"""A recipe says exactly what it says, and every mistake is named with its line."""

import pytest

from jepa_pipeline.config.errors import ConfigError, UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import load_overrides, read_yaml
from jepa_pipeline.config.render import annotated_yaml, to_yaml
from jepa_pipeline.config.run import RunConfig

GOOD = """\
name: good
data:
  train: shards
method:
  name: ijepa
  encoder: {arch: vit_small, image_size: 224, patch_size: 16}
optim:
  total_samples: 010_000
  batch_size_global: 100
  lr: 1e-3
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def mistakes(path, *overrides):
    with pytest.raises(ConfigError) as raised:
        load_config(path, overrides)
    return str(raised.value).replace(str(path), "FILE").split("\n")


def test_yaml_1_2_numbers(write):
    config = load_config(write(GOOD))
    assert config.optim.total_samples == 10_000  # not octal
    assert config.optim.lr == 1e-3  # not a string


def test_yaml_1_2_words(write):
    source = read_yaml(write("a: no\nb: 24:00:00\nc: on\n"), RunConfig)
    assert source.values == {"a": "no", "b": "24:00:00", "c": "on"}


def test_three_mistakes_are_reported_at_once_with_their_lines(write):
    text = GOOD.replace("train: shards", "trian: shards").replace("lr: 1e-3", "lr: fast") + "  warmup_sample: 3\n"
    assert mistakes(write(text)) == [
        "FILE:2: key 'data.train' is missing: Folder or URL of shards with a manifest.json, as written by `jepa shards build`; "
        "or a mixture, such as [{path: data/a, weight: 3}, {path: data/b, weight: 1}]",
        "FILE:3: unknown key 'data.trian' - did you mean 'data.train'?",
        "FILE:10: 'optim.lr' is 'fast': it should be a valid number, unable to parse string as a number",
        "FILE:11: unknown key 'optim.warmup_sample' - did you mean 'optim.warmup_samples'?",
    ]


def test_a_key_in_the_wrong_section_is_sent_home(write):
    assert mistakes(write(GOOD + "seeed: 1\n"))[0].endswith("did you mean 'seed'?")
    assert mistakes(write(GOOD + "betas: [0.9, 0.95]\n"))[0].endswith("did you mean 'optim.betas'?")


def test_overrides_lie_above_the_file_and_are_blamed_by_name(write):
    path = write(GOOD)
    assert load_config(path, ["optim.lr=3e-4", "seed=7"]).optim.lr == 3e-4
    assert mistakes(path, "optim.lrr=1") == ["command line 'optim.lrr=1': unknown key 'optim.lrr' - did you mean 'optim.lr'?"]
    with pytest.raises(UserError, match="KEY=VALUE"):
        load_config(path, ["optim.lr"])


def test_extends_lays_the_recipe_over_its_base_and_blames_the_right_file(write):
    write(GOOD, "base.yaml")
    child = write("extends: [base.yaml]\nname: child\noptim: {lr: 2e-3}\n", "child.yaml")
    config = load_config(child)
    assert (config.name, config.optim.lr, config.optim.total_samples) == ("child", 2e-3, 10_000)
    write(GOOD + "  eps: -1\n", "base.yaml")
    assert mistakes(child)[0].split(":")[0].endswith("base.yaml")


def test_a_value_and_keys_below_it_cannot_both_be_given(write):
    with pytest.raises(UserError, match="'optim' is set to 3 but also has keys below it"):
        load_config(write(GOOD), ["optim=3", "optim.lr=1"])


@pytest.mark.parametrize("bases", ["3", "[null]", "[nowhere.yaml]"])
def test_extends_that_names_no_file_is_a_mistake(write, bases):
    assert "extends" in mistakes(write(f"extends: {bases}\n" + GOOD))[0]


def test_extends_in_a_circle_is_a_mistake(write):
    write("extends: b.yaml\n", "a.yaml")
    assert "extends itself" in mistakes(write("extends: a.yaml\n", "b.yaml"))[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optim: [1", "not YAML"),
        ("a: 1\na: 2\n", "FILE:2: found duplicate key"),
        ("- a\n", "mapping of sections"),
        ("", "mapping of sections"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_sentence(write, text, says):
    assert says in mistakes(write(text))[0]


def test_a_missing_file_names_its_neighbor(write):
    path = write(GOOD)
    with pytest.raises(UserError, match=f"did you mean {path}"):
        load_config(path.with_name("recipes.yaml"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.encoder.image_size=225", "225 is not a multiple of patch_size 16"),
        ("method.encoder.depth=3", "give arch or the sizes, not both"),
        ("method.masks.context_keep=0.99", "lower context_keep to"),
        ("method.masks.target_scale=[0.001, 0.002]", "widen target_scale"),
        ("optim.accumulate_steps=3", "is not divisible by accumulate_steps 3"),
        ("optim.warmup_samples=20000", "leaves nothing"),
        ("optim.total_samples=3", "less than one batch"),
        ("trainer.devices=7", "is not divisible by 7 devices"),
        ("views.crops=[{scale: [0.9, 0.3]}]", "0 < low <= high"),
        ("name=../x", "letters and digits"),
        ("optim.lr=.nan", "finite"),
        ("data.train=null", "a folder or URL of shards"),
        ("optim.betas=1", "a list"),
        ("method.masks.target_scale=[0.2]", "value 2 of the list is missing"),
    ],
)
def test_values_that_cannot_be_are_refused_with_the_rule(write, override, says):
    assert any(says in line for line in mistakes(write(GOOD), override))


def test_legacy_masks_under_a_regularizer_are_for_one_process(write):
    """Each process would cut its masks to a length of its own, and what it gathers from the others would have another size."""
    path, regularized = write(GOOD), "method.regularizer={name: vicreg}"
    says = (
        "method.masks.legacy gives each of 2 processes a different number of tokens, but method.regularizer vicreg compares those "
        "of all: set legacy to false, use one process, or remove the regularizer"
    )
    (said,) = mistakes(path, "method.masks.legacy=true", regularized, "trainer.devices=2")
    assert said.endswith(says)
    alone = load_config(path, ["method.masks.legacy=true", regularized])
    with pytest.raises(ValueError, match="gives each of 4 processes a different number of tokens"):
        alone.check_processes(4)
    for fine in (["method.masks.legacy=true"], [regularized]):
        load_config(path, [*fine, "trainer.devices=2"])


def test_what_is_shown_reads_back_as_the_same_run(write):
    config = load_config(write(GOOD))
    for text in (to_yaml(config), annotated_yaml(config)):
        again = load_config(write(text, "again.yaml"))
        assert again == config and again.hash() == config.hash()


def test_the_hash_hears_of_every_change(write):
    path = write(GOOD)
    assert load_config(path).hash() != load_config(path, ["seed=1"]).hash()


def test_a_tree_needs_no_file():
    config = load_overrides(
        RunConfig, ["name=x", "data.train=d", "method={name: ijepa, encoder: {arch: vit_tiny}}", "optim.total_samples=4096"]
    )
    assert config.method.encoder.size.embed_dim == 192


PAIR = "method={name: vicreg, encoder: {timm: resnet18}, projector: {hidden: [8], out: 8}}"


def test_a_section_of_several_kinds_is_told_by_its_name(write):
    path = write(GOOD)
    assert mistakes(path, "method.name=vicregg") == [
        "command line 'method.name=vicregg': 'method.name' is 'vicregg' - did you mean 'vicreg'?"
    ]
    assert "'method.name' is 'x': it is one of ijepa, vjepa" in mistakes(path, "method.name=x")[0]
    nameless = write(GOOD.replace("  name: ijepa\n", ""), "nameless.yaml")
    assert mistakes(nameless)[0].startswith("FILE:4: key 'method.name' is missing: it is one of ijepa, vjepa")
    regularizer = "method.regularizer={name: vicreg, weigth: 2}"
    assert mistakes(path, regularizer)[0].endswith(
        "unknown key 'method.regularizer.weigth' - did you mean 'method.regularizer.weight'?"
    )
    assert mistakes(path, "optim={name: lars, total_samples: 4096, lr: 1, betas: [0.9, 0.9]}")[0].endswith(
        "unknown key 'optim.betas'"
    )


def test_a_key_of_another_kind_is_not_offered_for_itself(write):
    (said,) = mistakes(write(GOOD), "method.projector={hidden: [], out: 1}")
    assert "unknown key 'method.projector'" in said and "did you mean 'method.projector'" not in said


def test_of_another_kind_stays_what_means_the_same(write):
    text = GOOD.replace("optim:\n", "optim:\n  name: adamw\n  betas: [0.9, 0.95]\n")
    config = load_config(write(text), ["optim.name=lars"])
    assert (config.optim.name, config.optim.total_samples, config.optim.lr) == ("lars", 10_000, 1e-3)
    pair = "method={name: simclr, encoder: {timm: resnet18}, projector: {hidden: [8], out: 4}, temperature: 0.5}"
    changed = load_config(write(text), [pair, "views.crops=[{count: 2}]", "method.name=vicreg"]).method
    assert (changed.name, changed.projector.out, changed.invariance) == ("vicreg", 4, 25.0)


def test_another_network_of_timms_leaves_the_old_ones_arguments_behind(write):
    overrides = [
        "views.crops=[{count: 2}]",
        PAIR,
        "method.encoder={args: {channels: [4, 4, 8, 8]}, small_stem: true, image_size: 64}",
    ]
    kept = load_config(write(GOOD), [*overrides, "method.encoder.args.drop_path_rate=0.1"]).method.encoder
    assert kept.args == {"channels": (4, 4, 8, 8), "drop_path_rate": 0.1} and kept.small_stem
    changed = load_config(write(GOOD), [*overrides, "method.encoder.timm=convnext_tiny"]).method.encoder
    assert (changed.args, changed.small_stem, changed.image_size) == ({}, False, 64)
    assert load_config(write(GOOD), [*overrides, "method.encoder.args={}"]).method.encoder.args == {}


def test_naming_the_kind_a_base_leaves_open_keeps_its_keys(write):
    write("method: {encoder: {arch: vit_small}}\n", "base.yaml")
    child = write(
        GOOD.replace("  encoder: {arch: vit_small, image_size: 224, patch_size: 16}\n", "").replace(
            "name: good", "extends: base.yaml\nname: good"
        )
    )
    assert load_config(child).method.encoder.arch == "vit_small"


def test_an_entry_of_a_list_is_overridden_by_its_number(write):
    path = write(GOOD + "views:\n  crops:\n    - {scale: [0.5, 1.0]}\n")
    crop = load_config(path, ["views.crops.0.flip=0.5"]).views.crops[0]
    assert (crop.flip, crop.scale) == (0.5, (0.5, 1.0))
    assert mistakes(path, "views.crops.0.flip=2") == [
        "command line 'views.crops.0.flip=2': 'views.crops.0.flip' is 2: it should be less than or equal to 1"
    ]
    with pytest.raises(UserError, match=r"'views.crops.3' does not exist: the entries of 'views.crops' are 0 to 0"):
        load_config(path, ["views.crops.3.flip=0.5"])
    assert mistakes(write(path.read_text().replace("scale", "skale")))[0].startswith("FILE:13: unknown key 'views.crops.0.skale'")


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["views.crops=[{count: 2}]"], "ijepa takes one of 224"),
        ([PAIR], "vicreg compares two or more: set count: 2"),
        (["method={name: simsiam, encoder: {timm: x}, projector: {hidden: [], out: 8}, predictor: {hidden: [], out: 9}}"], "make them equal"),
        (["method={name: byol, encoder: {timm: x}, projector: {hidden: [], out: 8}, predictor: {hidden: [], out: 8}}", "views.crops=[{count: 3}]"], "makes 3 views, but byol compares two"),
        (["method={name: lejepa, encoder: {timm: x}, projector: {hidden: [], out: 8}, global_views: 3}", "views.crops=[{count: 2}]"], "fewer than method.global_views 3"),
        (["method={name: swav, encoder: {timm: x}, projector: {hidden: [], out: 8}, code_views: 3}", "views.crops=[{count: 2}]"], "fewer than method.code_views 3"),
        (["method.target=shared"], "set regularizer to"),
        (["views.crops=[]"], "it needs at least 1 entry"),
        (["views.crops=[{jitter: {hue: 0.6}}]"], "less than or equal to 0.5"),
        (["views.crops=[{blur: {sigma: [2, 1]}}]"], "0 < low <= high"),
        ([PAIR.replace("resnet18}", "resnet18, args: {pretrained: true}}"), "views.crops=[{count: 2}]"], "args.pretrained cannot be set"),
        ([PAIR.replace("resnet18}", "resnet18, args: {features_only: true}}"), "views.crops=[{count: 2}]"], "args.features_only cannot be set"),
        ([PAIR.replace("resnet18}", "resnet18, args: {img_size: 64}}"), "views.crops=[{count: 2}]"], "args.img_size duplicates image_size"),
        ([PAIR, "views.crops=[{count: 2}]", "optim.accumulate_steps=100"], "vicreg sees 1 image at a time"),
    ],
)  # fmt: skip
def test_a_method_and_its_views_must_fit(write, overrides, rule):
    assert rule in mistakes(write(GOOD), *overrides)[0]


VIDEO = """\
name: clips
data:
  train: shards
method:
  name: vjepa
  encoder: {arch: vit_small, image_size: 224, patch_size: 16, frames: 16, tubelet_size: 2}
  predictor: {embed_dim: 384, num_heads: 12}
views:
  crops:
    - {scale: [0.3, 1.0]}
  clip:
    stride: 4
optim:
  total_samples: 10_000
  batch_size_global: 100
"""
CROP = "{scale: [0.3, 1.0]}"
COLOURS = "views.crops.0 changes colors, but clips are only cropped and flipped: remove jitter, gray, blur and solarize"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (CROP, "{jitter: {hue: 0.1}}", f"FILE: {COLOURS}"),
        (CROP, "{gray: 0.2}", f"FILE: {COLOURS}"),
        (CROP, "{blur: {}}", f"FILE: {COLOURS}"),
        (CROP, "{}\n    - {solarize: 0.1}", f"FILE: {COLOURS.replace('0', '1')}"),
        ("  crops", "  device: trainer\n  crops", "FILE: views.device is trainer, but the workers that decode clips crop them: set it to auto or workers"),
        (CROP, "{count: 2, image_size: 96}", "FILE: views.crops makes views of [96, 96] pixels, but vjepa takes clips of 224: give kinds of crops without image_size"),
        (CROP, "{}\n    - {image_size: 96}", "FILE: views.crops makes views of [224, 96] pixels, but vjepa takes clips of 224: give kinds of crops without image_size"),
        ("vjepa", "ijepa", "FILE:4: method: ijepa is for images, but encoder.frames is 16 and encoder.tubelet_size 2: set both to 1, or method.name to vjepa"),
        ("frames: 16", "frames: 15", "FILE:6: method.encoder: frames 15 is not a multiple of tubelet_size 2"),
        ("frames: 16, ", "", "FILE:6: method.encoder: frames 1 is not a multiple of tubelet_size 2"),
        ("arch: vit_small", "embed_dim: 36, depth: 2, num_heads: 3", "FILE:6: method.encoder: embed_dim 36 is not a multiple of 8, which positions sincos of clips need: choose one that is, or positions sincos_uniform or rope"),
        ("arch: vit_small", "embed_dim: 32, depth: 2, num_heads: 8, positions: rope", "FILE:6: method.encoder: heads of 4 channels are too narrow for rotary positions, which rotate 2 channels for each of 3 axes"),
        ("stride: 4", "stride: 4\n    fps: 5", "FILE:11: views.clip: fps 5 and stride 4 are both set: set one of them to null"),
        ("stride: 4", "stride: null", "FILE:11: views.clip: neither fps nor stride is set: set one of them"),
        ("stride: 4", "fps: 0", "FILE:12: 'views.clip.fps' is 0: it should be greater than 0"),
        ("stride: 4", "short: drop", "FILE:12: 'views.clip.short' is 'drop': it should be 'loop', 'hold' or 'skip'"),
    ],
)  # fmt: skip
def test_what_clips_cannot_have_is_one_sentence_at_its_place(write, old, new, says):
    assert old in VIDEO and load_config(write(VIDEO)).method.encoder.modality.has_time
    assert mistakes(write(VIDEO.replace(old, new))) == [says]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method.predictor={embed_dim: 36, num_heads: 3}"], "embed_dim 36 is not a multiple of 8, which positions sincos of clips need"),
        (["method.predictor={embed_dim: 32, num_heads: 8}", "method.encoder.positions=rope"], "heads of 4 channels are too narrow for rotary positions"),
        (["method.predictor={embed_dim: 32, num_heads: 8}", "method.encoder.positions=rope_tiled"], "heads of 4 channels are too narrow for rotary positions"),
    ],
)  # fmt: skip
def test_a_predictor_that_cannot_have_the_encoders_positions_is_refused(write, overrides, says):
    (said,) = mistakes(write(VIDEO), *overrides)
    assert says in said


@pytest.mark.parametrize(
    ("positions", "sizes"), [("sincos", "embed_dim: 36, num_heads: 3"), ("rope", "embed_dim: 32, num_heads: 8")]
)
def test_a_predictor_that_is_refused_is_named(write, positions, sizes):
    text = VIDEO.replace("embed_dim: 384, num_heads: 12", sizes).replace("frames: 16", f"frames: 16, positions: {positions}")
    (said,) = mistakes(write(text))
    assert "predictor" in said


@pytest.mark.parametrize("override", ["method.encoder.frames=15", "method.name=ijepa"])
def test_an_override_is_blamed_for_the_section_it_spoils(write, override):
    assert mistakes(write(VIDEO), override)[0].startswith(f"command line '{override}': ")


def test_fps_takes_the_place_of_the_stride_that_nobody_gave(write):
    config = load_config(write(VIDEO.replace("stride: 4", "fps: 7.5")))
    assert (config.views.clip.fps, config.views.clip.stride) == (7.5, None)
    assert load_config(write(VIDEO), ["views.clip={fps: 7.5, stride: null}"]).views.clip == config.views.clip
    for text in (to_yaml(config), annotated_yaml(config)):
        assert load_config(write(text, "again.yaml")) == config


def test_positions_that_need_no_eight_channels_take_a_width_of_twelve(write):
    for positions in ("sincos_uniform", "rope"):
        narrow = f"embed_dim: 36, depth: 2, num_heads: 3, positions: {positions}"
        assert load_config(write(VIDEO.replace("arch: vit_small", narrow))).method.encoder.size.embed_dim == 36
