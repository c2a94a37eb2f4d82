"""The command that predicts the digits on pictures with a stored version."""
