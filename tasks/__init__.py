"""The methods. One file per stage, `_name.py` for what stages share. Nothing here imports Prefect or MLflow."""
