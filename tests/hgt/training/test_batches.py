"""An epoch supervises every training fact once, batches repeat exactly, and no true fact is ever used as a negative."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from hgt.graph.split import TRAIN, split_facts
from hgt.messages.message_graph import build_message_graph, message_edge_types, training_message_graph
from hgt.training.batches import Batches, mirror_facts
from hgt.training.losses import isotropy_loss, micro_batch_loss
from hgt.training.step import build_trainee, removed_edges, train_step
from hgt.training.step_form import StepForm

CPU = torch.device("cpu")


def true_pairs(graph, facts):
    """{(head, relation, tail)} in global numbers; symmetric ones in both directions."""
    out = set()
    for h, r, t in facts.T.tolist():
        out.add((h, r, t))
        if graph.edge_types[r] in graph.symmetric:
            out.add((t, r, h))
    return out


def of_batch(batch, num_train):
    return batch.supervised[batch.supervised < num_train]


@pytest.mark.parametrize("values", [{}, {"edge_sample_size": 7}, {"min_batches_per_epoch": 25}, {"accumulation_steps": 8}])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_supervises_every_training_fact_exactly_once(graph, split, make_config, values, epoch):
    config = make_config(**values)
    batches = Batches(graph, split, config)
    facts = split.of(TRAIN)
    drawn = [of_batch(batches.draw(epoch, b), batches.num_train) for b in range(batches.num_batches)]
    assert torch.equal(torch.cat(drawn).sort().values, torch.arange(facts.shape[1]))
    largest = int(torch.bincount(facts[1]).max())
    assert batches.num_batches == max(math.ceil(largest / config.train.edge_sample_size), config.train.min_batches_per_epoch)
    per_batch = torch.stack([torch.bincount(facts[1][d], minlength=len(graph.edge_types)) for d in drawn])
    assert int(per_batch.max()) <= config.train.edge_sample_size
    assert int((per_batch.max(0).values - per_batch.min(0).values).max()) <= 1, "each edge type is spread evenly over the batches"
    for told, one in zip(batches.supervised_of_epoch(epoch), drawn, strict=True):
        assert sorted(told.tolist()) == sorted(one.tolist())


def test_two_epochs_deal_the_facts_differently(graph, split, config):
    batches = Batches(graph, split, config)
    assert not torch.equal(batches.draw(0, 0).supervised, batches.draw(1, 0).supervised)


def tensors_of(batch):
    yield batch.supervised
    for micro in batch.micro_batches:
        yield from (getattr(micro, f.name) for f in fields(micro))


def test_draw_is_a_pure_function(graph, split, config):
    one, other = Batches(graph, split, config), Batches(graph, split, config)
    for b in range(one.num_batches):
        one.draw(0, b)
    np.random.default_rng(0).random(7)
    for again in (one, other):
        for a, b in zip(tensors_of(again.draw(2, 1)), tensors_of(Batches(graph, split, config).draw(2, 1)), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one.draw(2, 1).micro_batches[0].nodes, one.draw(2, 2).micro_batches[0].nodes)


@pytest.mark.parametrize("steps", [1, 3])
def test_shapes_are_the_same_from_batch_to_batch(graph, split, make_config, steps):
    batches = Batches(graph, split, make_config(accumulation_steps=steps, min_batches_per_epoch=11))
    shapes = set()
    for epoch in range(2):
        for b in range(batches.num_batches):
            batch = batches.draw(epoch, b)
            assert len(batch.micro_batches) == steps
            shapes |= {(batch.supervised.shape, *(getattr(m, f.name).shape for f in fields(m))) for m in batch.micro_batches}
    assert len(shapes) == 1
    assert sum(batches.layout.sections) == len(batches.draw(0, 0).micro_batches[0].nodes)


def test_filters_hide_every_true_training_fact_and_nothing_else(graph, split, config):
    batches = Batches(graph, split, config)
    true = true_pairs(graph, split.of(TRAIN))
    width = batches.layout.pool_width
    types_of_others = [t for t, n in batches.others.items() for _ in range(n)]
    assert len(set(types_of_others)) == len(graph.node_types)
    masked = 0
    for micro in (m for b in range(batches.num_batches) for m in batches.draw(1, b).micro_batches):
        sections = micro.nodes.split(batches.layout.sections)
        for r in batches.layout.relations:
            head_type, _, tail_type = graph.edge_types[r.relation]
            for pool, node_type in ((sections[r.tail_pool], tail_type), (sections[r.head_pool], head_type)):
                allowed = graph.type_range(node_type)
                assert allowed.start <= pool.min()
                assert pool.max() < allowed.stop
                assert len(pool.unique()) == len(pool)
            heads, tails = (sections[s][r.facts].tolist() for s in (batches.layout.head, batches.layout.tail))
            for i, weight in enumerate(micro.weight[r.facts].tolist()):
                if not weight:
                    continue
                assert (heads[i], r.relation, tails[i]) in true
                pool = sections[r.tail_pool].tolist()
                known = micro.tail_known[r.facts][i]
                assert known[: len(pool)].tolist() == [(heads[i], r.relation, n) in true for n in pool]
                assert known[len(pool) : width].all(), "places beyond a small type's nodes are no negatives"
                assert known[width:].tolist() == [t == tail_type for t in types_of_others], "of its own type it has the whole pool"
                pool = sections[r.head_pool].tolist()
                known = micro.head_known[r.facts][i]
                assert known[: len(pool)].tolist() == [(n, r.relation, tails[i]) in true for n in pool]
                assert known[len(pool) : width].all()
                assert known[width:].tolist() == [t == head_type for t in types_of_others]
                masked += 1
    assert masked == split.of(TRAIN).shape[1]


def test_the_graph_has_all_kinds_of_relations(graph, split):
    """What the other tests rely on: symmetric, between types, directed within a type; held-out facts."""
    within = {e for e in graph.edge_types if e[0] == e[2]}
    assert graph.symmetric
    assert within - graph.symmetric
    assert set(graph.edge_types) - within
    assert split.of(TRAIN).shape[1] < split.facts.shape[1]


def test_weights_of_a_batch_add_up_to_one(graph, split, make_config):
    batches = Batches(graph, split, make_config(accumulation_steps=3))
    for b in range(batches.num_batches):
        batch = batches.draw(0, b)
        num = len(of_batch(batch, batches.num_train))
        weights = torch.cat([m.weight for m in batch.micro_batches])
        assert torch.equal((weights > 0).sum(), torch.tensor(num))
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        torch.testing.assert_close(torch.cat([m.anchor_weight for m in batch.micro_batches]).sum(), torch.tensor(1.0))


def test_contrastive_rows_equal_brute_force(graph, split, config):
    """A positive reaches the threshold; the pool's nodes are marked where they do, or are the anchor itself."""
    neighbours = {n: set() for n in range(graph.total_nodes)}
    for h, _, t in split.of(TRAIN).T.tolist():
        neighbours[h].add(t)
        neighbours[t].add(h)

    def similarity(a, b):
        return len(neighbours[a] & neighbours[b]) / max(len(neighbours[a] | neighbours[b]), 1)

    batches = Batches(graph, split, config)
    threshold, contrast = config.train.similarity_threshold, batches.layout.contrast
    disease = graph.type_range("disease")
    for micro in batches.draw(0, 0).micro_batches:
        sections = micro.nodes.split(batches.layout.sections)
        anchors, positives, pool = (sections[s].tolist() for s in (contrast.anchor, contrast.positive, contrast.pool))
        assert all(disease.start <= n < disease.stop for n in pool)
        for i in torch.nonzero(micro.anchor_weight).squeeze(1).tolist():
            a = anchors[i]
            assert disease.start <= a < disease.stop
            assert a != positives[i]
            assert similarity(a, positives[i]) >= threshold
            assert micro.anchor_known[i].tolist() == [a == n or similarity(a, n) >= threshold for n in pool]


