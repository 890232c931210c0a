"""Is this machine fit for the pipeline?"""
