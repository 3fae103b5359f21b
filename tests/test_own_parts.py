"""Data sets, encoders and methods of the user's own: what works with them, and what is refused in one sentence."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from own_parts import Blobs, Distance, Pooled, Tokens
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from jepa_pipeline import Method, export, features, load_config, load_encoder, pretrain, probe
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.data.custom import CustomSamples
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.masks.build import build_mask_samplers
from jepa_pipeline.training.parts import Parts, configure, describe_limits
from lightning import Callback

HEAD = {"hidden": [8], "out": 6}
BASE = {
    "name": "own",
    "data": {"workers": 0},
    "optim": {"batch_size_global": 8, "total_samples": 32, "warmup_samples": 8},
    "log": {"every_steps": 1},
    "trainer": {"accelerator": "cpu"},
    "views": {"crops": [{"count": 2}]},
    "method": {"name": "vicreg", "projector": HEAD},
}
IJEPA = {
    **BASE,
    "views": {},
    "method": {
        "name": "ijepa",
        "predictor": {"embed_dim": 8, "depth": 1, "num_heads": 2},
        "masks": {"num_targets": 2, "target_scale": [0.2, 0.3], "context_keep": 0.3},
    },
}
PROBE = ProbeConfig(workers=0, iterations=20, weight_decay=(0.01,), features=("last",), protocols=("linear", "knn"), k=(5,))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An I-JEPA of an own encoder on an own data set."""
    config = {**IJEPA, "output": str(tmp_path_factory.mktemp("runs"))}
    return pretrain(config, data=Blobs(), encoder=partial(Tokens, width=12))


def refuse(config=BASE, **parts):
    with pytest.raises(UserError) as refused:
        configure(config, Parts(**parts))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("form", ["tensor", "array", "image", "pair", "dictionary"])
def test_items_of_every_form_are_the_same_pixels(form):
    image = CustomSamples(Blobs(4, form), "Blobs").read(0, 3).media
    assert np.array_equal(np.asarray(image), Blobs(4, "tensor")[3].permute(1, 2, 0).numpy())


def test_the_order_of_an_own_data_set_depends_on_the_seed_and_n_alone(tmp_path):
    """Any number of workers and ranks: the same samples, the same views and masks."""
    from streams import load_stream

    config = configure({**IJEPA, "output": str(tmp_path)}, Parts(data=Blobs(30), encoder=Tokens))
    masks = build_mask_samplers(config.method)
    alone = list(load_stream(config, masks))
    assert sorted(key for batch in alone for key in batch.keys)[:1] and len({key for b in alone[:3] for key in b.keys}) == 24
    workers = configure({**IJEPA, "data": {"workers": 2}}, Parts(data=Blobs(30), encoder=Tokens))
    shares = [list(load_stream(config, masks, rank=rank, world_size=2)) for rank in (0, 1)]
    for one, two, first, second in zip(alone, load_stream(workers, masks), *shares, strict=True):
        assert one.keys == two.keys == first.keys + second.keys
        assert torch.equal(one.views[0], two.views[0])
        assert torch.equal(one.views[0], torch.cat([first.views[0], second.views[0]]))
        assert torch.equal(one.masks[0].context, torch.cat([first.masks[0].context, second.masks[0].context]))


def test_a_run_of_own_parts_is_probed_embedded_and_loaded(run, capsys):
    rows = probe(run, (Blobs(40), Blobs(21)), config=PROBE)
    assert {row.encoder for row in rows} == {"target", "random_init", "pixels"} and all(0 <= row.top1 <= 1 for row in rows)
    vectors = features(run, Blobs(21))
    assert vectors.values.shape == (21, 12) and vectors.labels.tolist() == [n % 2 for n in range(21)] and not vectors.errors
    encoder = load_encoder(run)
    assert np.array_equal(features(encoder, Blobs(21)).values, vectors.values)
    assert isinstance(encoder.network, Tokens) and encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 16, 12)
    assert encoder.pooled(torch.zeros(2, 3, 16, 16)).shape == (2, 12)