def test_alike_nodes_of_a_hub_never_repel_each_other(make_graph, make_config):
    """100 diseases with the same two genes: each has more partners than are kept as positives."""
    rows = [("disease", f"d{i}", "assoc", "gene", g) for i in range(100) for g in ("g0", "g1")]
    graph = make_graph(rows)
    config = make_config(accumulation_steps=1)
    split = split_facts(graph, config.split)
    batches = Batches(graph, split, config)
    degree = torch.bincount(split.of(TRAIN)[0], minlength=graph.total_nodes)
    (micro,) = batches.draw(0, 0).micro_batches
    sections = micro.nodes.split(batches.layout.sections)
    whole_a, whole_p = (degree[sections[s]] == 2 for s in (batches.layout.contrast.anchor, batches.layout.contrast.pool))
    assert whole_p.sum() > 70
    assert micro.anchor_known[whole_a][:, whole_p].all()


def test_fewer_facts_than_batches_give_finite_steps(make_graph, make_config):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i % 2}") for i in range(4)])
    config = make_config(min_batches_per_epoch=10, contrastive_weight=0.0)
    split = split_facts(graph, config.split)
    trainee = build_trainee(config, graph, split, CPU)
    for b in range(trainee.batches.num_batches):
        losses = train_step(trainee, trainee.batches.draw(0, b))
        assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(p).all() for p in trainee.model.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("min_batches", [3, 10])
