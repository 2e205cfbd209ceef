"""From what a request says of viewers and items to the indices that VW gives it; nothing is parsed twice."""
