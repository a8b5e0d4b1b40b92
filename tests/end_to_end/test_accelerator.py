"""A real accelerator whose allocator refuses: the cap is too small for the first plan. Skipped
where there is no accelerator.
"""

import os

import numpy as np
import pytest

from hgt.device.probe import probe_device
from hgt.graph.demo_graph import write_demo_graph
from hgt.training.step_form import StepForm
from tasks.execution.segments import read_segments
from tests.conftest import LAX, options
from tests.end_to_end.conftest import train_alone
from tests.end_to_end.failures import assert_one_whole_mlflow_run, embeddings, events, run_of
from tests.planned import plan_of_form

pytestmark = [
    pytest.mark.skipif(probe_device(None).type == "cpu", reason="no accelerator on this machine"),
    pytest.mark.timeout(900),
]
# two steps each
RUN = LAX | {
    "baselines": "none",
    "num_epochs": 4,
    "edge_sample_size": 50_000,
    "min_batches_per_epoch": 2,
}


@pytest.fixture(scope="module")
def kg(tmp_path_factory):
    path = tmp_path_factory.mktemp("kg") / "kg.csv"
    write_demo_graph(path, num_nodes=20_000, num_facts=100_000, num_communities=40, seed=1)
    return path


@pytest.fixture(scope="module")
def unbothered(kg, tmp_path_factory, prefect_server, empty_store):
    """Embeddings of the run that nothing happened to."""
    return train_alone(
        tmp_path_factory.mktemp("unbothered") / "home",
        kg,
        RUN,
        prefect_server,
        os.environ,
        empty_store,
    )


# Planned are 1,088, 904 and 664 MB on CUDA.
@pytest.mark.parametrize(
    ("cap", "too_large", "places"),
    [(740_000_000, 2, ["native"] * 3), (450_000_000, 3, ["native"] * 3 + ["cpu"])],
)
def test_the_allocator_refuses_the_first_plan(
    hgt, environment, injected, kg, unbothered, cap, too_large, places
):
    """Every trainer comes to the cap after an epoch of its own."""
    done = hgt("train", "--kg", kg, *options(RUN), **injected("cap 3 9"), HGT_INJECT_CAP=str(cap))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("OUT OF MEMORY") == too_large, done.stdout
    folder, probe = run_of(environment), probe_device(None)
    assert [s.place for s in read_segments(folder)] == places
    graph, config = folder.load_graph(), folder.load_config()
    forms = [s.form or StepForm.of(config) for s in read_segments(folder) if s.place == "native"]
    planned = [plan_of_form(graph, config, probe, form).required_bytes for form in forms]
    assert [size > cap for size in planned] == [True] * too_large + [False] * (3 - too_large), (
        planned
    )
    assert [e["epoch"] for e in events(folder, "start")] == list(range(len(places))), (
        "each from the last whole epoch's checkpoint"
    )
    assert all("out of memory" in e["message"] for e in events(folder, "error")), (
        "the allocator's own words"
    )
    assert_one_whole_mlflow_run(environment, 4)
    difference = np.abs(embeddings(folder) - unbothered).max() / np.abs(unbothered).max()
    print(  # noqa: T201
        f"largest difference from the run that nothing happened to: {difference:.1e} of the largest"
        " value"
    )
    assert difference < 0.01