def test_an_exported_own_encoder_is_loaded_by_another_process(run, tmp_path):
    out = export(run, to="jepa", out=tmp_path / "jepa")
    assert "Loading creates `own_parts.Tokens`, whose module must be importable." in (out / "README.md").read_text()


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_programs_and_graphs_of_an_own_encoder_do_without_its_class(run, to, tmp_path, exports_read_here):
    out = export(run, to=to, out=tmp_path / to)
    assert "own_parts" not in (out / "README.md").read_text().partition("## Origin")[0].partition("## Load")[2]


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_formats_of_other_libraries_say_that_they_have_no_such_network(run, to, tmp_path):
    with pytest.raises(UserError, match=r"own.*own_parts\.Tokens.*--to onnx, torch or jepa"):
        export(run, to=to, out=tmp_path / to)


def test_features_in_memory_are_those_of_the_file(run, shards, tmp_path):
    from jepa_pipeline import embed

    embed(run, shards / "test", tmp_path / "features.npy", workers=0)
    there = features(run, shards / "test")
    assert np.array_equal(there.values, np.load(tmp_path / "features.npy"))
    rows = read_json_lines(tmp_path / "features.jsonl")
    assert there.names == [row["name"] for row in rows] and there.labels.tolist() == [row["label"] for row in rows]


def test_a_data_set_of_another_length_is_not_that_of_the_run(run):
    with pytest.raises(UserError, match=r"60 samples, \w+ +59 samples, \w+"):
        pretrain(load_config(run), data=Blobs(59), encoder=partial(Tokens, width=12))


def test_other_arguments_are_not_those_of_the_run(run):
    with pytest.raises(UserError, match=r"method.encoder.init_args.width +12 +16"):
        pretrain(load_config(run), data=Blobs(), encoder=partial(Tokens, width=16))


def test_the_recipe_of_a_run_finds_its_class_but_no_object(run):
    config = load_config(run)
    assert config.method.encoder.class_path == "own_parts.Tokens" and config.method.encoder.init_args == {"width": 12}
    assert describe_limits(config) == [
        "data.train is an object of own_parts.Blobs, which the run's config.yaml cannot hold: to resume, call pretrain with it again"
    ]


def test_a_data_set_by_class_is_resumed_from_the_recipe_alone(tmp_path):
    config = {**BASE, "output": str(tmp_path), "optim": {**BASE["optim"], "total_samples": 16}}
    run = pretrain(config, data=partial(Blobs, samples=24), encoder=Pooled, method=partial(Distance, weight=2.0))
    longer = load_config(run, ["optim.total_samples=16"])
    assert longer.data.train[0].init_args == {"samples": 24} and longer.method.init_args == {"weight": 2.0}
    assert pretrain(longer) == run
    assert json.loads((run / "encoder/config.json").read_text())["encoder"]["tokens"] is False


class Counter(Callback):
    def __init__(self, stop_at=None):
        self.steps, self.stop_at = 0, stop_at

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps += 1
        trainer.should_stop = self.steps == self.stop_at

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_callbacks_keep_their_state_and_may_end_a_run_early(tmp_path, capsys):
    config = {**BASE, "output": str(tmp_path)}
    pretrain(config, data=Blobs(), encoder=Pooled, callbacks=[Counter(stop_at=3)])
    assert "a callback ended the run after step 3 of 4" in capsys.readouterr().out
    counter = Counter()
    pretrain(config, data=Blobs(), encoder=Pooled, callbacks=[counter])
    assert counter.steps == 4


class Odd(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 20

    def __getitem__(self, n):
        return self.item() if callable(self.item) else self.item


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (torch.zeros(3, 8, 8), "item 0 of Odd has values of type float32: give uint8"),
        ("photo.jpg", "item 0 of Odd is of type str: a data set of a run returns a PIL image"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"item 0 of Odd is of type ndarray of shape \[2, 3, 8, 8\]"),
        ({"img": 1}, "item 0 of Odd is a dict of the keys img"),
        ((1, 2, 3), "item 0 of Odd is a tuple of 3 values"),
        ((np.zeros((8, 8), np.uint8), "cat"), "item 0 of Odd has a label of type str: give the number of a class"),
        (np.zeros((8, 8, 5), np.uint8), "item 0 of Odd cannot be used .it has 5 channels of 8 bits"),
        (lambda: torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8), "is another image each time it is read"),
    ],
)
def test_items_that_are_no_images_are_refused(item, sentence):
    with pytest.raises(UserError, match=sentence):
        CustomSamples(Odd(item), "Odd").fingerprint()


