"""The budget: what it means, what is reachable, and the search, gates and projection that meet it."""
