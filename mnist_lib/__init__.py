"""What a trial is and how one is trained, evaluated and kept. Knows nothing of Ray."""
