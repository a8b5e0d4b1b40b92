"""The training program: `python -m hgt.train <run folder>`. Exit codes: `hgt/run/program.py`."""

from __future__ import annotations

import sys

from hgt.programs.training import train_run
from hgt.run.program import run_program

if __name__ == "__main__":
    sys.exit(run_program("train", sys.argv[1:], train_run))
