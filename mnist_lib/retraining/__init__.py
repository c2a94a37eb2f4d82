"""Scheduled retraining: when a schedule is due, what happened to each slot, and the retrainer, which runs slots."""
