"""Training: batches, losses, the optimizer step and the average of the weights.

In: a graph, its split, the configuration and a device. Out: a trainee whose weights each step
changes, the losses of each step, and ranks of validation facts between epochs. The room does not
know runs, checkpoints or events: whoever trains decides when to save, to report and to stop.
"""
