"""A recipe's graph drawn: the models below the ones they were made from, and the whole in Mermaid's language."""

from tasks.stage.recipe import BASE, EMBED, FOLDERS, RETRIEVER, Graph, Model


def tree(graph: Graph) -> list[tuple[int, str, Model | None]]:
    """Every model below the one it was made from, depth first.

    Returns:
        (depth, name, model) for each; `base` first, with None for the model. Data sets and indexes are no models and
        left out; a retriever is made from no other model, and stands at the end.
    """
    children: dict[str, list[str]] = {}
    for name, model in graph.models.items():
        if FOLDERS.get(model.method, "labels") == "labels" and model.method != RETRIEVER:
            children.setdefault(model.values.get("from", BASE), []).append(name)
    rows: list[tuple[int, str, Model | None]] = []

    def add(depth: int, name: str) -> None:
        rows.append((depth, name, graph.models.get(name)))
        for child in children.get(name, []):
            add(depth + 1, child)

    add(0, BASE)
    rows += [(0, name, model) for name, model in graph.models.items() if model.method == RETRIEVER]
    return rows


def mermaid(graph: Graph) -> str:
    """Draw the graph in Mermaid: solid arrows from the model in `from`, dotted ones from the other inputs."""
    lines = ["graph LR", f"  {BASE}"]
    for name, model in graph.models.items():
        title = name if name == model.method else f"{name}<br/><small>{model.method}</small>"
        lines.append(f'  {name}["{title}"]')
    for name, model in graph.models.items():
        for key, parent in model.parents.items():
            arrow = "-->" if key == "from" else f"-. {key} .->"
            ends = (
                (name, "-. vectors .->", parent) if (model.method, key) == (EMBED, "index") else (parent, arrow, name)
            )
            lines.append(f"  {' '.join(ends)}")
    return "\n".join(lines)
