"""Orchestration: the Prefect flow over DVC's graph, tracking, the registry and the `polm` command."""
