"""Several runs of one experiment: which, how they are run, and what they say together."""
