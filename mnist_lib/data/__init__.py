"""Datasets: TensorFlow Datasets in, dense arrays between processes, tf.data batches out."""
