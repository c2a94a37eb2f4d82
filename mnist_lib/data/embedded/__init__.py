"""The digits that lie in the package, as TensorFlow Datasets builders."""
