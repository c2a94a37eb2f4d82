"""The files that let other schedulers run a command: a crontab, systemd units, a Kubernetes CronJob, a RayCronJob."""
