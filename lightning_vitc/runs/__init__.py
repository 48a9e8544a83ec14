"""What a run has on disk: its directory, records, checkpoints; and where its network starts from."""
