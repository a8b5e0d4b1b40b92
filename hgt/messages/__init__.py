"""The edges that messages pass along, grouped and sorted once, so that each step works on few
tables.

In: a graph and the training facts. Out: a `MessageGraph` of all edges, or one of drawn edges for
each step. This room knows neither the layer that passes the messages nor the facts that a step
masks.
"""
