"""`hgt down`: stops the services of `hgt up`, also after a crash or a reboot."""

from __future__ import annotations

from flows.services.containers import remove_containers
from flows.services.local import STOP_SECONDS, Say, alone, services, services_folder


def down(say: Say) -> None:
    """Stop all services and remove outdated process files.

    Workers stop first, so that Prefect and MLflow still record the end of their runs.
    """
    if not services_folder().is_dir():
        say("Nothing was running.")
        return
    with alone():
        said = []
        for key, seconds in STOP_SECONDS.items():
            service = services()[key]
            leader, known = service.process.leader(), service.process.file.exists()
            ran = service.process.stop(seconds)
            if leader:
                said.append(f"{service.title} stopped (pid {leader.pid})")
            elif ran:
                said.append(
                    f"{service.title} had ended before; its remaining processes are stopped"
                )
            elif known:
                said.append(f"{service.title} had ended before; its process file is removed")
            if key == "docker-cpu" and (number := remove_containers()):
                said.append(
                    f"{number} container{'s' if number > 1 else ''} of the work pool docker-cpu"
                    " removed"
                )
        for line in said or ["Nothing was running."]:
            say(line)
