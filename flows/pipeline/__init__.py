"""The Prefect flow over DVC's graph: sessions, flow runs, the check of the recipe before them."""
