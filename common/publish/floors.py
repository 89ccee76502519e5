"""`make dag`: draws the floors of `common/` into `docs/floors.svg`, from the imports as they are.

One band a floor, highest first, with its modules and the lower floors that they import.
`import-linter` holds the order (pyproject.toml); this picture shows what it holds.
"""

import ast
import textwrap
from html import escape
from pathlib import Path

from common.core.files import write_text
from common.core.settings import ROOT

PICTURE = ROOT / "docs" / "floors.svg"
FLOORS = ("engine", "publish", "recipes", "saes", "interp", "toys", "data", "core")
WIDTH, LEFT, LINE, PADDING, CHARACTERS = 1000, 110, 18, 12, 84
STYLE = """
.paper{fill:#ffffff}.band{fill:#f6f8fa;stroke:#8c959f}.text{fill:#1f2328}.quiet{fill:#59636e}
@media (prefers-color-scheme:dark){.paper{fill:#0d1117}.band{fill:#151b23;stroke:#656c76}.text{fill:#f0f6fc}
.quiet{fill:#9198a1}}
"""


def modules(floor: str) -> list[Path]:
    """Modules of one floor, packages by their name."""
    folder = ROOT / "common" / floor
    return sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py" and "template" not in path.parts)


def imports(floor: str) -> set[str]:
    """The other floors that the modules of one floor import."""
    found = set[str]()
    for path in modules(floor):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            below = {name.split(".")[1] for name in names if name.startswith("common.")}
            found |= below & set(FLOORS) - {floor}
    return found


def picture() -> str:
    """The floors as one SVG without references to anything else."""
    drawn, y = [], 50
    for floor in FLOORS:
        folder = ROOT / "common" / floor
        names = ", ".join(str(path.relative_to(folder).with_suffix("")).replace("/", ".") for path in modules(floor))
        lines = textwrap.wrap(names, CHARACTERS)
        below = imports(floor)
        reached = ", ".join(name for name in FLOORS if name in below) or "no other floor"
        height = LINE * (len(lines) + 1) + 2 * PADDING
        drawn.append(f'<rect x="10" y="{y}" width="{WIDTH - 20}" height="{height}" rx="6" class="band"/>')
        drawn.append(_text(24, y + PADDING + 14, floor, "text", 15, ' font-weight="600"'))
        drawn += [_text(LEFT, y + PADDING + 14 + LINE * row, line, "text", 13) for row, line in enumerate(lines)]
        drawn.append(_text(LEFT, y + height - PADDING, f"imports: {reached}", "quiet", 12))
        y += height + 8
    head = _text(14, 32, "The floors of common/: each imports only floors below it", "text", 18, ' font-weight="600"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" role="img" '
        "font-family=\"system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\">"
        f"<title>The floors of common/</title><style>{STYLE}</style>"
        f'<rect width="{WIDTH}" height="{y + 4}" class="paper"/>\n{head}\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _text(x: int, y: int, content: str, css: str, size: int, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{css}" font-size="{size}"{more}>{escape(content)}</text>'


if __name__ == "__main__":
    write_text(PICTURE, picture())
    print(f"{PICTURE.relative_to(ROOT)} shows the floors as they are now")
