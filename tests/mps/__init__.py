"""The proof, made on Linux, that the training step runs on MPS: `test_mps_step.py` says how."""
