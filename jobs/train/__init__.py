"""The command that trains: its options, its plan, the driver of a run, what it records and what it shows."""
