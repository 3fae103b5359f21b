"""Checkpoints are complete or not there, and the newest complete one is found."""

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import time

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
from jepa_pipeline.training.checkpoint import (
    CheckpointInfo,
    delete_leftovers,
    is_finished_at,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    step_of,
)
from jepa_pipeline.training.dcp_storage import read_index
from jepa_pipeline.training.hashed_files import HashedFile


def make_about(step):
    names = {"version": "0", "torch": "2", "device": "cpu", "data": "d", "config_hash": "c"}
    return CheckpointInfo(step=step, samples=8 * step, results={"optim.lr": 0.1}, **names)


def save(folder, step, state=None, own=None, **config):
    AsyncCheckpointWriter(folder, CheckpointConfig(**config)).save(state or {"step": step}, own or {}, make_about(step), wait=True)
    return folder / f"step-{step:08d}"


def saved_steps(folder):
    return [step_of(path) for path in list_checkpoints(folder)]


def newest(folder):
    return load_latest(folder, log=pytest.fail).state


def test_what_is_saved_is_what_is_loaded(tmp_path):
    state = {"step": 3, "module": {"weight": torch.randn(5), "_extra_state": {"sums": {"loss": torch.tensor(1.5)}, "counts": {}}}}
    save(tmp_path, 3, state)
    loaded = load_latest(tmp_path, log=pytest.fail)
    assert torch.equal(loaded.state["module"]["weight"], state["module"]["weight"])
    assert (loaded.info.step, loaded.info.samples, loaded.info.results) == (3, 24, {"optim.lr": 0.1})
    assert load_latest(tmp_path / "none", log=pytest.fail) is None


