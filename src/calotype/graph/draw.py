"""Drawing a pipeline's graph: as text for a terminal, as SVG, and as HTML for a notebook."""

from dataclasses import dataclass
from html import escape

from calotype.graph.graph import Graph
from calotype.graph.hints import accepts_none, bare, spell
from calotype.graph.inputs import RESERVED
from calotype.graph.node import Node

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 230, 66, 28, 46, 18
UNIT, LOOP = "#f7f3e8", "#f3ddd3"


def draw_text(graph: Graph) -> str:
    """A line per node: what it reads, its components in brackets, what it writes. `?` marks what may be None."""
    inputs = [_input_text(graph, name) for name in graph.inputs if name not in RESERVED]
    lines = [f"{graph.owner}({', '.join(inputs)})"]
    width = max(len(n.name) for n in graph.nodes)
    for node in graph.nodes:
        marks = "*" if node.is_loop else " "
        uses = f" [{', '.join(node.uses)}]" if node.uses else ""
        reads = ", ".join(f"{w}?" if accepts_none(h) else w for w, h in node.reads.items())
        lines.append(f" {marks} {node.name.ljust(width)}{uses}  {reads} -> {', '.join(node.writes)}")
    components = [f"{n}: {spell(bare(h))}" for n, h in graph.components.items()]
    lines.append(f"components: {', '.join(components)}")
    return "\n".join(lines)


def _input_text(graph: Graph, name: str) -> str:
    field = graph.inputs[name]
    return name if field.required else f"{name}={field.default!r}"


@dataclass(frozen=True)
class _Box:
    """A node on the sheet, with its upper left corner."""

    x: int
    y: int
    node: Node
    inputs: tuple[str, ...]


def draw_svg(graph: Graph) -> str:
    """The graph as a standalone SVG: a box for each node with its components and the inputs that it reads, below the
    boxes that make what else it reads. Hovering shows what a unit does and which wire a line is."""
    boxes = _layout(graph)
    width = max(b.x for b in boxes.values()) + BOX_WIDTH + MARGIN
    height = max(b.y for b in boxes.values()) + BOX_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12">',
        f"<title>{escape(graph.owner)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
    ]
    parts += [_edge(boxes[source], boxes[target], wires) for (source, target), wires in _edges(graph).items()]
    parts += [_box(box) for box in boxes.values()]
    return "\n".join([*parts, "</svg>"])


def draw_html(graph: Graph) -> str:
    """The SVG with a caption, as a notebook shows a pipeline."""
    components = ", ".join(f"<code>{escape(n)}</code>: {escape(spell(bare(h)))}" for n, h in graph.components.items())
    return f"<figure><figcaption><b>{escape(graph.owner)}</b> {components}</figcaption>{draw_svg(graph)}</figure>"


def _edges(graph: Graph) -> dict[tuple[str, str], list[str]]:
    """The wires that pass from one node to another, from the node that made each last."""
    maker: dict[str, str] = {}
    found: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        for wire in node.reads:
            if wire in maker:
                found.setdefault((maker[wire], node.name), []).append(wire)
        maker.update(dict.fromkeys(node.writes, node.name))
    return found


def _layout(graph: Graph) -> dict[str, _Box]:
    """Every node in the row below all that it depends on, as near below them as there is room."""
    edges = _edges(graph)
    row: dict[str, int] = {}
    for node in graph.nodes:
        row[node.name] = max((row[source] + 1 for source, target in edges if target == node.name), default=0)
    rows = [[n for n in graph.nodes if row[n.name] == number] for number in range(max(row.values()) + 1)]
    made: set[str] = set()
    inputs: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes:
        inputs[node.name] = tuple(w for w in node.reads if w in graph.inputs and w not in made)
        made |= set(node.writes)
    boxes: dict[str, _Box] = {}
    for number, nodes in enumerate(rows):
        wanted = [_below(boxes, [s for s, t in edges if t == node.name], place) for place, node in enumerate(nodes)]
        for place, node in zip(_apart(wanted), nodes, strict=True):
            y = MARGIN + number * (BOX_HEIGHT + GAP_Y)
            boxes[node.name] = _Box(place, y, node, inputs[node.name])
    return boxes


def _below(boxes: dict[str, _Box], sources: list[str], place: int) -> int:
    """Where a node would best be: below the middle of what it reads."""
    if not sources:
        return MARGIN + place * (BOX_WIDTH + GAP_X)
    return sum(boxes[source].x for source in sources) // len(sources)


def _apart(wanted: list[int]) -> list[int]:
    """Places near those wanted, in the same order from left to right, that do not overlap."""
    placed = dict.fromkeys(range(len(wanted)), 0)
    free = MARGIN
    for number in sorted(placed, key=lambda n: wanted[n]):
        placed[number] = max(free, wanted[number])
        free = placed[number] + BOX_WIDTH + GAP_X
    return list(placed.values())


def _box(box: _Box) -> str:
    node, middle = box.node, box.x + BOX_WIDTH // 2
    fill = LOOP if node.is_loop else UNIT
    lines = [(22, "#000", "600", node.name), (39, "#777", "400", ", ".join(node.uses)),
             (55, "#2a5b9c", "400", ", ".join(box.inputs))]  # fmt: skip
    texts = "".join(
        f'<text x="{middle}" y="{box.y + down}" text-anchor="middle" fill="{colour}" font-weight="{weight}" '
        f'font-size="{12 if down == 22 else 10}">{escape(_short(text))}</text>'
        for down, colour, weight, text in lines
        if text
    )
    hint = "\n".join(part for part in (node.doc, f"inputs: {', '.join(box.inputs)}" if box.inputs else "") if part)
    return (
        f'<g><title>{escape(hint)}</title><rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="7" fill="{fill}" stroke="#999"/>{texts}</g>'
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _edge(source: _Box, target: _Box, wires: list[str]) -> str:
    x1, y1 = source.x + BOX_WIDTH // 2, source.y + BOX_HEIGHT
    x2, y2 = target.x + BOX_WIDTH // 2, target.y
    bend = (y2 - y1) // 2
    return (
        f'<path d="M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}" fill="none" stroke="#777" opacity="0.7" '
        f'marker-end="url(#tip)"><title>{escape(", ".join(wires))}</title></path>'
    )
