"""Ways to deploy and schedule the job: Dockerfile, kubernetes/, launcher/, and files for other schedulers."""
