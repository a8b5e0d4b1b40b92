"""Writes hgt/PARAMETERS.md, the table of all parameters, from `hgt/config/`.

    .venv/bin/python -m tests.parameters_page

In: the declarations. Out: one page, the parameters to change first, the rest by topic. It knows no
values of a run. `tests/test_readme.py` fails while the page differs from what this writes.
"""

from __future__ import annotations

import textwrap

from hgt.config import REQUIRED_CHECKS, parameters
from hgt.parameter import Parameter
from tests.conftest import CHECKOUT

PAGE = CHECKOUT / "hgt" / "PARAMETERS.md"
INTRODUCTION = """# Parameters

Every parameter of a run, with its default. `.venv/bin/python -m tests.parameters_page` writes this
page from `hgt/config/`.

- On the command line `num_epochs` is `--num-epochs 50`. A yes-or-no parameter is
  `--mixed-precision` or `--no-mixed-precision`.
- Repeat an option to give several values: `--baselines random --baselines degree`.
- In a Prefect deployment values are JSON: `-p num_epochs=50 -p 'baselines=["random", "degree"]'`.
- `hgt train --resume RUN` takes new values of the parameters marked "yes" under "resume". The
  others change the result, so they belong to a new run.
"""
TOPICS = {  # title: names of parameters
    "The twelve to change first": (
        """
        num_epochs device memory embedding_dim limit_nodes include_node_types
        edge_sample_size accumulation_steps learning_rate split baselines seed
    """
    ),
    "How the graph is read": "symmetric_relations directed_relations min_mirrored_share",
    "What is held out": "val_fraction test_fraction holdout_relations",
    "Model": (
        """
        hidden_dim num_layers num_heads decoder dropout input_dropout edge_dropout
        mixed_precision num_neighbors
    """
    ),
    "Optimizer and schedule": (
        """
        rate_decay_epochs min_rate_decay_steps weight_decay average_decay max_grad_norm
        min_batches_per_epoch
    """
    ),
    "Losses": (
        """
        num_negatives num_other_negatives softmax_correction isotropy_weight contrastive_weight
        contrastive_node_type contrastive_temperature similarity_threshold
    """
    ),
    "When training stops and saves": "patience num_val_edges checkpoint_minutes",
    "Memory, and what happens when it runs out": (
        """
        recompute_layers node_batch_size max_shrinks fallback docker_memory
    """
    ),
    "Baselines": "baseline_time",
    "Validation": (
        """
        required_checks max_mean_cosine min_components_90 min_effective_rank min_distinct_rows
        max_dead_dimensions min_type_spread max_tiny_norms min_type_accuracy min_mrr_over_chance
        max_norm_ratio min_plane_accuracy_over_chance min_silhouette min_disease_cosine
        max_disease_cosine min_similarity_correlation max_untrained_nodes
    """
    ),
}
VALUES = {  # what the declarations say in words
    "required_checks": "[checks](evaluation/README.md#checks)",
    "split": "random, TYPE-holdout",
    "memory": "a size: 16GB, 12.5GiB",
    "docker_memory": "a size: 16GB, 12.5GiB",
}
HEAD = "| parameter | default | values | resume | meaning |\n|---|---|---|---|---|"


def default_text(p: Parameter) -> str:
    """The default as `hgt train --help` shows it, without its unit."""
    if isinstance(p.default, bool):
        return "yes" if p.default else "no"
    if p.is_list and p.default:
        return ", ".join(p.default)
    if p.default is None or p.default == ():
        return "none"
    return f"{p.default:g}" if isinstance(p.default, float) else str(p.default)


def values_text(p: Parameter) -> str:
    """The values that a parameter takes; "" where any text is one."""
    if p.name in VALUES:
        return VALUES[p.name]
    if p.choices:
        return ", ".join(p.choices)
    if p.type is bool:
        return "yes, no"
    if p.range is None:
        return ""
    ends = (p.range.low, p.range.high)
    low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in ends)
    above, below = "above " * p.range.open_low, "below " * p.range.open_high
    return f"{above}{low} to {below}{high}"


def row(p: Parameter) -> str:
    default = "the ten below" if p.default == REQUIRED_CHECKS else default_text(p)
    if p.unit and default != "none":
        default += f" {p.unit}"
    meaning = p.help.replace("|", ",")
    resume = "" if p.changes_result else "yes"
    return f"| `{p.name}` | {default} | {values_text(p)} | {resume} | {meaning} |"


def page() -> str:
    """The whole page. Raises ValueError for a parameter that has no topic, or two."""
    known = {p.name: p for p in parameters()}
    placed = " ".join(TOPICS.values()).split()
    if sorted(placed) != sorted(known):
        odd = {n for n in [*placed, *known] if placed.count(n) != 1 or n not in known}
        raise ValueError(f"Give each parameter one topic in TOPICS: {', '.join(sorted(odd))}.")
    parts = [INTRODUCTION]
    for topic, names in TOPICS.items():
        rows = "\n".join(row(known[name]) for name in names.split())
        parts.append(f"## {topic}\n\n{HEAD}\n{rows}\n")
    checks = ", ".join(f"`{name}`" for name in REQUIRED_CHECKS)
    told = f"`required_checks` by default: {checks}."
    parts.append(textwrap.fill(told, 100, break_on_hyphens=False) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
