"""Processes on one machine, joined by gloo."""

import multiprocessing
import os
import socket
import sys
import traceback

import pytest
import torch
import torch.distributed as dist

from jepa_pipeline.config.errors import UserError


def exit_codes(process, world):
    """Of so many forks that each run process(rank); one that takes more than ten minutes is killed."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank,)) for rank in range(world)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(600)
        one.kill()
    return [one.exitcode for one in processes]


@pytest.fixture
def run_ranks():
    """A function that runs another one, as work(rank), in so many processes that torchrun might have started; their exit codes."""

    def run(work, world):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]

        def process(rank):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
            code = 1
            try:
                work(rank)
                code = 0
            except UserError as error:
                code = error.exit_code
                print(error, file=sys.stderr)
            except SystemExit as exit:
                code = exit.code
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)

        return exit_codes(process, world)

    return run


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
        codes = exit_codes(process, world)
        complaints = "".join(path.read_text() for path in sorted(tmp_path.glob("rank*.txt")))
        assert not complaints and codes == [0] * world, complaints or "a rank hung"
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world)]

    return run
