"""In: what a run has to tell: parameters, losses, files, a verdict. Out: one MLflow run and, when
it is accepted, a registered version. What cannot be delivered now is kept in the run folder and
delivered later; nothing here ends a training. This is the only room that knows MLflow.
"""