def test_accumulated_gradients_equal_the_whole_batchs(graph, split, make_config, dropout, min_batches):
    results = {}
    for steps in (1, 2, 4, 8, 7):
        config = make_config(accumulation_steps=steps, dropout=dropout, min_batches_per_epoch=min_batches, max_grad_norm=1e9)
        trainee = build_trainee(config, graph, split, CPU)
        trainee.model.train()
        torch.manual_seed(11)  # dropout
        losses = train_step(trainee, trainee.batches.draw(0, 1))
        results[steps] = (losses, [p.grad for p in trainee.model.parameters()])
    assert any(int(g.abs().max() > 0) for g in results[1][1])
    for steps, (losses, grads) in results.items():
        torch.testing.assert_close(losses, results[1][0], atol=1e-5, rtol=1e-5, msg=lambda m, n=steps: f"{n} steps: {m}")
        torch.testing.assert_close(grads, results[1][1], atol=1e-5, rtol=1e-5, msg=lambda m, n=steps: f"{n} steps: {m}")


FEW_ROWS = {"num_negatives": 2, "contrastive_weight": 0.0, "min_batches_per_epoch": 100, "accumulation_steps": 1}


@pytest.mark.parametrize("values", [{}, FEW_ROWS], ids=["many rows", "few rows"])
def test_every_form_of_the_step_gives_the_same(graph, split, make_config, values):
    """Smaller tables and groups, computing again, more micro-batches: losses and gradients stay, and dropout drops the same."""
    config = make_config(dropout=0.3, max_grad_norm=1e9, **values)
    planned = [StepForm.of(config)]
    while (smaller := planned[-1].smaller()) is not None:
        planned.append(smaller)
    (without_projections,) = [f for f in planned if f.table_rows == planned[0].table_rows and not f.keep_projections]
    chosen = [planned[0], without_projections, planned[-1]]
    forms = chosen + [replace(f, table_rows=64, group_edges=100) for f in chosen]  # a graph as small as this one has few groups otherwise
    results, num_groups = [], set()
    for form in forms:
        trainee = build_trainee(config, graph, split, CPU, form)
        trainee.model.train()
        num_groups.add(len(trainee.messages.groups))
        torch.manual_seed(11)  # dropout
        losses = train_step(trainee, trainee.batches.draw(0, 1))
        results.append([*losses.values(), *(p.grad for p in trainee.model.parameters())])
    assert min(num_groups) == 2, "one for each side that is transformed"
    assert max(num_groups) > 10
    for form, found in zip(forms, results, strict=True):
        for tensor, whole in zip(found, results[0], strict=True):
            assert (tensor - whole).norm() <= 1e-5 * whole.norm(), form


def shortened_row_by_row(rows, longest):
    """As `length_bound` says, one row after the other; a row's lengthening gradient is left out by a hook."""

    def shortened(row):
        if row.norm() <= longest:
            return row
        out = row * float(longest / row.detach().norm())
        along = out.detach() / out.detach().norm()
        out.register_hook(lambda grad: grad - along * (grad @ along).clamp_max(0))
        return out

    return torch.stack([shortened(row) for row in rows])


@pytest.mark.parametrize("values", [{"accumulation_steps": 3}, FEW_ROWS], ids=["many rows", "few rows"])
def test_gradients_equal_those_of_one_plain_backward(graph, split, make_config, values):
    """The gradient collected on the embeddings is the gradient of the loss, not only the same for every number of parts.

    Either all nodes are projected to embeddings at once, or the rows of each micro-batch, whichever is less work.
    """
    config = make_config(max_grad_norm=1e9, **values)
    stepped, plain = (build_trainee(config, graph, split, CPU) for _ in range(2))
    batch = stepped.batches.draw(0, 0)
    projected = []
    stepped.model.encoder.projection.register_forward_hook(lambda module, inputs, output: projected.append(len(output)))
    train_step(stepped, batch)
    of_step = stepped.batches.layout
    of_parts = [of_step.num_shared, *[of_step.num_rows - of_step.num_shared] * len(batch.micro_batches)]
    assert projected == (of_parts if values is FEW_ROWS else [graph.total_nodes])
    encoder, layout = plain.model.encoder, plain.batches.layout
    unbounded = encoder.project(encoder.hidden(plain.messages, removed_edges(plain, batch)))
    shared = unbounded[batch.micro_batches[0].nodes[: layout.num_shared]]
    longest = 1.5 * shared.detach().norm(dim=1).log().mean().exp()
    assert 0 < (unbounded.norm(dim=1) > longest).sum() < len(unbounded)
    shared = shortened_row_by_row(shared, longest)  # the same in all parts; other rows are shortened part by part
    parts = [(m, shortened_row_by_row(unbounded[m.nodes[layout.num_shared :]], longest)) for m in batch.micro_batches]
    losses = [micro_batch_loss(shared, own, m, layout, plain.model.decoder, config.train) for m, own in parts]
    pools = shared.split(layout.sections[: layout.head])
    compared = torch.cat([pools[pool][:n] for pool, n, _ in layout.directions])
    losses.append(isotropy_loss(compared, layout, config.train))
    sum(loss["total"] for loss in losses).backward()
    for a, b in zip(stepped.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, torch.zeros_like(a) if b.grad is None else b.grad, atol=1e-5, rtol=1e-5)


