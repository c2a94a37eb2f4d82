"""Everything about Ray: connections, lanes of tasks, deployment. Knows nothing of TensorFlow or of trials."""
