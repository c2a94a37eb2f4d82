"""`jobs.retrain`: run jobs.train on a schedule, as a daemon or step by step; show and export it; send notices."""
