"""Training: compiled steps, loop and evaluation, devices, checkpoints, trials from start to end, and reproduction."""