def test_no_message_passes_along_a_supervised_fact(graph, split, trainee):
    """Nor along its mirror. The masked embeddings are those of a message graph built from the other facts alone, and differ from the
    whole one's."""
    encoder = trainee.model.encoder.eval()
    batch = trainee.batches.draw(0, 0)
    facts = split.of(TRAIN)
    named = [(h, graph.edge_types[r][1], t) for h, r, t in facts.T.tolist()]
    asked = {named[f] for f in of_batch(batch, trainee.batches.num_train).tolist()}
    stays = torch.tensor([fact not in asked and fact[::-1] not in asked for fact in named])
    edges = {}
    for r, (head_type, name, tail_type) in enumerate(graph.edge_types):
        h, _, t = facts[:, stays & (facts[1] == r)]
        h, t = h - graph.offsets[head_type], t - graph.offsets[tail_type]
        if (head_type, name, tail_type) in graph.symmetric:
            edges[head_type, name, tail_type] = (torch.cat([h, t]), torch.cat([t, h]))
        else:
            edges[head_type, name, tail_type] = (h, t)
            edges[tail_type, f"rev_{name}", head_type] = (t, h)
    without = build_message_graph(graph.num_nodes, message_edge_types(graph), edges)
    with torch.no_grad():
        masked = encoder.encode(trainee.messages, removed_edges(trainee, batch))
        torch.testing.assert_close(masked, encoder.encode(without), atol=1e-5, rtol=1e-5)
        assert (masked - encoder.encode(training_message_graph(graph, split))).abs().max() > 1e-2


@pytest.mark.parametrize("directed", [(), ("paired",)], ids=["of one edge type", "of two edge types"])
def test_a_supervised_facts_mirror_is_silent(make_graph, make_config, directed):
    """(b, follows, a) beside (a, follows, b): the split holds the two out together, so no ranked fact has the other among its messages."""
    rng, names = np.random.default_rng(0), [f"p{i:02}" for i in range(60)]
    ends = [(names[a], names[b]) for a, b in rng.integers(60, size=(300, 2)) if a != b]
    rows = [("person", a, "follows", "person", b) for a, b in ends] + [("person", b, "follows", "person", a) for a, b in ends[::5]]
    rows += [("person", a, "reads", "book", b) for a, b in ends]
    if directed:
        rows += [("person", a, "paired", "book", b) for a, b in ends] + [("book", b, "paired", "person", a) for a, b in ends[::3]]
    graph = make_graph(rows, directed_relations=directed)
    assert not graph.symmetric
    config = make_config(directed_relations=directed)
    batches = Batches(graph, split_facts(graph, config.split), config)
    facts = [(h, graph.edge_types[r][1], t) for h, r, t in batches.facts.T.tolist()]
    place, mirrored = {fact: i for i, fact in enumerate(facts)}, set()
    for number in range(batches.num_batches):
        batch = batches.draw(0, number)
        supervised = set(of_batch(batch, batches.num_train).tolist())
        mirrors = {place[facts[f][::-1]] for f in supervised if facts[f][::-1] in place}
        assert set(batch.silent.tolist()) - {batches.num_train} == supervised | mirrors
        mirrored |= {facts[m][1] for m in mirrors}
    assert mirrored == {"follows", *directed}


def test_without_mirrors_nothing_is_kept_for_them(make_graph):
    graph = make_graph([("drug", "a", "treats", "disease", "b"), ("gene", "g", "binds", "gene", "h"), ("gene", "g", "binds", "gene", "i")])
    facts = np.concatenate(
        [np.stack([h.numpy(), np.full(len(h), r), t.numpy()]) for r, (h, t) in enumerate(map(graph.global_facts, graph.edge_types))], 1
    )
    assert len(mirror_facts(graph, facts)) == 0


def test_edge_dropout_leaves_out_its_share_of_facts(graph, split, make_config):
    config = make_config(edge_dropout=0.25)
    batches = Batches(graph, split, config, 2)
    plain = Batches(graph, split, make_config(), 2)
    left_out = []
    for number in range(20):
        batch, without = batches.draw(0, number % batches.num_batches), plain.draw(0, number % batches.num_batches)
        assert torch.equal(batch.supervised, without.supervised)
        more = set(batch.silent.tolist()) - set(without.silent.tolist())
        left_out.append(len(more) / (batches.num_train - len(set(without.silent.tolist()))))
    assert sum(left_out) / len(left_out) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(batches.draw(0, 1).silent, batches.draw(0, 1).silent)
    assert not torch.equal(batches.draw(0, 1).silent, batches.draw(1, 1).silent)