def test_a_stream_is_no_map_style_data_set():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([1])

    assert "is no map-style data set" in refusal(CustomSamples, Stream(), "Stream")
    assert "has no samples" in refusal(CustomSamples, Blobs(0), "Blobs")


def refusal(call, *arguments):
    with pytest.raises(UserError) as refused:
        call(*arguments)
    return str(refused.value)


def test_errors_of_a_data_set_keep_their_traceback_and_name_the_item():
    def fail():
        raise KeyError("mine")

    with pytest.raises(KeyError) as failed:
        CustomSamples(Odd(fail), "Odd").read(0, 7)
    assert failed.value.__notes__ == ["raised by item 7 of Odd"]


def test_damaged_images_are_skipped_as_those_of_shards_are(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"no image")
    from jepa_pipeline.data.shards import SampleError

    with pytest.raises(SampleError, match="item 2 of Odd cannot be used"):
        CustomSamples(Odd(lambda: Image.open(tmp_path / "cut.jpg")), "Odd").read(0, 2)


class Narrow(Tokens):
    def forward(self, pixels, keep=None):
        return super().forward(pixels, keep)[..., :-1]


class AllTokens(Tokens):
    def forward(self, pixels, keep=None):
        return super().forward(pixels)


class NoKeep(Tokens):
    def forward(self, pixels):
        return super().forward(pixels)


class NoWidth(nn.Module):
    image_size = 16


