"""Checkpoints of what lies on a GPU."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from jepa_pipeline.config.trainer import CheckpointConfig
from jepa_pipeline.training.async_save import AsyncCheckpointWriter
from jepa_pipeline.training.checkpoint import CheckpointInfo, load_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def mesh(tmp_path):
    """All devices of the only process."""
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cuda", (1,))
    dist.destroy_process_group()


def test_what_lies_on_the_gpu_is_copied_at_once_and_read_back_there(tmp_path, mesh):
    plain, dealt = torch.randn(1000, 1000, device="cuda"), distribute_tensor(torch.randn(7, 3, device="cuda"), mesh, [Shard(0)])
    expected = plain.cpu(), dealt.full_tensor().cpu()
    saver = AsyncCheckpointWriter(tmp_path, CheckpointConfig())
    about = CheckpointInfo(step=1, samples=8, version="0", torch="2", device="cuda", data="d", config_hash="c", results={})
    saver.save({"plain": plain, "dealt": dealt}, {"own": plain[0]}, about)
    assert all(buffer.is_pinned() for buffer in saver.buffers.values())
    plain.zero_()
    dealt.zero_()
    saver.close()
    loaded = load_checkpoint(tmp_path / "step-00000001", {"dealt": dealt}.get)
    assert isinstance(loaded.state["dealt"], DTensor) and loaded.state["dealt"].is_cuda
    assert loaded.state["dealt"].full_tensor().cpu().equal(expected[1])
    assert loaded.state["plain"].equal(expected[0]) and loaded.rank_state["own"].equal(expected[0][0])
