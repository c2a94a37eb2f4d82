"""`jobs.retrain`: run jobs.train on a schedule, as a daemon or one step at a time; show, export and report it."""
