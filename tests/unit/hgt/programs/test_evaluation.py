"""A run's report: its figures, its device, and the files that it writes."""

import json

import pytest
import torch

from hgt.graph.split import TRAIN, EdgeSplit
from hgt.programs import embedding_report
from hgt.programs.embedding_report import report_on
from hgt.programs.evaluation import evaluate_run
from hgt.run import opened
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder

CPU = torch.device("cpu")


def test_nothing_held_out_gives_a_report_without_ranking(embeddings, graph, split, config):
    nothing = EdgeSplit(split.facts, torch.full_like(split.part, TRAIN), tuple(graph.edge_types))
    report = report_on(embeddings, graph, nothing, config, CPU)
    assert report.ranking is None
    assert "nothing could be ranked" in report.table()


def test_facts_are_ranked_on_the_given_device(embeddings, graph, split, config, monkeypatch):
    """A device that holds nothing, so that whatever else were computed on it would fail."""
    seen = []

    def rank(vectors, decoder, facts, index):
        seen.extend([vectors.device.type, decoder.relation.device.type, vectors.dtype])

    monkeypatch.setattr(embedding_report, "rank_facts", rank)
    monkeypatch.setattr(embedding_report, "classify_facts", lambda *arguments: rank(*arguments[:4]))
    report = report_on(embeddings, graph, split, config, torch.device("meta"))
    assert seen == ["meta", "meta", torch.float32] * 2
    assert report.geometry.num_not_finite == 0


@pytest.fixture
def embedded_run(embeddings, graph, split, make_config, tmp_path):
    folder = RunFolder(tmp_path)
    make_config(memory="2GB").save(folder.config)
    graph.save(folder.graph)
    split.save(folder.split, graph)
    embeddings.save(folder.embeddings)
    return folder


def test_a_run_is_evaluated_on_its_device_within_its_limit(embedded_run, monkeypatch):
    asked, prepared = [], []
    probe, prepare = opened.probe_device, opened.prepare_device
    monkeypatch.setattr(opened, "probe_device", lambda *a: asked.append(a) or probe(*a))
    monkeypatch.setattr(opened, "prepare_device", lambda *a: prepared.append(a) or prepare(*a))
    evaluate_run(embedded_run, lambda *event, **values: None)
    assert asked == prepared == [("cpu", 2 * 10**9)]


def test_a_run_folder_gets_its_report_and_pictures(embedded_run, embeddings, graph, split, config):
    folder = embedded_run
    on_event = EventWriter(folder.events)
    for epoch in (1, 2):
        on_event(
            "epoch",
            epoch=epoch,
            loss=2.0,
            link_loss=3.0,
            contrastive_loss=1.0,
            isotropy_loss=0.1,
            val_mrr=0.1 if epoch == 2 else None,
        )
    evaluate_run(folder, on_event)
    on_event.close()
    told = json.loads((folder.report / "validation.json").read_text())
    expected = report_on(embeddings, graph, split, config, CPU)
    assert told["accepted"] == expected.accepted
    assert [c["value"] for c in told["checks"]] == [pytest.approx(c.value) for c in expected.checks]
    assert (folder.report / "validation.txt").read_text() == expected.table() + "\n"
    for name in ("losses.png", "pca.png"):
        assert (folder.report / name).read_bytes().startswith(b"\x89PNG")
    last = json.loads(folder.events.read_text().splitlines()[-1])
    assert (last["event"], last["accepted"]) == ("evaluated", expected.accepted)
