"""What a run leaves behind: its own folder, and a version of each model. Only the driver writes here."""
