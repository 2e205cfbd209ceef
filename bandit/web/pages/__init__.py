"""What people open in a browser: server-rendered pages in one look, with nothing from any other host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

#: The look and the parts of pages, which replay's reports are made of too.
STYLESHEET: Final = Path(__file__).parent / "static" / "look.css"
TEMPLATES: Final = Path(__file__).parent / "templates"


def environment_of(*folders: Path) -> Environment:
    """How templates in some folders are rendered: everything escaped, and what is missing is an error."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
