"""Which models can be promoted: those with an export, which is what is served."""

import contextlib

from tasks.stage import artifact, recipe
from tasks.stage.artifact import ONNX
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError, GateError


def require(model: str) -> None:
    """Ask for the export of a model of the active recipe.

    Args:
        model: name of the model.

    Raises:
        GateError: it has none; the message says what makes one.
    """
    made = [path.parent.name for path in sorted(ONNX.glob(f"*/{artifact.MANIFEST}"))]
    if model in made:
        return
    graph = None
    with contextlib.suppress(ConfigError):  # without a graph, what there is
        graph = recipe.read(recipe.ACTIVE)
    path = f"params/{graph.recipe}/{recipe.FILE}" if graph is not None else str(recipe.ACTIVE)
    if graph is not None and model in graph.exported:
        raise GateError(f"{model}: not exported yet ({ONNX / model}); `polm run` exports and evaluates it")
    if graph is not None and model in graph.models:
        can = f"; without that, you can promote {', '.join(made)}" if made else ""
        raise GateError(f"{model}: what is served is an export; add it to 'export' in {path}, and `polm run`{can}")
    raise GateError(
        f"no exported model '{model}' in {ONNX}{suggest(model, made)} (made by `polm run`, for the models that "
        f"the recipe's graph, {path}, names under `export`)"
    )