class Oblong(Tokens):
    grid = (2, 8)


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (
            Narrow,
            r"returns \[2, 16, 11\] for 2 images with images of 16x16 pixels, but its grid 4x4 and width 12 mean \[2, 16, 12\]",
        ),
        (AllTokens, r"returns \[2, 16, 12\] for 2 images with 8 places to keep"),
        (NoKeep, "forward takes pixels alone, but a JEPA encodes some places without the others: add the argument keep"),
    ],
)
def test_an_encoder_whose_outputs_have_another_shape_is_refused(encoder, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        pretrain({**IJEPA, "output": str(tmp_path)}, data=Blobs(), encoder=encoder)
    assert not (tmp_path / "own").exists(), "and nothing is written"


def test_parts_without_their_interface_are_refused():
    assert "has no attribute width" in refuse(data=Blobs(), encoder=NoWidth)
    assert "the grid of test_own_parts.Oblong is (2, 8)" in refuse(data=Blobs(), encoder=Oblong)
    assert "returns pooled features, but a JEPA predicts the tokens of patches" in refuse(IJEPA, data=Blobs(), encoder=Pooled)
    assert "encoder is an object of Tokens, but a run creates it itself" in refuse(data=Blobs(), encoder=Tokens())
    assert "which is no subclass of torch.nn.modules.module.Module" in refuse(data=Blobs(), encoder=Blobs)
    assert "the argument width of Tokens is" in refuse(data=Blobs(), encoder=partial(Tokens, width=object()))
    assert "cannot be created" in refuse(data=Blobs(), encoder=partial(Tokens, widths=3))
    assert "arguments that have no name" in refuse(data=Blobs(), encoder=partial(Tokens, 12))
    assert "cannot be a level of an H-JEPA" in refuse({**BASE, "method": {"name": "hjepa", "levels": []}}, encoder=Tokens)


class NoForward(Method):
    pass


class TwoArguments(Method):
    def forward(self, batch, step):
        raise NotImplementedError


class NoEncoder(Method):
    def __init__(self, encoder):
        super().__init__()

    def forward(self, batch, step, seed):
        return 1.0


class BareLoss(Distance):
    def forward(self, batch, step, seed):
        return super().forward(batch, step, seed).losses["distance"]


class NarrowFeatures(Distance):
    def forward(self, batch, step, seed):
        output = super().forward(batch, step, seed)
        return output._replace(features=output.features[:, :3])


class VectorLoss(Distance):
    def forward(self, batch, step, seed):
        output = super().forward(batch, step, seed)
        return output._replace(losses={"distance": output.features})


def test_methods_without_the_interface_are_refused():
    assert "has no forward(batch, step, seed)" in refuse(data=Blobs(), encoder=Pooled, method=NoForward)
    assert "is called as forward(batch, step, seed)" in refuse(data=Blobs(), encoder=Pooled, method=TwoArguments)
    assert "no subclass of jepa_pipeline.methods.method.Method" in refuse(data=Blobs(), encoder=Pooled, method=Pooled)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (NoEncoder, "has no attribute encoder"),
        (BareLoss, "forward returns Tensor: return jepa_pipeline.Output"),
        (NarrowFeatures, r"returns features of \[8, 3\], but vectors of width 8"),
        (VectorLoss, r"returns losses\['distance'\], which is no tensor with one value"),
    ],
)
def test_what_a_method_returns_is_checked_in_the_first_step(method, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        pretrain({**BASE, "output": str(tmp_path)}, data=Blobs(), encoder=Pooled, method=method)


def test_callbacks_of_another_kind_are_refused():
    assert "callbacks has one of type function" in refusal(partial(pretrain, callbacks=[lambda: None]), BASE)


def several(tmp_path, **parts):
    config = {**BASE, "output": str(tmp_path), "trainer": {"accelerator": "cpu", "devices": 2}}
    return refusal(partial(pretrain, **{"data": Blobs(), "encoder": Pooled, **parts}), config)


def test_objects_that_other_processes_cannot_have_are_refused_for_several_devices(tmp_path, monkeypatch):
    class Local(Pooled):
        pass

    unpicklable = Blobs()
    unpicklable.transform = lambda image: image
    assert "which the 2 processes of this run cannot import: move it into a module" in several(tmp_path, encoder=Local)
    assert "own_parts.Blobs cannot be sent to the 2 processes of this run" in several(tmp_path, data=unpicklable)
    monkeypatch.setattr(Counter, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Counter", Counter, raising=False)
    assert "Counter needs a class or function of this script or notebook" in several(tmp_path, callbacks=[Counter()])
    assert not (tmp_path / "own").exists()


def test_the_processes_of_several_devices_are_given_the_objects(tmp_path):
    """Started here, not by torchrun: classes by their paths, objects and callbacks by pickle."""
    (tmp_path / "parts.py").write_text("from own_parts import *\nfrom test_own_parts import Counter, BASE\n")
    script = tmp_path / "train.py"
    script.write_text(
        "from own_parts import Blobs, Pooled\nfrom test_own_parts import BASE, Counter\nfrom jepa_pipeline import pretrain\n"
        "config = {**BASE, 'output': 'runs', 'optim': {**BASE['optim'], 'total_samples': 16},"
        " 'trainer': {'accelerator': 'cpu', 'devices': 2}}\n"
        "pretrain(config, data=Blobs(), encoder=Pooled, callbacks=[Counter(stop_at=1)])\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "cpu x 2" in ran.stdout and "a callback ended the run after step 1 of 2" in ran.stdout


def test_classes_of_a_notebook_are_named_where_another_process_needs_them(tmp_path, capsys, monkeypatch):
    class Mine(Pooled):
        pass

    run = pretrain({**BASE, "output": str(tmp_path)}, data=Blobs(), encoder=Mine)
    assert "method.encoder is test_own_parts" in capsys.readouterr().out
    assert isinstance(load_encoder(run).network, Mine), "which this process knows"
    from jepa_pipeline import custom

    monkeypatch.setattr(custom, "HERE", {})
    with pytest.raises(UserError, match="a class of a function, which only the process that defined it can create"):
        load_encoder(run)


def test_a_recipe_cannot_call_anything_but_a_part():
    """The class is checked before it is called."""
    recipe = {**BASE, "data": {"train": {"class_path": "os.system", "init_args": {"command": "true"}}}}
    recipe["method"] = {
        **BASE["method"],
        "encoder": {"class_path": "subprocess.Popen", "image_size": 16, "embed_dim": 8, "tokens": False},
    }
    from jepa_pipeline.data.custom import open_source
    from jepa_pipeline.methods.build import build_method

    config = load_config(recipe)
    assert "no subclass of torch.utils.data.dataset.Dataset" in refusal(open_source, config.data.train[0], config.data)
    assert "no subclass of torch.nn.modules.module.Module" in refusal(build_method, config.method)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("missing_module.Part", "cannot be imported"), ("own_parts.Missing", "cannot be imported")],
)
def test_classes_that_are_not_there_are_named_with_the_cure(path, sentence):
    from jepa_pipeline.custom import find

    said = refusal(find, "method", path, nn.Module)
    assert path in said and sentence in said and "PYTHONPATH" in said
