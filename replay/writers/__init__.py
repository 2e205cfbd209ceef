"""Writes logs in the shapes that others read."""
