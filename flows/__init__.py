"""The flows, and the command line that starts them.

This package only decides the order of the tasks. `tasks` has the tasks, `hgt` the computations.
"""
