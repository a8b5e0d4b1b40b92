"""Where a run computes, how much memory it may take, and what happens when that runs out."""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config.ranges import COUNT
from hgt.config.sizes import check_memory
from hgt.device.traits import DEVICES
from hgt.parameter import Range, check_values, parameter

DOCKER_CPU = "docker-cpu"  # the CPU worker in Docker
DEVICE_CHOICES = (*DEVICES, DOCKER_CPU)


@dataclass(frozen=True)
class ExecutionConfig:
    """Device and memory. Nothing here changes the result, and a resume may change all of it."""

    device: str | None = parameter(
        None,
        "device to train on: mps, cuda or cpu of this machine, or docker-cpu, the CPU worker in"
        " Docker. Chosen automatically when not given",
        choices=DEVICE_CHOICES,
        changes_result=False,
    )
    node_batch_size: int = parameter(
        2048,
        "number of nodes that inference computes at a time, layer by layer. A larger value is"
        " faster and needs more memory",
        "nodes",
        changes_result=False,
        range=COUNT,
    )
    recompute_layers: bool = parameter(
        False,
        "recompute each HGT layer in the backward pass (gradient checkpointing). Needs less memory"
        " and more time",
        changes_result=False,
    )
    memory: str | None = parameter(
        None,
        "maximum memory of the run, such as 16GB. Uses all that the device has when not given",
        changes_result=False,
        check=check_memory,
    )
    max_shrinks: int = parameter(
        2,
        "how many times training retries on its device with less memory before it moves to the"
        " fallback",
        "times",
        changes_result=False,
        range=Range(0, 100),
    )
    fallback: str = parameter(
        "docker",
        "where training continues when its device has too little memory: docker (the CPU of this"
        " machine where Docker is missing), cpu or none",
        choices=("docker", "cpu", "none"),
        changes_result=False,
    )
    docker_memory: str | None = parameter(
        None,
        "memory of the CPU worker's container, such as 16GB. Takes nine tenths of Docker's memory"
        " when not given",
        changes_result=False,
        check=check_memory,
    )

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def compute_device(self) -> str | None:
        """`device` as the library knows it: in the worker, too, it is the CPU that computes."""
        return "cpu" if self.device == DOCKER_CPU else self.device