def test_every_kind_of_tensor_and_value_comes_back_bit_for_bit(tmp_path):
    bits = torch.tensor([0x7FC00001, 0x00000001, -0x80000000], dtype=torch.int32)  # a NaN of its own, a denormal, minus zero
    tensors = {
        "nan": bits.view(torch.float32),
        "none at all": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "count": torch.tensor(2**62),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(4, 5).bfloat16(),
        "turned": torch.randn(4, 5).T,
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "some": torch.randn(100)[10:20],
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    groups = [{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1], "foreach": None}]
    state = {"step": 3, "module": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": groups}}
    save(tmp_path, 3, {**state, "pair": (torch.ones(1), "text")})
    found = newest(tmp_path)
    assert found["module"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        there = found["module"][name]
        assert there.dtype == tensor.dtype and there.shape == tensor.shape, name
        assert there.contiguous().view(-1).view(torch.uint8).equal(tensor.detach().contiguous().view(-1).view(torch.uint8)), name
    assert found["optimizer"]["param_groups"] == groups and found["optimizer"]["state"][0]["step"] == 3.0
    assert found["pair"] == (torch.ones(1), "text") and found["step"] == 3


def test_a_tensor_is_read_into_the_like_of_another(tmp_path):
    checkpoint = save(tmp_path, 1, {"module": {"a.weight": torch.randn(3), "b": torch.randn(4)}})
    places = {"module.a.weight": torch.zeros(3, dtype=torch.float64), "module.b": torch.zeros(2)}
    read, whole = (load_checkpoint(checkpoint, like).state["module"] for like in (places.get, lambda name: None))
    assert read["a.weight"].equal(whole["a.weight"]) and read["a.weight"].dtype == torch.float32
    assert read["b"].shape == (4,), "one of another shape is read whole, and not into a part of it"


def test_two_values_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two values of the state are named module\.a\.b"):
        save(tmp_path, 1, {"module": {"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}})


def test_the_same_state_makes_the_same_files(tmp_path):
    """The hash that names the beginning of another run says what is in a checkpoint, and not where or when it was written."""
    state = {"step": 1, "weights": torch.ones(5)}
    hashes = {load_checkpoint(save(tmp_path / name, 1, state)).info.sha256 for name in ("a", "b")}
    assert len(hashes) == 1 and load_checkpoint(save(tmp_path / "c", 1, {**state, "step": 2})).info.sha256 not in hashes


def test_equal_states_make_equal_files_however_they_came_about(tmp_path):
    """A resumed run has its dicts in another order, its strings are other objects, and its tensors lie otherwise in memory."""
    weights = torch.randn(4, 6)
    straight = {"optimizer": {"state": {0: {"step": 3, "exp_avg": weights.T}}, "groups": [{"name": "adamw", "kind": "adamw"}]}}
    resumed = {
        "optimizer": {
            "groups": [{"kind": "".join(["ad", "amw"]), "name": "".join(["ada", "mw"])}],
            "state": {0: {"exp_avg": weights.T.contiguous(), "step": 3}},
        }
    }
    own = {"meters": {"b": torch.arange(10)[2:4], "a": "x"}}
    own_resumed = {"meters": {"a": "x", "b": torch.tensor([2, 3])}}
    first = save(tmp_path / "a", 1, straight, own)
    second = save(tmp_path / "b", 1, resumed, own_resumed)
    writer = AsyncCheckpointWriter(tmp_path / "c", CheckpointConfig())
    writer.save(straight, own, make_about(1))
    writer.close()
    for other in (second, tmp_path / "c/step-00000001"):
        assert {path.name: path.read_bytes() for path in first.iterdir()} == {
            path.name: path.read_bytes() for path in other.iterdir()
        }


def test_what_a_process_keeps_for_itself_is_its_own(tmp_path):
    own = {"meters": {"sums": torch.ones(2)}, "seen": ["a"]}
    checkpoint = save(tmp_path, 1, own=own)
    loaded = load_checkpoint(checkpoint)
    assert (
        loaded.rank_state["meters"]["sums"].equal(torch.ones(2)) and loaded.rank_state["seen"] == ["a"] and loaded.info.world == 1
    )


def test_the_pointer_names_the_newest_but_is_not_needed(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    assert json.loads((tmp_path / "last" / "about.json").read_text())["step"] == 2
    (tmp_path / "last").unlink()
    assert newest(tmp_path) == {"step": 2}


def test_old_checkpoints_are_deleted(tmp_path):
    for step in range(1, 9):
        save(tmp_path, step, keep_last=2)
    assert saved_steps(tmp_path) == [7, 8]
    for step in range(9, 12):
        save(tmp_path, step, keep_last=1)
    assert saved_steps(tmp_path) == [11]


def truncate(state):
    state.write_bytes(state.read_bytes()[:500])


def flip(state):
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)


def lose(state):
    state.unlink()


def lose_about(state):
    state.with_name("about.json").unlink()


def spoil_about(state):
    state.with_name("about.json").write_text('{"step": 2}')


FILES = ["state.pt", ".metadata", "__0_0.distcp", "rank-0000.pt"]
SPOILT = [(spoil, name) for spoil in (truncate, flip, lose) for name in FILES]


@pytest.mark.parametrize(("spoil", "name"), [*SPOILT, (lose_about, "state.pt"), (spoil_about, "state.pt")])
def test_a_damaged_one_is_passed_over_aloud(tmp_path, spoil, name):
    for step in (1, 2):
        save(tmp_path, step, {"step": step, "weights": torch.zeros(1000)})
    spoil(tmp_path / "step-00000002" / name)
    told = []
    assert load_latest(tmp_path, log=told.append).info.step == 1
    assert len(told) == 1 and "step-00000002 is damaged (" in told[0] and "set aside; resuming from the one before it" in told[0]


def test_a_damaged_one_never_counts_as_the_newest_again(tmp_path):
    """Else the next one that is saved, of an earlier step, would be dropped as the oldest."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep_last=3)
    for step in (20, 30):
        truncate(tmp_path / f"step-{step:08d}" / "state.pt")
    assert load_latest(tmp_path, log=lambda _: None).info.step == 10
    save(tmp_path, 12, keep_last=1)
    assert (
        saved_steps(tmp_path) == [12] and newest(tmp_path) == {"step": 12} and (tmp_path / "last").resolve().name == "step-00000012"
    )
    assert {path.name for path in tmp_path.glob("*.damaged")} == {"step-00000020.damaged", "step-00000030.damaged"}


def test_a_users_copy_is_left_alone(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000001.bak")
    for step in (2, 3, 4):
        save(tmp_path, step, keep_last=1)
    assert saved_steps(tmp_path) == [4] and (tmp_path / "step-00000001.bak").exists()


def test_when_all_are_damaged_nothing_is_started_anew_behind_the_users_back(tmp_path):
    for step in (1, 2):
        truncate(save(tmp_path / "run" / "checkpoints", step) / "state.pt")
    with pytest.raises(
        UserError, match=r"step-00000001 is damaged \(.*no other is left: copy one back, or delete .*run to start anew"
    ):
        load_latest(tmp_path / "run" / "checkpoints", log=lambda _: None)


def memory():
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")


def stale():
    raise OSError(116, "Stale file handle")


def mistake():
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (memory, RuntimeError, "can't allocate"),
        (stale, UserError, r"step-00000002 could not be read \(Stale file handle\): run the same command again"),
        (mistake, KeyError, "weights"),
    ],
)
def test_what_is_no_damage_is_raised_and_leaves_the_checkpoint(tmp_path, monkeypatch, fault, error, text):
    for step in (1, 2):
        save(tmp_path, step, {"step": step, "weights": torch.zeros(10)})
    for module, name in ((torch, "load"), (torch, "empty"), (hashlib, "file_digest")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda *_, **__: fault())
            with pytest.raises(error, match=text):
                load_latest(tmp_path, log=pytest.fail)
        assert saved_steps(tmp_path) == [1, 2] and not list(tmp_path.glob("*.damaged"))


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    save(tmp_path, 1)
    save(tmp_path, 2, {"step": Bomb()})
    told = []
    assert load_latest(tmp_path, log=told.append).info.step == 1
    assert "step-00000002 is damaged" in told[0]


def test_an_index_is_no_program(tmp_path):
    """Its hash may be right: whoever wrote the index may have written that too."""

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    def with_index(step, index):
        checkpoint = save(tmp_path, step, {"step": step, "weights": torch.ones(3)})
        (checkpoint / ".metadata").write_bytes(index if isinstance(index, bytes) else pickle.dumps(index))
        about = json.loads((checkpoint / "about.json").read_text())
        about["files"][".metadata"] = hashlib.sha256((checkpoint / ".metadata").read_bytes()).hexdigest()
        (checkpoint / "about.json").write_text(json.dumps(about))
        return checkpoint

    def index():
        return read_index(save(tmp_path / "other", 1, {"weights": torch.ones(3)}), {"__0_0.distcp"})

    outside, program, bomb = index(), index(), index()
    next(iter(outside.storage_data.values())).relative_path = "../../other"
    program.state_dict_metadata["more"] = BytesStorageMetadata()
    bomb.planner_data = Bomb()
    missing = index()
    missing.storage_data.clear()
    bad = {
        "holds _pytest.outcomes": bomb,
        "which is not part of an index": program,
        "names other things than tensors": outside,
        "does not fit the files": missing,
        "is not an index": [1],
        "cannot be read": b"\x80\x05\x95",
        "holds os.system": b"cos\nsystem\n(S'false'\ntR.",
        "holds torch.hub.load": b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93.",
    }
    for reason, content in bad.items():
        with pytest.raises(ValueError, match=reason):
            load_checkpoint(with_index(2, content))
    save(tmp_path, 1)
    told = []
    assert load_latest(tmp_path, log=told.append).info.step == 1 and "step-00000002 is damaged" in told[0]


def test_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch):
    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(UserError, match=r"No space left on device\); there is no earlier one"):
            save(tmp_path, 1)
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(UserError, match=r"No space left on device\); the ones before it are complete"):
            save(tmp_path, 2)
    assert newest(tmp_path) == {"step": 1} and saved_steps(tmp_path) == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000001"}


def test_what_torch_makes_of_a_full_disk_is_still_a_full_disk(tmp_path):
    """Its writer turns the error of the file below it into one of its own."""
    import resource

    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"File too large\); the ones before it are complete"):
            save(tmp_path, 2, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000001"}


PLACES = ["mkdir 1", "save 1", "save 2", "save 3", *(f"fsync {n}" for n in range(1, 8)), "rename 1", "rename 2", "rename 3"]


@pytest.mark.parametrize("place", [*PLACES, "symlink_to 1", "rmtree 1", "rmtree 2"])
def test_killed_anywhere_in_a_save_the_folder_stays_readable(tmp_path, monkeypatch, place):
    """A kill is an exception nobody handles; what it leaves is removed at the next start and never taken for a checkpoint."""
    from pathlib import Path

    class Killed(BaseException):
        pass

    victim, left = place.split()[0], int(place.split()[1])

    def die(*arguments, **options):
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return original(*arguments, **options)

    save(tmp_path, 1, {"weights": torch.ones(3)}, keep_last=1)
    owner = {"mkdir": Path, "rename": Path, "symlink_to": Path, "save": torch, "fsync": os, "rmtree": shutil}[victim]
    original = getattr(owner, victim)
    with monkeypatch.context() as patch:
        patch.setattr(owner, victim, die)
        with pytest.raises(Killed):
            save(tmp_path, 2, {"weights": torch.ones(3)}, keep_last=1)
    assert load_latest(tmp_path, log=pytest.fail).info.step in (1, 2)
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"last", "step-00000001", "step-00000002"}
    assert (tmp_path / "last").resolve().is_dir()
    save(tmp_path, 2, keep_last=1)
    assert saved_steps(tmp_path) == [2]


def test_an_old_one_that_cannot_be_deleted_is_left_and_said_once(tmp_path, monkeypatch):
    """As on NFS while somebody reads it."""
    original, told = shutil.rmtree, []

    def busy(path, ignore_errors=False):
        if path.name.startswith("step-00000001") and not ignore_errors:
            raise OSError(39, "Directory not empty", str(path))
        if not path.name.startswith("step-00000001"):
            original(path, ignore_errors=ignore_errors)

    writer = AsyncCheckpointWriter(tmp_path, CheckpointConfig(keep_last=1), told.append)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        for step in (1, 2, 3):
            writer.save({"weights": torch.ones(3)}, {}, make_about(step), wait=True)
        delete_leftovers(tmp_path)
    assert (
        saved_steps(tmp_path) == [3]
        and len(told) == 1
        and "an old checkpoint could not be deleted ([Errno 39] Directory" in told[0]
    )
    assert (tmp_path / "step-00000001.dropped").is_dir() and load_checkpoint(tmp_path / "last").info.step == 3
    writer.save({"weights": torch.ones(3)}, {}, make_about(4), wait=True)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000004"}, "it is tried again with each new one"


@pytest.mark.parametrize("error", [UserError("encoder could not be written"), RuntimeError("bad"), OSError(28, "No space left")])
def test_whatever_goes_wrong_no_half_checkpoint_stays(tmp_path, error):
    def fail():
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else type(error), match=error.args[-1]):
        AsyncCheckpointWriter(tmp_path, CheckpointConfig()).save({"weights": torch.ones(3)}, {}, make_about(1), fail, wait=True)
    assert not list(tmp_path.iterdir())


def test_a_run_is_known_to_be_at_its_end_without_reading_it(tmp_path, monkeypatch):
    assert not is_finished_at(tmp_path / "none", 2)
    for step in (1, 2):
        save(tmp_path, step)
    monkeypatch.setattr(torch, "load", pytest.fail)
    monkeypatch.setattr(hashlib, "file_digest", pytest.fail)
    assert is_finished_at(tmp_path, 2) and not is_finished_at(tmp_path, 1) and not is_finished_at(tmp_path, 3)
    (tmp_path / "last" / "state.pt").unlink()
    assert not is_finished_at(tmp_path, 2)


def test_what_is_written_in_the_background_is_what_was_there_when_it_was_asked_for(tmp_path, monkeypatch):
    original, gate = HashedFile.write, threading.Event()
    monkeypatch.setattr(HashedFile, "write", lambda *them: (gate.wait(), original(*them))[1])
    writer, weights, meters, done = (
        AsyncCheckpointWriter(tmp_path, CheckpointConfig()),
        torch.zeros(1000),
        {"sums": torch.zeros(2)},
        [],
    )

    def save_and_overwrite(step):
        weights.fill_(step)
        meters["sums"].fill_(step)
        groups = [{"lr": step}]
        writer.save(
            {"weights": weights, "groups": groups},
            meters,
            make_about(step),
            before_commit=lambda: done.append(saved_steps(tmp_path)),
        )
        weights.fill_(-1)
        meters["sums"].fill_(-1)
        groups[0]["lr"] = -1

    save_and_overwrite(1)  # returns although nothing can be written
    threading.Timer(0.05, gate.set).start()
    save_and_overwrite(2)  # waits for the first
    while saved_steps(tmp_path) != [1, 2]:
        time.sleep(0.01)
    gate.clear()
    save_and_overwrite(3)
    assert saved_steps(tmp_path) == [1, 2], "the third is still being written"
    gate.set()
    writer.close()
    for step, loaded in ((step, load_checkpoint(tmp_path / f"step-{step:08d}")) for step in (2, 3)):
        assert (
            loaded.state["weights"].eq(step).all()
            and loaded.rank_state["sums"].eq(step).all()
            and loaded.state["groups"][0]["lr"] == step
        )
    assert done == [[], [1], [1, 2]], "before_commit runs before the checkpoint has its name"
    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}


def test_the_copy_in_memory_is_made_once(tmp_path):
    writer, state = AsyncCheckpointWriter(tmp_path, CheckpointConfig()), {"weights": torch.ones(1000)}
    writer.save(state, {}, make_about(1))
    first = writer.buffers["weights"].data_ptr()
    writer.save(state, {}, make_about(2))
    assert writer.buffers["weights"].data_ptr() == first
    writer.save({"weights": torch.ones(7)}, {}, make_about(3), wait=True)
    writer.save({"weights": torch.ones(7)}, {}, make_about(4))
    writer.close()
    assert newest(tmp_path)["weights"].shape == (7,)
    plain = AsyncCheckpointWriter(tmp_path, CheckpointConfig(background=False))
    plain.save(state, {}, make_about(5))
    assert saved_steps(tmp_path) == [4, 5] and not plain.buffers, "whoever waits needs no copy"


def test_a_full_disk_in_the_background_is_heard_of(tmp_path, monkeypatch):
    save(tmp_path, 1)
    writer = AsyncCheckpointWriter(tmp_path, CheckpointConfig())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(HashedFile, "write", full)
        writer.save({"weights": torch.ones(3)}, {}, make_about(2))
        writer.thread.join()
        assert writer.failed
        with pytest.raises(UserError, match=r"step-00000002 could not be written \(No space left on device\); the ones before it"):
            writer.wait()
    writer.wait()
    writer.save({"weights": torch.ones(3)}, {}, make_about(3))
    writer.close()
    assert saved_steps(tmp_path) == [1, 3] and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("writes", [1, 3, 8, 13])
def test_a_process_that_dies_while_it_writes_in_the_background_leaves_the_one_before(tmp_path, monkeypatch, writes):
    save(tmp_path, 1)
    original, left = HashedFile.write, [writes]

    def die(*them):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        return original(*them)

    def process():
        HashedFile.write = die
        writer = AsyncCheckpointWriter(tmp_path, CheckpointConfig(keep_last=1))
        writer.save({"step": 2, "weights": torch.ones(10_000)}, {}, make_about(2))
        writer.close()

    child = multiprocessing.get_context("fork").Process(target=process)
    child.start()
    child.join(30)
    assert child.exitcode == 9
    assert newest(tmp_path) == {"step": 1} and list(tmp_path.glob("*.partial"))
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "step-00000001"}
