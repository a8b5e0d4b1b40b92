"""In: `hgt up`, `hgt down`, `hgt status`. Out: a Prefect server, an MLflow server and a worker for
each work pool, running on this machine and listening on the loopback address alone. It knows no
run.
"""
