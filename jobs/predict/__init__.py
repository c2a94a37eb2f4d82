"""The command that predicts the digits in pictures with a stored version."""
