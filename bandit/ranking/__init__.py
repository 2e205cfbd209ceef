"""From candidates to a slate: scores from VW's weights, the draw, and the record that proves it."""
