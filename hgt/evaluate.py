"""The evaluation program: `python -m hgt.evaluate <run folder>`."""

from __future__ import annotations

import sys

from hgt.programs.evaluation import evaluate_run
from hgt.run.program import run_program

if __name__ == "__main__":
    sys.exit(run_program("evaluate", sys.argv[1:], evaluate_run))
