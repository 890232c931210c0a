"""Who is asked which answer is better."""
