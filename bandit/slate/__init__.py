"""A slate drawn with exact propensities: explorers, how much they may explore, and the rules that bind them. Pure."""
