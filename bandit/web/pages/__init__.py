"""What people open in a browser: server-rendered pages in one look, with nothing from any other host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The look and the parts of pages, which replay's reports are made of too.
STYLESHEET: Final = Path(__file__).parent / "static" / "look.css"
TEMPLATES: Final = Path(__file__).parent / "templates"
