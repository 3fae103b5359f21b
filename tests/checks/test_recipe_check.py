"""`jepa config check`, `jepa doctor` and the submission of a job say the same of a recipe, before anything starts."""

import importlib.metadata
import re
import shutil

import pytest
import torch
from packaging.requirements import Requirement
from rich.console import Console
from typer.testing import CliRunner

from jepa_pipeline.checks import recipe
from jepa_pipeline.checks.recipe import check_init_from, check_manifests, check_memory, check_packages, check_recipe, this_machine
from jepa_pipeline.checks.submission import check_submission
from jepa_pipeline.cli import app
from jepa_pipeline.commands.check_config import check_config
from jepa_pipeline.commands.doctor import check_once
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.models.weights import read_weights, save_weights

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tiny_below, tmp_path_factory):
    """A finished run; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("trained")
    return pretrain(tiny_below(folder, "name=first", "optim.total_samples=16", "optim.warmup_samples=0"), QUIET)


def refusals(config):
    """The sentence on init_from of each of those who look, and of the run itself."""
    for look in (check_config, lambda config: check_submission(config, 1), lambda config: pretrain(config, QUIET)):
        with pytest.raises(UserError) as caught:
            look(config)
        yield str(caught.value)
    (result,) = [one for one in check_once(config, None, None, 1, quick=True) if one.name == "init_from"]
    yield f"{result.text}: {result.cure}"


@pytest.mark.parametrize(
    ("source", "overrides", "sentence"),
    [
        ("vitl.pt", [], "which is a file: give a run folder, such as runs/NAME"),
        ("nowhere", [], "but there is no such folder: give a run folder"),
        ("first/checkpoints", [], "which holds no checkpoint and no encoder .*: give the run folder around it"),
        ("first", ["method.encoder.depth=3"], "where method.encoder.depth is 2, but here it is 3: make it the same"),
        (
            "first",
            ["method.encoder.depth=3", "method.predictor.depth=2"],
            "where method.encoder.depth is 2, but here it is 3; method.predictor.depth is 1, but here it is 2: make them the same",
        ),
        (
            "first",
            [
                "method={name: byol, encoder: {timm: resnet18, image_size: 16}, projector: {hidden: [8], out: 4}, predictor: {hidden: [8], out: 4}}",
                "views.crops=[{count: 2}]",
            ],
            "where method.name is ijepa, but here it is byol, and their networks differ: name a run of byol",
        ),
        ("first", ["optim={name: sgd, lr: 0.1}"], "where optim.name is adamw, but here it is sgd: make it the same"),
        (
            "first",
            ["method.target=shared", "method.regularizer.name=vicreg"],
            "networks differ from this run's .*: make target, regularizer",
        ),
    ],
)
def test_an_init_from_that_cannot_work_is_refused_by_all_with_one_sentence(tiny, trained, tmp_path, source, overrides, sentence):
    (tmp_path / "vitl.pt").touch()
    place = tmp_path / source if source in ("vitl.pt", "nowhere") else trained.parent / source
    config = tiny(*overrides, f"init_from={place}")
    said = list(refusals(config))
    assert len(set(said)) == 1, said
    assert re.search(sentence, said[0]) and str(place) in said[0]
    assert not (config.folder / "checkpoints").exists()


def spoil_weights(folder):
    (folder / "model.safetensors").write_bytes(b"cut off")


def spoil_card(folder):
    (folder / "config.json").write_text('{"model_type": "vit", "hidden_size": 24}')


def lose_weights(folder):
    (folder / "model.safetensors").unlink()


def reshape(folder):
    """Weights of another shape than those that the card describes."""
    card, weights = read_weights(folder)
    save_weights(folder, {**weights, "norm.weight": torch.ones(7)}, card)


def rename(folder):
    card, weights = read_weights(folder)
    save_weights(folder, {name.replace("blocks.1.", "blocks.7."): value for name, value in weights.items()}, card)


def break_numbers(folder):
    card, weights = read_weights(folder)
    save_weights(folder, {**weights, "norm.weight": torch.full((24,), torch.nan)}, card)


BACKBONE = "projector: {hidden: [8], out: 4}}"


@pytest.mark.parametrize(
    ("spoil", "overrides", "sentence"),
    [
        (spoil_weights, [], "model.safetensors is not what was written .*: copy both files again"),
        (
            spoil_card,
            [],
            r"config.json is not an encoder's card \(.*\): if others published the weights, `jepa import` makes an encoder of them",
        ),
        (lose_weights, [], "holds no checkpoint and no encoder .*: give the run folder around it"),
        (reshape, [], r"norm.weight is \[7\], but here it is \[24\]: give method.encoder the values of its config.json"),
        (rename, [], r"blocks.1.attn.proj.bias is missing, but here it is \[24\]; .* and 21 more tensors differ"),
        (break_numbers, [], "holds NaN or infinite weights .*first: norm.weight"),
        (None, ["method.encoder.depth=3"], "where method.encoder.depth is 2, but here it is 3: make it the same"),
        (None, ["method.encoder.num_heads=4"], "where method.encoder.num_heads is 2, but here it is 4: make it the same"),
        (
            None,
            ["method.encoder.positions=rope", "method.encoder.num_heads=3"],
            "num_heads is 2, .*positions is sincos, .*: make them the same",
        ),
        (
            None,
            ["method={name: vicreg, encoder: {timm: resnet18, image_size: 16}, " + BACKBONE, "views.crops=[{count: 2}]"],
            "which is ViT 24 x 2, .* but method.encoder of vicreg is resnet18.*: name an encoder of that kind",
        ),
        (
            None,
            [
                "method.name=vjepa2",
                "method.encoder={image_size: 16, patch_size: 4, frames: 4, tubelet_size: 2, embed_dim: 24, depth: 2, num_heads: 2}",
                "method.masks=[{name: blocks, num_blocks: 2, scale: [0.2, 0.4], context_keep: 0.2, target_keep: 0.3}]",
            ],
            "an image encoder, but this run trains on clips: name a video encoder",
        ),
    ],
)
def test_an_encoder_that_cannot_work_is_refused_by_all_with_one_sentence(tiny, trained, tmp_path, spoil, overrides, sentence):
    folder = shutil.copytree(trained, tmp_path / "copy", symlinks=True) / "encoder"
    if spoil:
        spoil(folder)
    config = tiny(*overrides, f"init_from={folder}")
    said = list(refusals(config))
    assert len(set(said)) == 1, said
    assert re.search(sentence, said[0]) and str(folder) in said[0] and "\n" not in said[0]
    assert not config.folder.exists()


def test_an_encoder_that_works_is_let_through_with_what_is_fitted(tiny, trained, tmp_path):
    snapshot = tmp_path / "snapshot"
    shutil.copytree(trained / "encoder", snapshot / "encoder")
    for place in (trained / "encoder", snapshot):
        (result,) = check_init_from(tiny(f"init_from={place}", "method.encoder.image_size=24"))
        assert (
            result.level == "ok" and "a grid of 6x6 tokens in place of 4x4: sine-cosine positions are computed anew" in result.text
        )


def test_a_run_without_checkpoints_is_not_taken_for_its_encoder(tiny, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("checkpoints"))
    for said in refusals(tiny(f"init_from={copy}")):
        assert (
            said
            == f"init_from is {copy}, which holds no checkpoint: name {copy}/encoder to begin with its encoder alone, or another run"
        )


def test_an_init_from_that_works_is_let_through(tiny, trained):
    config = tiny(f"init_from={trained}")
    (result,) = check_init_from(config)
    assert result.level == "ok" and "step-00000002" in result.text
    check_config(config)
    check_submission(config, 1)


def test_a_damaged_newest_checkpoint_is_named(tiny, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    (copy / "checkpoints/step-00000002/.metadata").write_bytes(b"no index")
    (result,) = check_init_from(tiny(f"init_from={copy}"))
    assert result.level == "fail" and "step-00000002 is damaged" in result.text and "name another run" in result.cure


def test_a_run_that_resumes_does_not_need_it_again(tiny, trained, tmp_path):
    config = tiny("init_from=/no/such")
    (config.folder / "checkpoints/step-00000001").mkdir(parents=True)
    assert check_init_from(config) == []


def test_a_folder_with_another_run_is_refused_as_pretrain_does(tiny, trained):
    """Also where an init_from that cannot work hides behind it."""
    for override in ("optim.lr=0.5", "init_from=/no/such"):
        config = tiny(f"name={trained.name}", f"output={trained.parent}", override)
        (result,) = [found for found in check_recipe(config) if found.level == "fail"]
        with pytest.raises(UserError) as caught:
            pretrain(config, QUIET)
        assert result.name == "run folder" and "holds a run that differs from this one" in str(caught.value)
        assert result.text.splitlines()[0] == str(caught.value).splitlines()[0]


def test_what_an_earlier_job_makes_may_be_missing(tiny):
    config = tiny("init_from=/no/such", "data.train=/no/such/train")
    check_submission(config, 1, made_later=True)
    with pytest.raises(UserError) as caught:
        check_submission(config, 1)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("overrides", "package", "cure"),
    [
        (["log.wandb=true"], "wandb", "pip install 'wandb>=0.20', or set log.wandb=false"),
        (["data.train=s3://host/train"], "s3fs", "pip install 's3fs'"),
    ],
)
def test_a_package_that_is_not_installed_is_named_at_once(tiny, monkeypatch, overrides, package, cure):
    monkeypatch.setattr(recipe, "is_installed", lambda name: name != package)
    config = tiny(*overrides)
    (result,) = check_packages(config)
    assert result.level == "fail" and f"but {package} is not installed" in result.text and result.cure == cure
    with pytest.raises(UserError, match=f"but {package} is not installed"):
        pretrain(config, QUIET)
    assert not config.folder.exists()
    monkeypatch.setattr(recipe, "is_installed", lambda name: True)
    assert check_packages(config) == []


def test_the_packages_that_are_proposed_are_those_of_the_project():
    """A name in brackets, such as ours with an extra, could be anybody's on an index."""
    declared = {Requirement(line).name: Requirement(line) for line in importlib.metadata.requires("jepa_pipeline") or []}
    assert str(declared["av"].specifier) == ">=18" and str(declared["wandb"].specifier) == ">=0.20"


