"""The command that copies runs to MLflow."""
