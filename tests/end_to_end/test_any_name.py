"""Any name of a type, a relation or a node, from the file to the registry: no name ends a run, and
the real one stands in the report.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from hgt.config import RunConfig
from hgt.graph.demo_graph import demo_rows
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.model.hgt_model import HGTModel
from hgt.programs.embedding import embed_run
from hgt.programs.evaluation import evaluate_run
from hgt.reading.edge_table import read_edge_table
from hgt.run.checkpoint import Checkpoint, Progress, save_checkpoint, state_tensors
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from tasks.tracking.mlflow_run import MlflowRun
from tasks.tracking.registry import register_run
from tasks.tracking.tracked_name import tracked_name
from tasks.validate import _figures

pytestmark = pytest.mark.usefixtures("own_home")
VALUES = {"embedding_dim": 16, "hidden_dim": 16, "num_heads": 2, "device": "cpu"}
NASTY = "Amino, $a$ {b} | (c) & d; \U0001f9ec \n\t ‮ ../.. `*[x]* \0!"


@pytest.fixture(scope="module")
def rows():
    return demo_rows(200, 1_000, num_communities=4, seed=1)


# As a file may hold them: neither empty nor with blanks around. numpy drops a NUL at the end of a
# text.
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(
    lambda name: name.strip("\0").strip() == name
)


@pytest.mark.filterwarnings(
    "ignore:Glyph .* missing from font", "ignore:constrained_layout not applied"
)
@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(node_type=NAMES, relation=NAMES, node=NAMES)
@example(node_type=NASTY, relation=NASTY, node=NASTY)
@example(node_type="long," * 900, relation="r" * 5_000, node="/")
def test_no_name_ends_a_run(tmp_path_factory, rows, node_type, relation, node):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    graph = write_run(folder, rows, node_type, relation, node)
    evaluate_run(folder, lambda *event, **values: None)
    report = json.loads((folder.report / "validation.json").read_text())
    assert node_type in report["mean_cosine_by_type"]
    tracker = MlflowRun(folder)
    figures = _figures(report)
    tracker.metrics(figures, 1)
    tracker.tags({"failed_checks": "; ".join(c["name"] for c in report["checks"])})
    logged = tracker.call("get_run", tracker.run_id).data
    assert logged.metrics == {
        tracked_name(name): pytest.approx(value) for name, value in figures.items()
    }
    of_type = f"validation/mean_cosine_among_{node_type}_nodes"
    assert of_type in figures
    if tracked_name(of_type) != of_type:
        assert "\0" in node_type or logged.tags[f"name.{tracked_name(of_type)}"] == of_type
    assert register_run(folder, tracker).name.endswith(graph.hash[:12])
    card = (folder.report / "model_card.md").read_text()
    (row,) = (line for line in card.splitlines() if line.startswith("| mean cosine among"))
    assert row.replace("\\|", "").count("|") == 5, "the table's columns"


def write_run(folder, rows, node_type, relation, node):
    """A run whose disease type, one relation and one node have these names."""
    ours = rows.replace(
        {
            "x_type": {"disease": node_type},
            "y_type": {"disease": node_type},
            "relation": {"indication": relation},
        }
    )
    first = ours.y_id[ours.y_type == node_type].iloc[0]
    for side in "xy":
        ours.loc[
            (ours[f"{side}_type"] == node_type) & (ours[f"{side}_id"] == first), f"{side}_id"
        ] = node
    file = Path(folder.path / "kg.parquet")
    ours.to_parquet(file)
    config = RunConfig.from_flat(VALUES | {"contrastive_node_type": node_type})
    graph = KnowledgeGraph.from_edge_table(read_edge_table(file), config.graph)
    config.save(folder.config)
    graph.save(folder.graph)
    split = split_facts(graph, config.split)
    split.save(folder.split, graph)
    torch.manual_seed(0)
    tensors = state_tensors("model", HGTModel(graph, config.model).state_dict())
    checkpoint = Checkpoint(
        tensors, Progress(seed=0), **Identity.of(graph, split, config).as_dict()
    )
    save_checkpoint(folder.checkpoints, checkpoint)
    EventWriter(folder.events).close()
    embed_run(folder, lambda *event, **values: None)
    return graph
