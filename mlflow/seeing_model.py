"""The registered model that sees or hears. `polm serve` and `polm chat` answer with it; `mlflow models serve` cannot.

MLflow's chat request has texts alone, so a picture or a sound has no way to it. The files are kept and versioned like
any other model's; asked through MLflow, it says where it answers.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SeeingChat(PythonModel):
    """Keeps the export in the artifact `onnx`."""

    def load_context(self, context: Any) -> None:
        """Check that the graphs are there. Raises MlflowException."""
        folder = Path(context.artifacts["onnx"])
        encoder = "audio.onnx" if (folder / "audio.onnx").is_file() else "vision.onnx"
        for name in (encoder, "embed_tokens.onnx", "model.onnx"):
            if not (folder / name).is_file():
                raise MlflowException.invalid_parameter_value(f"{folder}: no {name}; promote the model again")

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Refuse every request. Raises MlflowException, which the server turns into status 400.

        The type of `model_input` is one of which MLflow infers no signature: of `Any`, or of none, it warns.
        """
        raise MlflowException.invalid_parameter_value(
            "this model sees or hears, and MLflow's chat format has no pictures and no sounds: `polm serve` answers "
            "OpenAI's requests with `image_url` or `input_audio` parts"
        )


set_model(SeeingChat())
