"""In: the rows of an `EdgeTable`. Out: a `KnowledgeGraph` of nodes and undirected facts, and its
`EdgeSplit` into training, validation and test, audited for leakage. Also here: a connected sample
of a graph, the similarity of nodes, and the synthetic demo graph. It knows no message passing and
no device.
"""
