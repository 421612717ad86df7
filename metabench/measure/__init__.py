"""The cost of a call: memory to the byte, time, outcome, environment."""
