"""Models: the interface of all models, the Keras models, and the model from scratch."""
