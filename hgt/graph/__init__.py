"""The graph: nodes, undirected facts, and their split into training, validation and test.

In: the rows of an `EdgeTable`. Out: a `KnowledgeGraph`, and an `EdgeSplit` that was audited for
leakage. Also here: a connected sample of a graph, the similarity of nodes, and the synthetic
demo graph. This room knows no message passing and no device.
"""
