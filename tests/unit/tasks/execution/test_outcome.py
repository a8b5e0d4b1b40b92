"""Every sentence that a user reads when memory, or anything else, ended a program."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Crashed, Failed

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd
from hgt.errors import HgtError, InputError, OutOfMemory, TrainingDiverged
from hgt.run.folder import RunFolder
from tasks.execution import container, pool_run
from tasks.execution.outcome import failure, killed_container

METAL = "failed assertion `Error: total bytes of NDArray > 2**32'"
DOCKER_MEMORY = (
    "Resume with a larger --docker-memory (Docker Desktop's own limit is under Settings,"
    " Resources)."
)


def event(kind, message, out_of_memory=False):
    return {"event": "error", "type": kind, "message": message, "out_of_memory": out_of_memory}


RAN_OUT = event("OutOfMemory", "MPS ran out.", out_of_memory=True)


@pytest.mark.parametrize(
    ("end", "kind", "sentence"),
    [
        (
            ProgramEnd(-9),
            OutOfMemory,
            "The embed process was killed (exit code -9), most likely for memory.",
        ),
        (
            ProgramEnd(-6, METAL),
            OutOfMemory,
            f"The embed process was killed (exit code -6), most likely for memory: {METAL}.",
        ),
        (
            ProgramEnd(4, "", RAN_OUT),
            OutOfMemory,
            "The embed process ran out of memory: MPS ran out.",
        ),
        (
            ProgramEnd(
                1, "kIOGPUCommandBufferCallbackErrorOutOfMemory", event("TrainingDiverged", "NaN")
            ),
            OutOfMemory,
            "The embed process ran out of memory: NaN",
        ),
        (
            ProgramEnd(1, "", event("TrainingDiverged", "NaN")),
            TrainingDiverged,
            "The embed process failed (exit code 1): NaN",
        ),
        (ProgramEnd(2, "no such file"), InputError, "no such file"),
        (
            ProgramEnd(1, "", event("KeyError", "'x'")),
            HgtError,
            "The embed process failed (exit code 1): KeyError: 'x'",
        ),
        (ProgramEnd(-11), HgtError, "The embed process failed (exit code -11): it printed nothing"),
    ],
)
def test_of_a_process(tmp_path, end, kind, sentence):
    error = failure("embed", RunFolder(tmp_path), end)
    assert (type(error), str(error)) == (kind, sentence)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (MemoryDeath.OVER_LIMIT, "needed more than its limit of 2.0 GB"),
        (
            MemoryDeath.KILLED,
            "was killed (exit code 137), most likely for memory, with a limit of 2.0 GB",
        ),
    ],
)
def test_of_a_killed_container(how, words):
    assert killed_container(how, 2_000_000_000) == words


@pytest.mark.parametrize(
    ("state", "error", "output", "sentence"),
    [
        (
            {"ExitCode": 137, "OOMKilled": True},
            None,
            "",
            f"The train container needed more than its limit of 2.0 GB. {DOCKER_MEMORY}",
        ),
        (
            {"ExitCode": 1, "OOMKilled": True},
            event("KeyError", "'x'"),
            "",
            f"The train container needed more than its limit of 2.0 GB. {DOCKER_MEMORY}",
        ),
        (
            {"ExitCode": 137, "OOMKilled": False},
            None,
            "Traceback (most recent call last):\nValueError: x",
            (
                "The train container was killed (exit code 137), most likely for memory, with a"
                f" limit of 2.0 GB. {DOCKER_MEMORY}"
            ),
        ),
        (
            {"ExitCode": 134, "OOMKilled": False},
            None,
            METAL,
            f"The train process was killed (exit code 134), most likely for memory: {METAL}.",
        ),
        (
            {"ExitCode": 4, "OOMKilled": False},
            RAN_OUT,
            "",
            "The train process ran out of memory: MPS ran out.",
        ),
        (
            {"ExitCode": 137, "OOMKilled": False},
            event("KeyError", "'x'"),
            "",
            "The train process failed (exit code 137): KeyError: 'x'",
        ),
    ],
)
def test_of_a_container(tmp_path, state, error, output, sentence):
    end = container._end(state, error, output)
    assert str(container._failure("train", RunFolder(tmp_path), end, 2_000_000_000)) == sentence


NAMED = Failed(name="OutOfMemory", message="The host ran out.")


@pytest.mark.parametrize(
    ("state", "error", "killed", "is_memory", "sentence"),
    [
        (
            Failed(message="x"),
            RAN_OUT,
            None,
            True,
            "The train process ran out of memory: MPS ran out.",
        ),
        (
            Failed(message="x"),
            event("KeyError", "'x'"),
            "needed more",
            False,
            "The train process failed (exit code 1): KeyError: 'x'",
        ),
        (
            Cancelled(message="by hand"),
            None,
            "needed more",
            False,
            (
                "The CPU worker's run was cancelled in Prefect (Cancelled: by hand). Resume it at"
                " any time."
            ),
        ),
        (
            Crashed(message="x"),
            None,
            "needed more than its limit of 2.0 GB",
            True,
            (
                "The CPU worker's container needed more than its limit of 2.0 GB. Resume with a"
                " larger --docker-memory."
            ),
        ),
        (
            NAMED,
            None,
            None,
            True,
            (
                "The CPU worker's run was killed, most likely for memory (OutOfMemory: The host ran"
                " out.). Resume with a larger --docker-memory."
            ),
        ),
        (
            Crashed(message="exited with status code: 137."),
            None,
            None,
            True,
            (
                "The CPU worker's run was killed, most likely for memory (Crashed: exited with"
                " status code: 137.). Resume with a larger --docker-memory."
            ),
        ),
        (
            Crashed(message="exited with status code: 1."),
            None,
            None,
            False,
            (
                "The CPU worker's run ended without a message of the trainer (Crashed: exited with"
                " status code: 1.). See the worker's log (`hgt status` shows its path)."
            ),
        ),
    ],
)
def test_of_a_run_on_the_work_pool(tmp_path, state, error, killed, is_memory, sentence):
    run = FlowRun(flow_id=uuid4(), run_count=1)
    found = pool_run._failure(RunFolder(tmp_path), run, state, error, killed)
    assert (isinstance(found, OutOfMemory), str(found)) == (is_memory, sentence)
