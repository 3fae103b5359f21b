"""Several processes begin with the networks of another run, whose folder stays as it is; and a disk refuses them."""

import pytest
import torch

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.training import begun_from as beginning
from jepa_pipeline.training.begun_from import read_initial_checkpoint
from jepa_pipeline.training.checkpoint import list_checkpoints, load_latest

STILL = ["optim={batch_size_global: 8, total_samples: 8, warmup_samples: 0, lr: 1e-20, start_lr: 0, final_lr: 0, weight_decay: 0}"]
STILL += ["method.ema=[1.0, 1.0]"]  # one step changes nothing: Adam makes the last bits of a vanishing gradient visible
SHORT = "optim={batch_size_global: 8, total_samples: 16, warmup_samples: 0}"


@pytest.fixture
def on_processes(run_ranks):
    def run(config, world, before=lambda rank: None):
        def work(rank):
            before(rank)
            pretrain(config)

        return run_ranks(work, world)

    return run


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_other_networks_are_refused_by_name(tiny, on_processes, capfd, world, strategy):
    """Also where this run has fewer parameters than the optimizer there has moments."""
    deep = pretrain(tiny(SHORT, "name=deep", "method.encoder.depth=3"))
    kept = list_checkpoints(deep / "checkpoints")
    capfd.readouterr()
    shallow = tiny(
        SHORT, "name=shallow", "method.encoder.depth=1", f"init_from={deep}", *([f"trainer.strategy={strategy}"] * (world > 1))
    )
    assert on_processes(shallow, world) == [2] * world
    said = capfd.readouterr().err
    assert said.count("where method.encoder.depth is 3, but here it is 1: make it the same") == 1
    assert "delete" not in said and "Traceback" not in said and list_checkpoints(deep / "checkpoints") == kept


def test_what_it_began_with_is_written_by_one(tiny, on_processes):
    first = pretrain(tiny(SHORT, "name=first"))
    second = tiny(SHORT, "name=second", f"init_from={first}")
    original = beginning.atomic_write

    def only_by_first(rank):
        beginning.atomic_write = original if rank == 0 else pytest.fail

    assert on_processes(second, 4, only_by_first) == [0] * 4
    assert (
        read_initial_checkpoint(second.folder).step == 2 and load_latest(second.folder / "checkpoints", pytest.fail).info.step == 2
    )


@pytest.fixture(scope="module")
def other_patches(tiny_below, tmp_path_factory):
    """A run on images and patches twice as large as those of the tests."""
    larger = ["method.encoder.image_size=32", "method.encoder.patch_size=8"]
    return pretrain(tiny_below(tmp_path_factory.mktemp("larger"), SHORT, *larger, "name=larger"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("source", [".", "encoder"])
def test_several_processes_begin_with_fitted_weights_as_one_does(tiny, on_processes, other_patches, source, strategy):
    """Also where each of them holds a shard of what is resampled, and the moments of the others."""
    given = [*STILL, f"init_from={other_patches / source}"]
    one = load_latest(pretrain(tiny(*given, "name=one")) / "checkpoints", pytest.fail).state
    several = tiny(*given, "name=several", f"trainer.strategy={strategy}")
    assert on_processes(several, 2) == [0, 0]
    state = load_latest(several.folder / "checkpoints", pytest.fail).state
    assert state["module"].keys() == one["module"].keys()
    assert all(torch.allclose(state["module"][name], one["module"][name], atol=1e-7) for name in one["module"])
    for name in ("exp_avg", "exp_avg_sq"):  # after a step of gradients that differ by rounding
        expected, found = ({key: value[name] for key, value in each["optimizer"]["state"].items()} for each in (one, state))
        largest = max(float(value.abs().max()) for value in expected.values())
        assert largest > 0 and found.keys() == expected.keys()
        assert all(torch.allclose(found[key], expected[key], rtol=0, atol=1e-5 * largest) for key in expected)


def test_no_room_for_the_encoder_is_said_in_a_sentence(tiny, on_processes, capfd):
    config = tiny(SHORT, "name=full")
    config.folder.mkdir(parents=True)
    (config.folder / "encoder").write_text("in the way")
    assert on_processes(config, 2) == [2, 2]
    said = capfd.readouterr().err
    assert said.count("encoder could not be written") == 1 and "runs/full/encoder" in said and "Traceback" not in said
    assert not list((config.folder / "checkpoints").glob("step-*"))
