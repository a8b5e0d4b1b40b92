"""What differs by device, in one table (`traits.py`), and what follows from it.

In: a device's type, as torch names it ("mps", "cuda", "cpu"), and a memory limit. Out: what was
found on this machine, a device that refuses what does not fit, the memory in use, and whether an
exception or a dead program ran out of memory. Knows no graph, no model, no kernels and no plan:
they read the table.
"""