def test_a_batch_that_memory_cannot_hold_is_refused_at_once(tiny):
    config = tiny("optim.batch_size_global=1000000000", "optim.total_samples=4000000000")
    (result,) = check_memory(config, this_machine(config, 1, 1))
    assert result.level == "fail" and "1,000,000,000 samples" in result.text
    with pytest.raises(UserError, match=r"the pixels of 1,000,000,000 samples take .*: lower optim.batch_size_global"):
        pretrain(config, QUIET)
    assert check_memory(tiny(), this_machine(tiny(), 1, 1)) == [] and not config.folder.exists()


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(recipe, "CGROUP_LIMIT", limit)
    whole = recipe.memory_limit()
    limit.write_text("max\n")
    assert recipe.memory_limit() == whole
    limit.write_text("1000000\n")
    assert recipe.memory_limit() == 1_000_000


def test_data_that_would_be_seen_thousands_of_times_is_a_warning(tiny):
    """The longest published runs take 1,000 passes."""
    passes = {1000: "ok", 5000: "warn"}
    for epochs, level in passes.items():
        (result,) = check_manifests(tiny(f"optim.total_samples={200 * epochs}"))
        assert (result.name, result.level) == ("amount", level)
    assert "each of the 200 samples of" in result.text and "would be read 5,000 times" in result.text


def test_config_check_warns_of_what_this_machine_lacks(tiny, tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(tiny("data.train=/no/such/train", "data.workers=63")))
    monkeypatch.setattr("jepa_pipeline.commands.check_config.available_cores", lambda: 4)
    result = CliRunner().invoke(app, ["config", "check", str(path)])
    assert result.exit_code == 0 and "is valid" in result.output
    assert "warning: data.train is /no/such/train, which is not here" in result.output and "data.train=NEW" in result.output
    assert "4 cores for this process; 64 would be busy" in result.output and "set data.workers=3" in result.output


def test_nothing_is_said_of_a_plain_recipe(tiny, capsys):
    assert check_recipe(tiny()) == []
    check_config(tiny())
    assert capsys.readouterr().err == ""
