"""Two processes on one machine, joined by gloo."""

import multiprocessing
import traceback

import pytest
import torch
import torch.distributed as dist


@pytest.fixture
def on_ranks(tmp_path):
    """A function that runs another one on so many ranks, as work(rank), and returns what each gave back."""

    def run(work, world=2):
        def process(rank):
            try:
                dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=rank, world_size=world)
                torch.save(work(rank), tmp_path / f"rank{rank}.pt")
                dist.destroy_process_group()
            except BaseException:
                (tmp_path / f"rank{rank}.txt").write_text(traceback.format_exc())
                raise

        (tmp_path / "meeting").unlink(missing_ok=True)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=process, args=(rank,)) for rank in range(world)]
        for one in processes:
            one.start()
        for one in processes:
            one.join(120)
            one.kill()
        complaints = "".join(path.read_text() for path in sorted(tmp_path.glob("rank*.txt")))
        assert not complaints and all(one.exitcode == 0 for one in processes), complaints or "a rank hung"
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world)]

    return run
