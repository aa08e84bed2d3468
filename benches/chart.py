"""A chart of horizontal bars as SVG, which reads well on light and on dark ground."""
from xml.sax.saxutils import escape

WIDTH, COLUMNS, GAP, LABEL, VALUE = 1060, 2, 30, 205, 62
BAR, ROW, HEAD, MARGIN = 13, 18, 26, 16
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.value { font-variant-numeric: tabular-nums }
.other { fill: #afb8c1 } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .title { fill: #e6edf3 } .other { fill: #484f58 } .ours { fill: #58a6ff }
}
"""


def draw(panels, caption):
    """The chart of `panels`: each a title and pairs of a name and its seconds. What is ours is blue."""
    panels = [panel for panel in panels if panel[1]]
    width = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) // COLUMNS
    parts, top = [], MARGIN + 20
    for start in range(0, len(panels), COLUMNS):
        row = panels[start:start + COLUMNS]
        for column, (title, bars) in enumerate(row):
            parts += panel(MARGIN + column * (width + GAP), top, width, title, bars)
        top += HEAD + ROW * max(len(bars) for _, bars in row) + 18
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}" role="img">',
        "<title>Wall seconds, less is better</title>", f"<style>{STYLE}</style>",
        f'<text x="{MARGIN}" y="{MARGIN + 4}">Wall seconds, less is better. {escape(caption)}</text>', *parts, "</svg>\n"])


def panel(left, top, width, title, bars):
    room = width - LABEL - VALUE
    most = max(seconds for _, seconds in bars)
    parts = [f'<text class="title" x="{left}" y="{top + 12}">{escape(title)}</text>']
    for number, (name, seconds) in enumerate(bars):
        y = top + HEAD + ROW * number
        kind = "ours" if name.startswith("ftd") else "other"
        length = max(seconds / most * room, 1)
        parts += [f'<text x="{left + LABEL - 8}" y="{y + 10}" text-anchor="end">{escape(name)}</text>',
                  f'<rect class="{kind}" x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
                  f'<text class="value" x="{left + LABEL + length + 6:.1f}" y="{y + 10}">{seconds:.3g} s</text>']
    return parts
