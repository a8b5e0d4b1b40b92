"""The operations over edges and over nodes that the layers consist of, in formulations per device.

In: tensors, and the groups of edges of a message graph. Out: tensors, the same in every
formulation up to rounding. `choice.py` alone picks the formulation. Knows no layer, no loss and no
training step.
"""
