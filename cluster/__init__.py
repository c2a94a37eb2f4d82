"""Ray: sessions, resources, and generator tasks that fan out. Knows nothing of MNIST or TensorFlow."""
