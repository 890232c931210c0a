"""The servers that a command starts or calls: dashboards, Prefect, MLflow, and whether they answer."""
