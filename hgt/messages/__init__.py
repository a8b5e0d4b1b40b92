"""The edges that messages pass along, laid out once so that every step works on few sorted groups.

In: a graph and the training facts. Out: a `MessageGraph` of all edges, or for each step one of
drawn edges. The room does not know the layer that passes the messages, nor which facts a step
masks.
"""
