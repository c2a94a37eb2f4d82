"""Training: compiled steps, the loop and the evaluation, devices, checkpoints, and trials from start to end."""
