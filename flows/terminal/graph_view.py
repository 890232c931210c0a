"""`polm graph`: the active recipe's graph as a tree, or in Mermaid's language."""

from rich.markup import escape
from rich.tree import Tree

from flows.terminal.board import screen
from tasks.stage import dag, drawing, needs, recipe


def show(*, mermaid: bool) -> None:
    """Print the graph. Raises ConfigError when it does not fit `dvc.yaml`."""
    graph = dag.active()
    if mermaid:
        screen().print(drawing.mermaid(graph), markup=False, highlight=False, soft_wrap=True)
    else:
        screen().print(tree(graph))
        for notice in needs.notices(graph):
            screen().print(f"[yellow]{escape(notice)}[/]", soft_wrap=True)


def tree(graph: recipe.Graph) -> Tree:
    """Every model below the one it was made from, with its method, its other inputs and its claim."""
    gone = needs.left_out(graph)
    root = Tree(f"[bold]{escape(graph.recipe)}[/]", guide_style="dim")
    branches = [root]
    for depth, name, model in drawing.tree(graph):
        del branches[depth + 1 :]
        label = _label(graph, name, model) + ("  [yellow](left out here)[/]" if name in gone else "")
        branches.append(branches[depth].add(label))
    return root


def _evaluated(graph: recipe.Graph) -> set[str]:
    readers = {asked["model"] for asked in graph.evaluate_rag.values()}
    return {*graph.evaluate, *graph.evaluate_media, *readers}


def _label(graph: recipe.Graph, name: str, model: recipe.Model | None) -> str:
    parts = [f"[bold]{escape(name)}[/]"]
    if model is not None:
        entry = f".{model.values['method']}" if "method" in model.values else ""
        parts.append(f"[cyan]{escape(model.method + entry)}[/]")
        others = [f"{key} {parent}" for key, parent in model.parents.items() if key != "from"]
        parts += [f"[dim]{escape(', '.join(others))}[/]"] if others else []
        if "claim" in model.values:
            over = f" over {model.values['over']}" if "over" in model.values else ""
            parts.append(f"[green]claims {escape(model.values['claim'] + over)}[/]")
    uses = [word for word, names in (("evaluated", _evaluated(graph)), ("exported", graph.exported)) if name in names]
    if model is not None and model.method == recipe.RETRIEVER:
        uses.append("measured by itself")
    parts += [f"[dim]({', '.join(uses)})[/]"] if uses else ["[yellow](not evaluated)[/]"]
    return "  ".join(parts)
