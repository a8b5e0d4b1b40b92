"""In a holdout split a node that is asked for in a held-out edge type has no message of it: as in
the test, so in training.
"""

import pytest
import torch

from hgt.graph.holdout import holdout_of
from hgt.graph.split import TRAIN, split_facts
from hgt.messages.grouping import edge_list
from hgt.training.step import removed_edges
from hgt.training.trainee import build_trainee

CPU = torch.device("cpu")
HOLDOUTS = [
    {"split": "disease-holdout"},
    {"split": "drug-holdout"},
    # both ends are of the held-out type
    {"split": "gene/protein-holdout", "holdout_relations": ["protein_protein"]},
]


def trainee_of(graph, make_config, **values):
    config = make_config(val_fraction=0.2, test_fraction=0.2, **values)
    return build_trainee(config, graph, split_facts(graph, config.split), CPU)


def with_mirrors(graph, facts, supervised):
    """The numbers of the supervised facts, and of (b, relation, a) for each (a, relation, b) of
    them.
    """
    named = [(h, graph.edge_types[r][1], t) for h, r, t in facts]
    asked = {named[f] for f in supervised}
    return {f for f, fact in enumerate(named) if fact in asked or fact[::-1] in asked}


def silent_by_hand(graph, trainee, batch):
    """The supervised facts with their mirrors, and all that share a node of the held-out type
    with one of them, by plain loops.
    """
    holdout, held, relations = holdout_of(graph, trainee.config.split), set(), set()
    if holdout:
        held = set(range(graph.total_nodes)[graph.type_range(holdout.node_type)])
        relations = {graph.edge_types.index(e) for e in holdout.edge_types}
    facts = list(zip(*trainee.batches.facts.tolist(), strict=True))
    supervised = {f for f in batch.supervised.tolist() if f < len(facts)}
    asked = {
        end
        for f in supervised
        if facts[f][1] in relations
        for end in (facts[f][0], facts[f][2])
        if end in held
    }
    siblings = {f for f, (h, r, t) in enumerate(facts) if r in relations and {h, t} & asked}
    return with_mirrors(graph, facts, supervised) | siblings


@pytest.mark.parametrize("values", [*HOLDOUTS, {}], ids=lambda v: v.get("split", "random"))
def test_facts_that_share_an_asked_node_are_silent(graph, make_config, values):
    trainee = trainee_of(graph, make_config, **values)
    more = 0
    for number in range(trainee.batches.num_batches):
        batch = trainee.batches.draw(0, number)
        silent = set(batch.silent.tolist()) - {trainee.batches.num_train}
        assert silent == silent_by_hand(graph, trainee, batch)
        supervised = set(batch.supervised.tolist()) - {trainee.batches.num_train}
        more += len(silent - with_mirrors(graph, trainee.batches.facts.T.tolist(), supervised))
    assert (more > 0) == bool(values)


@pytest.mark.parametrize("num_neighbors", [None, 5])
@pytest.mark.parametrize("values", HOLDOUTS, ids=lambda v: v["split"])
def test_an_asked_node_is_as_a_held_out_one(graph, make_config, values, num_neighbors):
    """It has no message edge of a held-out edge type, in neither direction.

    Its others stay, and so do all edges of nodes not asked for.
    """
    trainee = trainee_of(graph, make_config, num_neighbors=num_neighbors, **values)
    holdout, batch = holdout_of(graph, trainee.config.split), trainee.batches.draw(0, 0)
    held_types = holdout.edge_types
    head, relation, tail = (
        torch.from_numpy(row)
        for row in trainee.batches.facts[
            :, batch.supervised[batch.supervised < trainee.batches.num_train]
        ]
    )
    of_type = torch.isin(relation, torch.tensor([graph.edge_types.index(e) for e in held_types]))
    held = graph.type_range(holdout.node_type)
    asked = torch.cat([head[of_type], tail[of_type]])
    asked = asked[(asked >= held.start) & (asked < held.stop)]
    messages = batch.messages
    edges, removed = edge_list(messages), removed_edges(trainee, batch)
    names = [messages.edge_types[r] for r in edges.relation.tolist()]
    concerned = torch.tensor(
        [
            (a, n.removeprefix("rev_"), b) in held_types
            or (b, n.removeprefix("rev_"), a) in held_types
            for a, n, b in names
        ]
    )
    touches = concerned & (torch.isin(edges.source, asked) | torch.isin(edges.target, asked))
    assert touches.any()
    assert removed[touches].all()
    supervised = set(batch.supervised.tolist()) - {trainee.batches.num_train}
    told = torch.tensor(sorted(with_mirrors(graph, trainee.batches.facts.T.tolist(), supervised)))
    assert torch.equal(removed, touches | torch.isin(messages.fact.long(), told))
    assert not removed.all()


def test_a_held_out_node_has_no_message_to_lose(graph, make_config):
    """What training imitates: in the message graph itself a held-out disease has none of the
    held-out edge types.
    """
    trainee = trainee_of(graph, make_config, split="disease-holdout")
    split = split_facts(graph, trainee.config.split)
    held_out = torch.nonzero(split.node_part > TRAIN).squeeze(1)
    relations = [graph.edge_types.index(e) for e in split.holdout.edge_types]
    of_type = torch.isin(torch.from_numpy(trainee.batches.facts[1]), torch.tensor(relations))
    assert len(held_out)
    assert of_type.any()
    assert not torch.isin(torch.from_numpy(trainee.batches.facts[::2])[:, of_type], held_out).any()
