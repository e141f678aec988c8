"""Drawing a pipeline's graph: as text for a terminal, as SVG, and as HTML for a notebook."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from calotype.graph.graph import Graph
from calotype.graph.hints import accepts_none, bare, spell
from calotype.graph.inputs import RESERVED
from calotype.graph.node import Node

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 190, 46, 26, 44, 16
INPUT, UNIT, LOOP = "#e8eef7", "#f7f3e8", "#f3ddd3"


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
    x: int
    y: int
    title: str
    detail: str
    fill: str
    hint: str


def draw_svg(graph: Graph) -> str:
    """The graph as a standalone SVG: inputs above, each node below what it reads."""
    boxes = _layout(graph)
    width = max(b.x for b in boxes.values()) + BOX_WIDTH + MARGIN
    height = max(b.y for b in boxes.values()) + BOX_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(graph.owner)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#888"/></marker></defs>',
    ]
    for source, target, wire in _edges(graph):
        parts.append(_edge(boxes[source], boxes[target], wire))
    parts += [_box(box) for box in boxes.values()]
    return "\n".join([*parts, "</svg>"])


def draw_html(graph: Graph) -> str:
    """The SVG with a caption, as a notebook shows a pipeline."""
    components = ", ".join(f"<code>{escape(n)}</code>: {escape(spell(bare(h)))}" for n, h in graph.components.items())
    return f"<figure><figcaption><b>{escape(graph.owner)}</b> {components}</figcaption>{draw_svg(graph)}</figure>"


def _edges(graph: Graph) -> list[tuple[str, str, str]]:
    """(source box, target box, wire) for every wire that a node reads, from the node that made it last."""
    maker: dict[str, str] = {name: f"input {name}" for name in graph.inputs}
    found = []
    for node in graph.nodes:
        found += [(maker[wire], node.name, wire) for wire in node.reads]
        maker.update(dict.fromkeys(node.writes, node.name))
    return found


def _layout(graph: Graph) -> dict[str, _Box]:
    edges = _edges(graph)
    used = [name for name in graph.inputs if any(source == f"input {name}" for source, _, _ in edges)]
    rank: dict[str, int] = {f"input {name}": 0 for name in used}
    for node in graph.nodes:
        rank[node.name] = 1 + max((rank[s] for s, t, _ in edges if t == node.name), default=0)
    rows: dict[int, list[str]] = {}
    for name, row in rank.items():
        rows.setdefault(row, []).append(name)
    nodes: Mapping[str, Node] = {n.name: n for n in graph.nodes}
    boxes = {}
    for row, names in rows.items():
        for column, name in enumerate(names):
            x, y = MARGIN + column * (BOX_WIDTH + GAP_X), MARGIN + row * (BOX_HEIGHT + GAP_Y)
            boxes[name] = _node_box(x, y, nodes[name]) if name in nodes else _input_box(x, y, graph, name[6:])
    return boxes


def _node_box(x: int, y: int, node: Node) -> _Box:
    uses = ", ".join(node.uses)
    return _Box(x, y, node.name, uses, LOOP if node.is_loop else UNIT, node.doc)


def _input_box(x: int, y: int, graph: Graph, name: str) -> _Box:
    field = graph.inputs[name]
    return _Box(x, y, name, spell(field.hint), INPUT, field.doc)


def _box(box: _Box) -> str:
    middle = box.x + BOX_WIDTH // 2
    detail = box.detail if len(box.detail) <= 30 else box.detail[:29] + "…"
    return (
        f'<g><title>{escape(box.hint)}</title><rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" '
        f'rx="7" fill="{box.fill}" stroke="#999"/>'
        f'<text x="{middle}" y="{box.y + 19}" text-anchor="middle" font-weight="600">{escape(box.title)}</text>'
        f'<text x="{middle}" y="{box.y + 36}" text-anchor="middle" fill="#666" font-size="10">{escape(detail)}</text>'
        "</g>"
    )


def _edge(source: _Box, target: _Box, wire: str) -> str:
    x1, y1 = source.x + BOX_WIDTH // 2, source.y + BOX_HEIGHT
    x2, y2 = target.x + BOX_WIDTH // 2, target.y
    bend = (y2 - y1) // 2
    return (
        f'<path d="M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}" fill="none" stroke="#888" opacity="0.7" '
        f'marker-end="url(#tip)"><title>{escape(wire)}</title></path>'
    )
