"""Sends SIGINT to the process that dispatches a flow run. Python imports it where PYTHONPATH names
its folder.

HGT_INTERRUPT=created: when the server has made the run, and the caller does not know so yet;
Prefect's client asks twice, as for an answer that was lost. HGT_INTERRUPT=pending: while the server
is asked for its state, and a worker has taken it.
"""

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time


def wrap(client):
    create, read = client.create_flow_run_from_deployment, client.read_flow_run

    def create_and_interrupt(self, *arguments, **options):
        create(self, *arguments, **options)
        created = create(self, *arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # in another thread than the main one, the answer is longer on its way
        return created

    def read_and_interrupt(self, *arguments):
        run = read(self, *arguments)
        if run.state.is_pending():
            client.read_flow_run = read
            os.kill(os.getpid(), signal.SIGINT)
        return run

    if os.environ["HGT_INTERRUPT"] == "created":
        client.create_flow_run_from_deployment = create_and_interrupt
    else:
        client.read_flow_run = read_and_interrupt


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "prefect.client.orchestration":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            wrap(module.SyncPrefectClient)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
