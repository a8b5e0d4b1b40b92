"""In: a machine, or two runs of one configuration. Out: what is known to be wrong with the
machine's torch and devices, whether its accelerator computes what its CPU computes, and whether two
trainings agree. It changes nothing in a run.
"""
