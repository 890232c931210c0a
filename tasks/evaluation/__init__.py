"""How lm-evaluation-harness is asked."""
