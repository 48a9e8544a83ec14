"""Schedules and run-time behavior, one file a callback. Import as `lightning_vitc.callbacks`."""
