"""A key or value that does not exist is answered with the one that the user meant, or with none."""

import pytest

from jepa_pipeline.config.errors import ConfigError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.parse import dotted_keys, load_overrides
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.suggest import OTHER_NAMES, OTHER_WAYS, nearest_key

RECIPE = "configs/debug/ijepa.yaml"


def mistake(override):
    with pytest.raises(ConfigError) as caught:
        load_config(RECIPE, [override])
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("optim.batch_size", "optim.batch_size_global"),
        ("batch_size", "optim.batch_size_global"),
        ("optim.bs", "optim.batch_size_global"),
        ("optim.learning_rate", "optim.lr"),
        ("optim.warmup", "optim.warmup_samples"),
        ("optim.epochs", "optim.total_samples"),
        ("epochs", "optim.total_samples"),
        ("num_workers", "data.workers"),
        ("data.num_workers", "data.workers"),
        ("data.path", "data.train"),
        ("accelerator", "trainer.accelerator"),
        ("trainer.device", "trainer.accelerator"),
        ("trainer.gpus", "trainer.devices"),
        ("gpu", "trainer.devices"),
        ("fp16", "trainer.precision"),
        ("image_size", "method.encoder.image_size"),
        ("method.encoder.img_size", "method.encoder.image_size"),
        ("wandb", "log.wandb"),
        ("output_dir", "output"),
        ("pretrained", "init_from"),
        ("optim.lrr", "optim.lr"),
        ("optim.betas1", "optim.betas"),
        ("log_every", "log.every_steps"),
    ],
)
def test_a_key_is_found_by_its_other_names_and_by_its_letters(given, meant):
    unit = ", in samples" if meant.endswith("_samples") else ""
    assert mistake(f"{given}=1").endswith(f"unknown key '{given}' - did you mean '{meant}'{unit}?")


def test_one_shared_word_is_no_resemblance():
    with pytest.raises(ConfigError) as caught:
        load_overrides(ProbeConfig, ["image_size=32"])
    assert str(caught.value).endswith("unknown key 'image_size'")
    assert mistake("optim.xyz=3").endswith("unknown key 'optim.xyz'")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("method=ijepaa", "method.name=ijepa"),
        ("method=ijepa", "method.name=ijepa"),
        ("optim=sgd", "optim.name=sgd"),
        ("method.encoder=vit_small", "method.encoder.arch=vit_small"),
        ("data=data/photos", "data.train=data/photos"),
    ],
)
def test_a_section_that_was_given_a_value_is_told_which_key_has_it(given, meant):
    assert mistake(given).endswith(f"is a section with keys below it: did you mean {meant}?")


def test_a_section_that_was_given_nonsense_is_told_what_there_is():
    assert "choose its kind with method.name, one of ijepa, vjepa" in mistake("method=resnet50")
    assert "set its keys, such as log.every_steps" in mistake("log=3")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("trainer.accelerator=gpus", "cuda"),
        ("trainer.precision=bfloat16", "bf16"),
        ("trainer.precision=16-mixed", "bf16"),
        ("trainer.strategy=fsdp", "fsdp2"),
        ("method.encoder.arch=ViT-S", "vit_small"),
        ("method.encoder.arch=vit-l/16", "vit_large"),
        ("method.encoder.arch=ViTB", "vit_base"),
        ("method.name=I-JEPA", "ijepa"),
        ("method.name=BarlowTwins", "barlow_twins"),
    ],
)
def test_a_value_as_others_call_it_is_translated(given, meant):
    assert mistake(given).endswith(f" - did you mean '{meant}'?")
    assert "did you mean" not in mistake("trainer.accelerator=quantum")


KEYS = [*dotted_keys(RunConfig, entries=False)]


@pytest.mark.parametrize("key", OTHER_NAMES)
def test_every_name_of_other_programs_leads_to_a_key_that_exists(key):
    """Alone, as people type it, and with the dashes of a command line."""
    if key == "batch_size":  # of probes
        assert key in ProbeConfig.model_fields
        return
    assert any(f".{dotted}".endswith(f".{key}") for dotted in KEYS)
    for name in OTHER_NAMES[key]:
        for written in (name, name.replace("_", "-"), name.upper()):
            found = nearest_key(KEYS, RunConfig, (), written)
            assert found is not None and f".{found}".endswith(f".{key}"), (written, found)


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_what_a_run_does_by_itself_needs_no_key(name):
    assert mistake(f"{name}=1").endswith(f"unknown key '{name}': {OTHER_WAYS[name]}")


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("mask_ratio", "did you mean 'method.masks.context_keep', the share that is seen?"),
        ("per_device_train_batch_size", "did you mean 'optim.batch_size_global', over all devices?"),
        ("max-epochs", "did you mean 'optim.total_samples', in samples?"),
    ],
)
def test_another_unit_is_said(given, end):
    assert mistake(f"{given}=1").endswith(end)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("accelerator=gpu", "cuda"), ("precision=32-true", "fp32"), ("precision=32", "fp32"), ("precision=bf16-mixed", "bf16")],
)
def test_what_lightning_calls_so_is_the_same_run(given, meant):
    key = given.partition("=")[0]
    theirs, ours = (load_config(RECIPE, [f"trainer.{assignment}"]) for assignment in (given, f"{key}={meant}"))
    assert theirs == ours and theirs.hash() == ours.hash()
