"""Orchestration only: the flows, and the command line that starts them. Which task follows which is
decided here; what a task does is in `tasks`, what it computes in `hgt`.
"""
