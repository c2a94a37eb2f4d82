"""Datasets: from a name in the catalog to arrays, and from arrays to the batches that training and evaluation use."""
