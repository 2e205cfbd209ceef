"""Is it learning? Counts that the trainer keeps as it folds the log, and what they say."""
