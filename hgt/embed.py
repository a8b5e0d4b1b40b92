"""The embedding program: `python -m hgt.embed <run folder> [csv [--overwrite]]`."""

from __future__ import annotations

import sys
from pathlib import Path

from hgt.programs.embedding import embed_run
from hgt.run.folder import RunFolder
from hgt.run.program import OnEvent, run_program

OVERWRITE = "--overwrite"


def _embed(folder: RunFolder, on_event: OnEvent, csv: str | None = None, *more: str) -> None:
    embed_run(folder, on_event, Path(csv) if csv else None, OVERWRITE in more)


if __name__ == "__main__":
    sys.exit(run_program("embed", sys.argv[1:], _embed))
