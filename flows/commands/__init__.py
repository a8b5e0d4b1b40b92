"""The commands of `hgt`, by topic.

In: options. Out: a printed answer and an exit code. Every command imports large libraries inside
its function, so that `hgt --help` answers at once.
"""
