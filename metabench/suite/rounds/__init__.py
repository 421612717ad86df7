"""The cells of a setting timed side by side: a process each, in turns, so that whatever drifts on the machine meets them all alike."""
