"""Ranks of validation facts between epochs, with the weights as they are.

In: a trainee and held-out facts. Out: `RankingMetrics`. It does not know what follows from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import RankingMetrics, rank_typed
from hgt.training.trainee import Trainee


@torch.no_grad()
def evaluate_val(trainee: Trainee, facts: Tensor, index: FactIndex) -> RankingMetrics:
    """Ranks held-out facts among nodes of the right type, with messages along all training edges.

    facts: [3, num_facts] head, relation, tail.
    """
    trainee.model.eval()
    with trainee.averaged():
        embeddings = trainee.model.encoder.encode(trainee.messages.to(trainee.device))
        return rank_typed(embeddings, trainee.model.decoder, facts, index)
