"""What ``server.py`` can be told beside serving: each command is a module with ``NAME`` and ``main``."""
