"""Searches for architectures: strategies, fitness that is paid for, and tables in which every search has a true regret."""
