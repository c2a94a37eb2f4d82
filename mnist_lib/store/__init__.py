"""What is stored: a folder for each run, and numbered versions of each model with a log of champions.

Drivers and commands write to the store; workers never do."""
