"""The memory plan: what a run will take, and the largest form of a training step that fits.

In: the counts of a graph, a configuration and the limit of a device. Out: a `MemoryPlan`. Nothing
is allocated here. This room knows the shapes that the rooms below work with. It never changes
`embedding_dim`.
"""
