"""From the log to a model: fold, learn, probe, publish, and what is kept and deleted meanwhile."""
