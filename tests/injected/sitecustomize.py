"""Makes the real trainer run out of memory or of disk, in a chosen form, at a chosen step. Python
imports it where PYTHONPATH names its folder.

HGT_INJECT="<form> <step> <times>"; HGT_INJECT_COUNT=<file that counts the times over all
processes>. Steps count from 1 in each process; step 0 is before any of them.
"""

import importlib.abc
import importlib.machinery
import os
import shutil
import signal
import sys
from pathlib import Path

MPS = (
    "MPS backend out of memory (MPS allocated: 5.00 GiB, other allocations: 1.00 GiB, max allowed:"
    " 6.00 GiB). Tried to allocate 1.00 GiB on private pool."
)
METAL = (
    "-[MPSNDArray initWithDevice:descriptor:]: failed assertion `Error: total bytes of NDArray >"
    " 2**32'"
)


def run_out(form):
    import torch

    if form == "mps":
        raise RuntimeError(MPS)
    if form == "torch":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if form == "allocator":
        torch.empty(1 << 60, dtype=torch.uint8)
    if form == "cap":  # the allocator's own refusal
        from hgt.device.limits import prepare_device

        prepare_device(
            torch.accelerator.current_accelerator().type, int(os.environ["HGT_INJECT_CAP"])
        )
    if form == "abort":
        os.write(2, METAL.encode() + b"\n")
        os.abort()
    if form == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    # the kernel kills: for a balloon at this step, or for what the trainer itself takes from here
    # on
    if form in ("cgroup", "join"):
        (Path(os.environ["HGT_INJECT_CGROUP"]) / "cgroup.procs").write_text(str(os.getpid()))
        held = []
        while form == "cgroup":
            held.append(bytearray(os.urandom(1 << 20)) * 16)
    if form == "damage":
        newest = max((Path(sys.argv[1]) / "checkpoints").glob("checkpoint-*.safetensors"))
        os.truncate(newest, newest.stat().st_size // 2)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if form == "full":
        ballast = Path(os.environ["HGT_INJECT_BALLAST"])
        room = shutil.disk_usage(ballast.parent).free - int(os.environ["HGT_INJECT_ROOM"])
        ballast.write_bytes(bytes(room))
    if form == "error":
        raise RuntimeError("shapes [3, 4] and [5] do not fit")
    if form == "interrupted":
        raise SystemExit(3)


def wrap(module):
    form, step, times = os.environ["HGT_INJECT"].split()
    count = Path(os.environ["HGT_INJECT_COUNT"])
    made = module.Steps.__call__
    done = {"steps": 0}

    def now():
        so_far = len(count.read_text()) if count.exists() else 0
        if done["steps"] == int(step) and so_far < int(times):
            with count.open("a") as file:
                file.write("x")
            run_out(form)

    def call(self, batch):
        done["steps"] += 1
        now()
        return made(self, batch)

    module.Steps.__call__ = call
    now()


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "hgt.training.steps":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


if "HGT_INJECT" in os.environ:
    sys.meta_path.insert(0, Finder())
