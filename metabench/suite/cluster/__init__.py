"""What a cluster has, what the jobs of a suite ask of it, and whether the two go together."""
