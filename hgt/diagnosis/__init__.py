"""Diagnosis: does an accelerator compute the same as the CPU, and do two trainings agree?

In: a machine, or two runs of one configuration. Out: known issues of the machine's torch and
devices, a comparison of its accelerator with its CPU, or of the two trainings. This room
changes nothing in a run.
"""
