"""Checkpoints of several processes: each writes its part, and as many as like read it, bit for bit."""

import os
import resource

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.distributed import all_gather_object, barrier, full_tensor
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
from jepa_pipeline.training.checkpoint import CheckpointInfo, is_finished_at, load_checkpoint, load_latest
from jepa_pipeline.training.collectives import RemoteError, run_on_rank_zero
from jepa_pipeline.training.hashed_files import HashedFile
from jepa_pipeline.training.pytree import map_with_names, split_tensors


def make_about(step=1):
    names = {"version": "0", "torch": "2", "device": "cpu", "data": "d", "config_hash": "c"}
    return CheckpointInfo(step=step, samples=8 * step, results={}, **names)


def save(folder, state, step=1, own=None, **config):
    AsyncCheckpointWriter(folder, CheckpointConfig(**config)).save(state, own or {}, make_about(step), wait=True)
    return folder / f"step-{step:08d}"


def trained(*mesh):
    """A network and its AdamW after two steps, dealt out over a mesh: dimensions of 5, 3 and 1 are so unevenly."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 1))
    for layer in (*network, network):
        fully_shard(layer, mesh=init_device_mesh("cpu", mesh, mesh_dim_names=("replicate", "shard")[-len(mesh) :]))
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(2):
        network(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"step": 2, "module": network.state_dict(), "optimizer": optimizer.state_dict()}


def full(state):
    """The same state with all of every tensor on each process."""
    return map_with_names(state, lambda _, leaf: full_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf)


def same(first, second):
    """Whether two states of whole tensors are the same, bit for bit."""
    (values, tensors), (others, other_tensors) = split_tensors(first), split_tensors(second)
    assert values == others and tensors.keys() == other_tensors.keys()
    assert all(tensor.dtype == other_tensors[name].dtype for name, tensor in tensors.items())
    assert all(tensor.equal(other_tensors[name]) for name, tensor in tensors.items())
    return True


@pytest.mark.parametrize(("mesh", "world"), [((2,), 2), ((2, 2), 4)], ids=["fsdp2", "hsdp"])
def test_what_is_dealt_out_is_read_by_any_number_of_processes(tmp_path, on_ranks, mesh, world):
    def on_rank(_):
        state = trained(*mesh)
        assert isinstance(state["module"]["0.weight"], DTensor)
        assert isinstance(state["optimizer"]["state"][0]["exp_avg"], DTensor)
        save(tmp_path / "saved", state)
        return full(state)

    expected, *others = on_ranks(on_rank, world)
    assert all(same(expected, other) for other in others)
    checkpoint = tmp_path / "saved" / "step-00000001"
    loaded = load_checkpoint(checkpoint)
    assert same(loaded.state, expected) and loaded.info.world == world and loaded.rank_state is None

    def read(_):
        places = {name: place(name, tensor) for name, tensor in split_tensors(expected)[1].items()}
        found = load_checkpoint(checkpoint, places.get).state
        for name, tensor in split_tensors(found)[1].items():
            wanted = places[name]
            assert isinstance(tensor, DTensor) == isinstance(wanted, DTensor), name
            if isinstance(tensor, DTensor):
                assert tensor.placements == wanted.placements and tensor.to_local().shape == wanted.to_local().shape
        return full(found)

    def place(name, tensor):
        """Along the first or last dimension, over all processes or in two groups, or not at all."""
        if not tensor.dim():
            return None
        ranks = torch.distributed.get_world_size()
        if name.endswith("exp_avg_sq"):
            return distribute_tensor(torch.zeros_like(tensor), init_device_mesh("cpu", (2, ranks // 2)), [Replicate(), Shard(0)])
        dim = tensor.dim() - 1 if name.endswith("exp_avg") else 0
        return distribute_tensor(torch.zeros_like(tensor), init_device_mesh("cpu", (ranks,)), [Shard(dim)])

    for ranks in (2, 4):
        assert all(same(found, expected) for found in on_ranks(read, ranks))


def test_what_all_hold_alike_is_written_once_and_by_turns(tmp_path, on_ranks):
    """As under DDP; each keeps in memory what it writes, and no more."""
    state = {"step": 1, "module": {f"{n}": torch.full((10_000,), float(n)) for n in range(8)}, "count": torch.tensor(3)}

    def on_rank(rank):
        writer = AsyncCheckpointWriter(tmp_path / "saved", CheckpointConfig())
        writer.save(state, {"rank": torch.tensor(rank)}, make_about())
        held = sum(tensor.nbytes for tensor in writer.buffers.values())
        writer.close()
        loaded = load_checkpoint(tmp_path / "saved/step-00000001")
        assert same(loaded.state, state)
        return [held, int(loaded.rank_state["rank"])]

    assert [found for _, found in on_ranks(on_rank)] == [0, 1]
    sizes = [(tmp_path / f"saved/step-00000001/__{rank}_0.distcp").stat().st_size for rank in range(2)]
    assert all(160_000 <= size < 180_000 for size in sizes)
    assert same(load_checkpoint(tmp_path / "saved/step-00000001").state, state)
    held = on_ranks(on_rank)
    assert all(160_000 <= count <= 160_008 for count, _ in held)
    alone = load_checkpoint(tmp_path / "saved/step-00000001")
    assert alone.rank_state is None and alone.info.world == 2, "what two kept for themselves is of no use to one"


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", "rank-0001.pt", ".metadata", "state.pt", "about.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "lost"])
def test_a_damaged_file_of_any_is_found_by_all(tmp_path, on_ranks, name, how):
    folder = tmp_path / "saved"

    def on_rank(rank):
        for step in (1, 2):
            save(folder, {"step": step, "weights": torch.randn(1000), "more": torch.randn(1000)}, step)
        path = folder / "step-00000002" / name
        if rank == 0 and how == "lost":
            path.unlink()
        elif rank == 0:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        barrier()
        told = []
        loaded = load_latest(folder, told.append)
        assert len(set(all_gather_object(tuple(told)))) == 1 and "step-00000002 is damaged" in told[0]
        assert (folder / "step-00000002.damaged").is_dir()
        return loaded.state["step"]

    assert on_ranks(on_rank) == [1, 1]


def test_when_all_are_damaged_all_say_so(tmp_path, on_ranks):
    folder = tmp_path / "saved"

    def on_rank(rank):
        checkpoint = save(folder, {"step": 1, "weights": torch.randn(1000), "more": torch.randn(1000)})
        if rank == 0:
            (checkpoint / "__1_0.distcp").write_bytes(b"")
        barrier()
        with pytest.raises(UserError, match=r"step-00000001 is damaged .*no other is left") as raised:
            load_latest(folder, lambda _: None)
        assert len(set(all_gather_object(str(raised.value)))) == 1
        assert load_latest(tmp_path / "none", pytest.fail) is None

    on_ranks(on_rank)


@pytest.mark.parametrize("full_rank", [0, 1])
@pytest.mark.parametrize("wait", [True, False])
def test_a_disk_that_is_full_for_one_stops_all(tmp_path, on_ranks, full_rank, wait):
    folder = tmp_path / "saved"

    def on_rank(rank):
        writer, state = (
            AsyncCheckpointWriter(folder, CheckpointConfig()),
            {"step": 1, "weights": torch.zeros(50_000), "more": torch.zeros(50_000)},
        )
        writer.save(state, {}, make_about(1), wait=True)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank == full_rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(
            UserError, match=r"step-00000002 could not be written \(File too large\); the ones before it are complete"
        ):
            writer.save(state, {}, make_about(2), wait=wait)
            writer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        barrier()
        assert {path.name for path in folder.iterdir()} == {"last", "step-00000001"}
        barrier()
        writer.save(state, {}, make_about(3), wait=True)
        assert load_latest(folder, pytest.fail).info.step == 3

    on_ranks(on_rank)


def test_training_goes_on_while_all_write(tmp_path, on_ranks):
    """Its collectives and those of the writers do not meet, and what is written is what was there before."""

    def on_rank(rank):
        original, seen = HashedFile.write, []
        HashedFile.write = lambda *them: (seen.append(rank), original(*them))[1]
        writer, state = AsyncCheckpointWriter(tmp_path / "saved", CheckpointConfig(keep_last=9)), trained(2)
        expected = []
        for step in range(1, 5):
            expected.append(map_with_names(full(state), lambda _, leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf))
            writer.save(state, {"step": torch.tensor(step)}, make_about(step))
            for tensor in split_tensors(state)[1].values():
                tensor.add_(1)
            for _ in range(20):
                assert all_gather_object(step) == [step, step]
        writer.close()
        for step, state in enumerate(expected, 1):
            loaded = load_checkpoint(tmp_path / f"saved/step-{step:08d}")
            assert same(loaded.state, state) and loaded.rank_state["step"] == step

    on_ranks(on_rank)


@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_dies_while_all_write_leaves_the_one_before(tmp_path, on_ranks, killed):
    folder, state = tmp_path / "saved", {"step": 1, "weights": torch.zeros(50_000), "more": torch.zeros(50_000)}

    def on_rank(rank):
        writer = AsyncCheckpointWriter(folder, CheckpointConfig(keep_last=1))
        writer.save(state, {}, make_about(1), wait=True)
        original = HashedFile.write
        HashedFile.write = lambda *them: os._exit(0) if rank == killed else original(*them)
        writer.save(state, {}, make_about(2))
        with pytest.raises(RuntimeError):
            writer.close()
        torch.save(None, tmp_path / f"rank{killed}.pt")
        os._exit(0)

    with pytest.raises(FileNotFoundError):  # neither gives anything back
        on_ranks(on_rank)
    assert [path.name for path in folder.glob("step-*[0-9]")] == ["step-00000001"]
    assert same(load_latest(folder, pytest.fail).state, state)


def stale(*_, **__):
    raise OSError(116, "Stale file handle")


def gone(*_, **__):
    raise FileNotFoundError(2, "No such file or directory", __file__)


def no_memory(*_, **__):
    raise MemoryError


def mistake(*_, **__):
    raise TypeError("a mistake")


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (stale, UserError, r"step-00000002 could not be read on rank 1, host \S+ \(Stale file handle\): run the same"),
        (gone, UserError, r"step-00000002 could not be read on rank 1, host \S+ \(No such file or directory\)"),
        (no_memory, MemoryError, ""),
        (mistake, RemoteError, "TypeError: a mistake"),
    ],
)
def test_what_one_cannot_read_is_no_damage(tmp_path, on_ranks, monkeypatch, fault, kind, text):
    folder = tmp_path / "saved"

    def on_rank(rank):
        for step in (1, 2):
            save(folder, {"step": step, "weights": torch.randn(10), "more": torch.randn(10)}, step)
        if rank == 1:
            monkeypatch.setattr(torch, "load", fault)
        with pytest.raises(kind, match=text):
            load_latest(folder, pytest.fail)
        assert {path.name for path in folder.iterdir()} == {"last", "step-00000001", "step-00000002"}

    on_ranks(on_rank)


@pytest.mark.parametrize("wait", [True, False])
def test_a_mistake_of_the_user_stays_one_on_all(tmp_path, on_ranks, wait):
    """As when there is no room for the encoder, which the first writes."""
    folder = tmp_path / "saved"

    def refuse():
        raise UserError("encoder could not be written (No space left): make room there")

    def on_rank(_):
        writer = AsyncCheckpointWriter(folder, CheckpointConfig())
        with pytest.raises(UserError, match=r"^encoder could not be written \(No space left\): make room there") as raised:
            writer.save({"weights": torch.zeros(10)}, {}, make_about(), refuse, wait)
            writer.close()
        assert str(raised.value).endswith("make room there")
        barrier()
        assert not list(folder.iterdir())

    on_ranks(on_rank)


def test_what_the_first_finds_all_know(tmp_path, on_ranks):
    def on_rank(rank):
        assert run_on_rank_zero(lambda: rank) == 0
        save(tmp_path / "saved", {"weights": torch.randn(10)}, 3)
        assert is_finished_at(tmp_path / "saved", 3) and not is_finished_at(tmp_path / "saved", 4)
        with pytest.raises(OSError, match="Stale"):
            run_on_rank_zero(stale)

    on_ranks(on_rank)
