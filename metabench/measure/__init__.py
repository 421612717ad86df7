"""What a call costs and where: memory to the byte, time, outcome, environment."""
