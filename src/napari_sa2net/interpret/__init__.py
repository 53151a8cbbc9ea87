"""What the network looked at, and what would have changed its answer."""
