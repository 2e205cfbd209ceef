"""Kills the service's processes under load, again and again, and holds what is left against what was promised."""
