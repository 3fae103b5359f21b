"""Work of one process that takes longer than the others may wait."""

import time
from datetime import timedelta

import pytest

from jepa_pipeline import distributed
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.training import collectives
from jepa_pipeline.training.collectives import raise_on_all_ranks, run_while_others_wait

WAIT_S = 3


@pytest.mark.parametrize("fails", [False, True])
def test_hashing_may_take_longer_than_a_collective_waits(on_ranks, monkeypatch, fails):
    """As long hashing of one process of a machine, for which the other ones wait."""
    monkeypatch.setattr(collectives, "BUSY_S", WAIT_S / 10)

    def compare():
        time.sleep(1.5 * WAIT_S)
        if fails:
            raise UserError("another shard")

    def on_rank(rank):
        monkeypatch.setattr(distributed.ProcessGroups, "timeout", timedelta(seconds=WAIT_S))
        monkeypatch.setattr(distributed.ProcessGroups, "control", distributed.new_gloo_group())
        try:
            with raise_on_all_ranks():
                run_while_others_wait(compare if rank == 0 else None)
        except UserError as error:
            return str(error)
        return "equal"

    assert on_ranks(on_rank) == (["rank 0: another shard"] * 2 if fails else ["equal"] * 2)
