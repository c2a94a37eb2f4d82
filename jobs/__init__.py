"""Command lines: what people and schedulers call. Arguments, printing and exit codes; the work is done elsewhere."""
