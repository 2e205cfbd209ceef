"""What the log tells of viewers and items, as it stood at decision time: profiles, tallies, dense columns."""
