"""The command that predicts the classes of pictures with a stored version."""
