"""Who may ask, how often, and under which names it is kept. Pure."""
