"""`jobs.submit`: send jobs.train or jobs.search to a Ray cluster as a job, and follow it."""
