"""In: a run and the counts that its memory plan is computed from. Out: its programs run to their
end: in a child process, in a container that is started directly, or through Prefect's Docker work
pool. When memory runs out, the ladder names the next place. This is the only room that knows
Docker; it knows no MLflow.
"""
