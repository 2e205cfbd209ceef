"""HTTP on the outside, `bandit.service` on the inside; nothing is decided here."""
