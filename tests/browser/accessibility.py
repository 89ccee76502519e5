"""What a screen reader would miss on a page, by Chromium's accessibility tree, which is what they get, and by axe-core.

axe-core knows the rules of WCAG; what it leaves open (names of tables, one heading of level 1) is read from the tree.
"""

from itertools import pairwise

from axe_playwright_python.sync_playwright import Axe

CONTROLS = {"button", "link", "textbox", "searchbox", "combobox", "radio", "checkbox", "DisclosureTriangle"}
PICTURES = {"image", "img", "graphics-document"}
HEADERS = {"columnheader", "rowheader"}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def violations(page):
    """One line per element that breaks a rule of WCAG 2.2, levels A and AA, as axe-core finds it in the shown state."""
    options = {"runOnly": {"type": "tag", "values": WCAG}, "resultTypes": ["violations"]}
    broken = Axe().run(page, options=options).response["violations"]
    return [f"{rule['id']}: {node['target']} {node['html'][:120]}" for rule in broken for node in rule["nodes"]]


def tree(page):
    """All nodes that are not ignored: role, name, properties and their ancestors' roles, in reading order."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    known = {node["nodeId"]: node for node in nodes}

    def above(node):
        while (node := known.get(node.get("parentId"))) is not None:
            yield node

    return [
        {
            "role": node.get("role", {}).get("value"),
            "name": node.get("name", {}).get("value", "").strip(),
            "above": {one["nodeId"] for one in above(node)},
            "id": node["nodeId"],
            **{item["name"]: item["value"].get("value") for item in node.get("properties", [])},
        }
        for node in nodes
        if not node["ignored"]
    ]


def missed(page):
    """One sentence for everything that has no name, no place among the headings, or no landmark."""
    nodes, found = tree(page), []
    if not page.evaluate("document.documentElement.lang"):
        found.append("the page has no language")
    for node in nodes:
        if node["role"] in CONTROLS | PICTURES | {"Iframe", "region"} and not node["name"]:
            found.append(f"a {node['role']} has no name")
        if node["role"] in ("table", "grid"):
            headers = [one for one in nodes if node["id"] in one["above"] and one["role"] in HEADERS]
            if not headers:
                found.append(f"the table '{node['name']}' has no header cells")
            found += [f"a header cell of '{node['name']}' is empty" for one in headers if not one["name"]]
            if not node["name"]:
                found.append("a table has no name")
    levels = [node["level"] for node in nodes if node["role"] == "heading"]
    if levels.count(1) != 1:
        found.append(f"{levels.count(1)} headings of level 1")
    found += [f"heading of level {b} after {a}" for a, b in pairwise(levels) if b > a + 1]
    mains = [node for node in nodes if node["role"] == "main"]
    if len(mains) != 1:
        found.append(f"{len(mains)} main landmarks")
    navigations = [node["name"] for node in nodes if node["role"] == "navigation"]
    if len(navigations) > 1 and (len(set(navigations)) < len(navigations) or "" in navigations):
        found.append(f"navigations share a name: {navigations}")
    return found


def focus_order(page, count):
    """Names of what the tab key reaches, and whether each shows that it has the focus."""
    reached = []
    for _ in range(count):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
                  const name = one.getAttribute("aria-label") || one.textContent.trim() || one.title;
                  return [name, style.outlineStyle !== "none" || style.boxShadow !== "none",
                          box.right > 0 && box.bottom > 0 && box.width > 0];
                }"""
            )
        )
    return reached
