"""The first messages of the processes of a run, through the store where they meet, before there is a process group."""

import socket
import time
from datetime import timedelta
from secrets import token_hex

from torch.distributed import Store

from jepa_pipeline.config.errors import UserError

RENDEZVOUS_S = 600.0
"""Seconds that processes wait for each other at the start."""


def agree_on_start(store: Store, rank: int, size: int) -> str:
    """Return a name that only this start of the run uses, the same in all processes: a prefix for all other keys of the store.

    torchrun's store keeps what earlier starts wrote, among it the addresses of processes that are gone, and its counts of restarts
    may differ between machines. So rank 0 makes up a name, and answers each process under what that one has made up.

    Raises:
        TimeoutError: not all processes came.
    """
    mine, deadline = token_hex(8), time.monotonic() + RENDEZVOUS_S
    store.set(f"asks/{rank}", mine)
    if rank > 0:
        store.wait([f"answer/{mine}"], timedelta(seconds=RENDEZVOUS_S))
        name = store.get(f"answer/{mine}").decode()
        store.set(f"heard/{name}/{rank}", "")
        return name
    missing = range(1, size)
    while missing := [other for other in missing if not store.check([f"heard/{mine}/{other}"])]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank {', '.join(map(str, missing))} did not come within {RENDEZVOUS_S:g} s")
        for other in missing:
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", mine)
        time.sleep(0.02)
    return mine


def check_devices(store: Store, rank: int, size: int, device: str) -> list[str]:
    """Check that all processes compute on the same kind of device; otherwise init_process_group would wait until its timeout.

    Returns:
        The machine of each process.

    Raises:
        UserError: some have no GPU.
    """
    keys = [f"device{other}" for other in range(size)]
    store.set(keys[rank], f"{device} on {socket.gethostname()}")
    store.wait(keys, timedelta(seconds=RENDEZVOUS_S))
    devices = [text.decode() for text in store.multi_get(keys)]
    without = [f"rank {other} on {text.removeprefix('cpu on ')}" for other, text in enumerate(devices) if text.startswith("cpu")]
    if 0 < len(without) < size:
        raise UserError(f"torch finds no CUDA device for {', '.join(without)}: fix or exclude the machine")
    return [text.partition(" on ")[2] for text in devices]
