"""What the enforcer says of itself: status, probes, metrics, and the commands that ask."""
