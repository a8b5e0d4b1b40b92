"""`hgt ...`, and the programs that it starts, as calls in the process of the tests: a real flow
without the 26 CPU seconds that its five processes take to import torch, Prefect and MLflow.

An interrupted command needs a process, and does not come here.
"""

import contextlib
import gc
import importlib
import importlib.util
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from hgt.training.steps import Steps
from tests.conftest import without_shape_checks

_INJECTED = Path(__file__).with_name("injected") / "sitecustomize.py"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Done:
    """What is left of a command, by the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_command(arguments, environment, store=None):
    """`hgt <arguments>`. store: an empty MLflow store, copied where the command would make one."""
    from flows import cli, session

    home = Path(environment["HGT_HOME"])
    with contextlib.ExitStack() as held:
        held.enter_context(_environment(environment))
        held.enter_context(_prefect_settings(environment))
        held.enter_context(without_shape_checks())
        patch = held.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(session, "inside", lambda: True)  # its session of its own is for Ctrl-C
        patch.setattr(session, "enter", lambda: None)
        # `hgt compare`
        patch.setattr(session, "run", lambda given: _called(cli.main, ["hgt", *given]))
        _programs_here(patch)
        out, err = held.enter_context(_captured())
        # what is there already is not looked through below: it takes as long as a training
        gc.freeze()
        held.callback(gc.unfreeze)
        if store and arguments[0] in ("train", "compare") and not home.exists():
            home.mkdir()
            shutil.copy(store, home / "mlflow.db")
        code = _called(cli.main, ["hgt", *map(str, arguments)])
        gc.collect()  # the Docker SDK leaves the socket of a failed connection to it
    return Done(code, out.getvalue(), err.getvalue())


def _programs_here(patch):
    from tasks.execution import child

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT", "TimeoutExpired")}
    patch.setattr(child, "subprocess", types.SimpleNamespace(Popen=_start, **names))


def _start(command, *, env, **how):
    """A trainer that is to be killed is a process all the same."""
    ends_its_process = env.get("HGT_INJECT", "").startswith(("kill", "abort", "cgroup", "join"))
    return (subprocess.Popen if ends_its_process and "hgt.train" in command else Program)(
        command, env=env, **how
    )


class Program:
    """Stands for `Popen([python, "-m", "hgt.train", ...])`: it has run to its end when it is
    there.
    """

    def __init__(self, command, *, stdout, env, **_):
        _, _, module, *arguments = command
        with contextlib.ExitStack() as held:
            # whose child it is here
            held.enter_context(_environment(env | {"HGT_PARENT_PID": str(os.getppid())}))
            patch = held.enter_context(pytest.MonkeyPatch.context())
            out, err = held.enter_context(_captured())
            self.returncode = _called(lambda: _run(module, patch), [module, *arguments])
        stdout.write(out.getvalue() + err.getvalue())

    def poll(self):
        return self.returncode


def _run(module, patch):
    if "HGT_INJECT" in os.environ:
        patch.setattr(Steps, "__call__", Steps.__call__)  # to be put back
        spec = importlib.util.spec_from_file_location("injected", _INJECTED)
        injected = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(injected)
        sys.meta_path[:] = [
            finder for finder in sys.meta_path if not isinstance(finder, injected.Finder)
        ]
        injected.wrap(importlib.import_module("hgt.training.steps"))
    # jaxtyping 0.3.11 makes runpy keep the code with its checks where Python looks for the plain
    # code: the product would load it.
    patch.setattr(sys, "dont_write_bytecode", True)
    runpy.run_module(module, run_name="__main__")


def _called(function, argv):
    """The exit code of a program."""
    before, kept = sys.argv, {signum: signal.getsignal(signum) for signum in _SIGNALS}
    sys.argv = argv
    try:
        function()
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    finally:
        sys.argv = before
        for signum, handler in kept.items():
            signal.signal(signum, handler)
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    return code or 0


@contextlib.contextmanager
def _captured():
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # they are a process's own affair
        yield out, err


@contextlib.contextmanager
def _environment(values):
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextlib.contextmanager
def _prefect_settings(environment):
    """Prefect reads its settings when it is imported."""
    from prefect import settings

    values = {
        getattr(settings, name): value
        for name, value in environment.items()
        if name in ("PREFECT_API_URL", "PREFECT_HOME")
    }
    with settings.temporary_settings(values):
        yield
