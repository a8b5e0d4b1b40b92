"""What the four programs do with a run: train, embed, evaluate, compare with baselines.

In: an open run, or any table of embeddings. Out: checkpoints, embeddings and reports in the run
folder. This room does not know processes, exit codes or the tasks that start a program.
"""
