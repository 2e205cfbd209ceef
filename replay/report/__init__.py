"""How an evaluation is told: a table on the terminal, a page in the browser."""
