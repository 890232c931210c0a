"""Optional packages that a recipe's data sets need, and what is left of a recipe on a machine without them.

    media:
      spoken: {needs: espeakng_loader}

Where a module is missing, its data sets, what is made from them and their scores are left out, and it is said. Nothing
else of the recipe changes.
"""

import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tasks.stage import recipe
from tasks.stage.config import nearest
from tasks.stage.errors import ConfigError
from tasks.stage.recipe import MEDIA, NEEDS, OWN_KEYS, Graph

EXTRAS = {"espeakng_loader": "speech", "num2words": "vision", "torchvision": "vision"}
"""Modules to the extra of `polm` that installs them."""


def missing(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Map the data sets that cannot be made here to the modules that they lack."""
    lacking = {
        name: tuple(module for module in model.needs if not _is_here(module)) for name, model in graph.models.items()
    }
    return {name: modules for name, modules in lacking.items() if modules}


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of `a.b`, where there is no `a`
        return False


def remedy(modules: tuple[str, ...]) -> str:
    """Say how modules are installed: by an extra of `polm`. Of others neither package nor spelling is known."""
    extras = dict.fromkeys(f"'polm[{EXTRAS[module]}]'" for module in modules if module in EXTRAS)
    said = [f"`pip install {' '.join(extras)}`"] if extras else []
    for module in (module for module in modules if module not in EXTRAS):
        near = nearest(module, EXTRAS)
        hint = f"; did you mean {near}?" if near else f": install the package that has it, or correct `{NEEDS}`"
        said.append(f"{module} is in no extra of polm{hint}")
    return "; ".join(said)


def left_out(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Map everything that is not made here, data sets and what is made from them, to the modules that are missing."""
    causes = missing(graph)
    found: dict[str, tuple[str, ...]] = {}
    for name in graph.models:
        lacked = sorted({module for source in _sources(graph, name) for module in causes.get(source, ())})
        if lacked:
            found[name] = tuple(lacked)
    return found


def _sources(graph: Graph, name: str) -> set[str]:
    """List a name and everything that it is made from, and asked about."""
    passed: set[str] = set()
    ahead = [name]
    while ahead:
        one = ahead.pop()
        if one not in passed:
            passed.add(one)
            ahead += graph.models[one].parents.values() if one in graph.models else ()
    return passed


def without(graph: Graph) -> Graph:
    """Return what is left of a graph here: without what is left out, and without claims over it."""
    causes, gone = missing(graph), left_out(graph)
    if not gone:
        return graph
    models = {name: model for name, model in graph.models.items() if name not in gone}
    for name, model in models.items():
        if model.values.get("over") in gone:
            values = {key: value for key, value in model.values.items() if key not in OWN_KEYS}
            models[name] = replace(model, values=values)
    return replace(
        graph,
        models=models,
        evaluate=tuple(name for name in graph.evaluate if name not in gone),
        export=tuple(name for name in graph.export if name not in gone),
        evaluate_media=_kept(graph.evaluate_media, gone, causes),
        export_media=_kept(graph.export_media, gone, causes),
        evaluate_onnx_media={
            name: form for name, form in graph.evaluate_onnx_media.items() if _is_made(form, graph, gone, causes)
        },
        evaluate_onnx_rag={
            name: form for name, form in graph.evaluate_onnx_rag.items() if _is_made(form, graph, gone, causes)
        },
        evaluate_rag={
            name: asked for name, asked in graph.evaluate_rag.items() if not set(asked.values()) & {*gone, *causes}
        },
    )


def _kept(data_of: Mapping[str, str], gone: Collection[str], causes: Collection[str]) -> dict[str, str]:
    """Leave out the models that are gone, and those that are asked about data that is not made."""
    return {name: data for name, data in data_of.items() if name not in gone and data not in causes}


def _is_made(form: Mapping[str, str], graph: Graph, gone: Collection[str], causes: Collection[str]) -> bool:
    """Whether a form of an export can be made and asked."""
    return form["data"] not in causes and form["model"] in _kept(graph.export_media, gone, causes)


def folders(graph: Graph) -> set[Path]:
    """List the folders below `artifacts` of everything that is left out: data, models, exports and scores."""
    rest = without(graph)
    made = {Path(kind, name) for name, kind in graph.kinds.items() if name not in rest.kinds}
    exports = {Path("onnx", name) for name in graph.exported if name not in rest.exported}
    return made | exports | {Path("metrics", name) for name in graph.scored if name not in rest.scored}


def notices(graph: Graph) -> Iterator[str]:
    """Say, in a line for each set of missing modules, what is left out here and how that is changed."""
    causes, gone = missing(graph), left_out(graph)
    gone = {name: gone[name] for name in sorted(gone, key=lambda name: name not in causes)}  # data sets first
    for modules in sorted(set(gone.values())):
        names = ", ".join(name for name, lacked in gone.items() if lacked == modules)
        yield f"left out here, without {', '.join(modules)}: {names}; {remedy(modules)}"


def require(params: Path) -> None:
    """Check that the data set of a recipe file can be made here.

    Args:
        params: the data set's file, `params/<recipe>/<name>.yaml`.

    Raises:
        ConfigError: the graph beside it says that the data set needs a module that is missing.
    """
    path = params.parent / recipe.FILE
    if not path.exists():
        return
    if modules := missing(recipe.read(path)).get(params.stem):
        raise ConfigError(
            f"{path}: {MEDIA}.{params.stem}.{NEEDS}: no module {', '.join(modules)} here; {remedy(modules)} "
            f"(`polm run` leaves out what needs it, `dvc repro` does not)"
        )
