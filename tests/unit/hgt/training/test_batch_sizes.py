"""Sizes that are computed from counts are those of the batches that are drawn."""

import pytest

from hgt.graph.split import split_facts
from hgt.training.batch_sizes import batch_sizes
from hgt.training.batches import Batches


@pytest.mark.parametrize(
    "values",
    [{}, {"edge_sample_size": 10, "min_batches_per_epoch": 1}, {"contrastive_weight": 0.0}],
)
@pytest.mark.parametrize("num_parts", [1, 3, 64])
def test_a_batch_is_planned_as_it_is_drawn(graph, split, make_config, values, num_parts):
    """A small edge type is spread over as many batches as the largest needs: it must not be
    planned at full size.
    """
    config = make_config(**values)
    sizes, layout = batch_sizes(graph, config), Batches(graph, split, config, num_parts).layout
    assert layout.num_facts <= sizes.facts(num_parts) <= 1.1 * layout.num_facts
    assert layout.num_rows <= sizes.rows(num_parts) <= 1.2 * layout.num_rows
    assert sizes.width == layout.width


@pytest.mark.parametrize("num_parts", [1, 4])
def test_a_holdout_split_is_planned_with_all_the_facts_that_train(graph, make_config, num_parts):
    config = make_config(split="disease-holdout", val_fraction=0.3, test_fraction=0.3)
    sizes, layout = (
        batch_sizes(graph, config),
        Batches(graph, split_facts(graph, config.split), config, num_parts).layout,
    )
    assert layout.num_facts <= sizes.facts(num_parts) <= 1.2 * layout.num_facts
    assert layout.num_rows <= sizes.rows(num_parts) <= 1.2 * layout.num_rows
