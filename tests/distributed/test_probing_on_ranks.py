"""Several processes keep one snapshot, of the whole encoder."""

import torch

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.training import online_eval as probing


def test_two_processes_keep_one_snapshot_and_ask_once(tiny, run_ranks):
    config = tiny("probing={every_steps: 3, submit: false}", "trainer.strategy=fsdp2", "trainer.devices=2")

    def work(rank):
        def start(command, stdout, **_):
            stdout.write(f"{rank}: {command[-1]}\n".encode())
            return type("Done", (), {"returncode": 0})

        probing.Popen = start
        pretrain(config)

    assert run_ranks(work, 2) == [0, 0]
    snapshots = config.folder / "snapshots"
    assert sorted(path.name for path in snapshots.iterdir()) == [f"step-0000000{n}{end}" for n in (3, 6) for end in ("", ".log")]
    assert (snapshots / "step-00000003.log").read_text() == f"0: {snapshots / 'step-00000003'}\n"
    assert read_card(snapshots / "step-00000003").samples == 24
    final, kept = load_encoder(config.folder), load_encoder(snapshots / "step-00000006")
    assert all(torch.equal(mine, other) for mine, other in zip(kept.parameters(), final.parameters(), strict=True))
