"""The baseline program: `python -m hgt.baselines <run folder>`, run after the evaluation."""

from __future__ import annotations

import sys

from hgt.programs.baselines import compare_run
from hgt.run.program import run_program

if __name__ == "__main__":
    sys.exit(run_program("baselines", sys.argv[1:], compare_run))
