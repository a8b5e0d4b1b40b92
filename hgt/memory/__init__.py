"""In: the counts of a graph, a configuration and the limit of a device. Out: a `MemoryPlan` with
the largest form of a training step that fits. Nothing is allocated here. It knows the shapes that
the rooms below work with, and never changes `embedding_dim`.
"""
