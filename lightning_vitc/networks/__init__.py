"""What a network is: its one description, what it costs, what of it is kept, and the families that build it."""
