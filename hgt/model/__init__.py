"""The model: Heterogeneous Graph Transformer layers, the encoder, decoders, and a shallow model.

In: a message graph and the model's parameters. Out: an embedding for every node, and scores of
facts from embeddings alone. The room does not know batches, losses or files, nor which facts are
training facts.
"""
