"""The services of `hgt up`, `hgt down` and `hgt status`.

Out: a Prefect server, an MLflow server and a worker for each work pool on this machine. They listen
only on the loopback address. Knows no run.
"""
