"""Evaluation: ranks, classification figures, geometry, checks and verdict.

In: embeddings, a decoder and the held-out facts. Out: a `ValidationReport` that accepts or rejects
the embeddings. This room knows neither the training of the embeddings nor their run folder.
"""
