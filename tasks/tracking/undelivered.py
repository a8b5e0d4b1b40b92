"""The entries of a run that MLflow lacks, in words."""

from __future__ import annotations

from collections import Counter

from tasks.home import store_uri
from tasks.tracking.delivery import Delivery

_WORDS = {
    "metrics": "figures",
    "artifacts": "files",
    "text": "files",
    "register": "its registration",
    "end": "its end",
    "settle": "its end",
}


def undelivered(delivery: Delivery) -> str:
    """The undelivered entries, the reason, and how to deliver them; "" when there are none."""
    left, folder = list(delivery.outbox), delivery.folder
    if not left:
        return ""
    counts = Counter(_WORDS.get(entry.kind, entry.kind) for entry in left)
    kinds = ", ".join(
        f"{number} x {words}" if number > 1 else words for words, number in counts.items()
    )
    why = delivery.problem or next(
        (entry.refused for entry in left if entry.refused), "no answer yet"
    )
    later = (
        f"The run folder keeps it: `hgt track {folder.path.name}` or the next resume delivers it."
        if folder.config.is_file()
        else ""
    )
    lacks = f"MLflow's store {store_uri()} lacks parts of this run ({kinds}): {why}."
    return f"{lacks} {later}".strip()
