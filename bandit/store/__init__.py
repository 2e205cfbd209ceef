"""Where the log and the models live; alone here is SQL spoken."""
