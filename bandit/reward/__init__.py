"""Signals become a reward: what is worked out from them, formulas, and presets to begin with. Pure."""
