"""The project's Markdown pages as HTML for the site.

Links are rewritten, and headings get the anchors that GitHub gives them. Tables are named by their heading and lie in a
region that scrolls by itself and can be reached by keyboard.
"""

import re
from collections.abc import Callable, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from common.publish.pages import MARKS

Address = Callable[[str], str | None]
Caption = Callable[[str], str]
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
PICTURE = re.compile(r'<p>(<img src="([^"]*)"[^>]*>)</p>')
SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
PRE = '<pre tabindex="0" role="region" aria-label="Commands">'


def html_of(text: str, address: Address, caption: Caption = lambda _: "") -> Markup:
    """A page of this project as HTML. A link without an address becomes plain text, and so does a picture. A picture
    that stands alone links to its file and has below it what `caption` says of its address."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens, heading = reader.parse(text), "Table"
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = LINK.sub(r"\1", tokens[number + 1].content)
            token.attrSet("id", anchor(heading))
        if token.type == "table_open":
            token.attrSet("aria-label", heading)
        if token.children:
            token.children = rewritten(token.children, address)
    found = str(reader.renderer.render(tokens, reader.options, {}))
    found = PICTURE.sub(lambda match: _figure(match[1], match[2], caption(match[2])), found)
    found = found.replace("<table ", f"{SCROLL}<table ").replace("</table>", "</table></div>")
    return Markup(found.replace("<pre>", PRE))


def _figure(image: str, address: str, caption: str) -> str:
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><a href="{address}">{image}</a>{said}</figure>'


def rewritten(tokens: Sequence[Token], address: Address) -> list[Token]:
    """Inline tokens with their links led to where the site has the file, or without the link."""
    kept, open_links = [], list[bool]()
    for token in tokens:
        if token.type == "link_open":
            target = address(str(token.attrGet("href")))
            open_links.append(target is not None)
            if target is not None:
                token.attrSet("href", target)
        if token.type in ("link_open", "link_close"):
            keep = open_links[-1] if token.type == "link_open" else open_links.pop()
            kept += [token] if keep else []
            continue
        if token.type == "image":
            picture = address(str(token.attrGet("src")))
            if picture is None:
                continue
            token.attrSet("src", picture)
        kept.append(token)
    return kept


def anchor(heading: str) -> str:
    """The anchor of a heading without links, as GitHub writes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def block_of(page: str, name: str) -> tuple[str, str, str]:
    """What stands before, in and behind the generated block of a page."""
    start, end = (mark.format(name=name) for mark in MARKS)
    before, _, rest = page.partition(start)
    kept, _, after = rest.partition(end)
    return before, kept, after


def first_words(page: str) -> str:
    """The page without its title, up to its second heading."""
    return re.split(r"^## ", page, maxsplit=1, flags=re.MULTILINE)[0].partition("\n")[2]
