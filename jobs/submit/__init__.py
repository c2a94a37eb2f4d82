"""`jobs.submit`: send jobs.train to a Ray cluster as a job, follow jobs, stop them."""
