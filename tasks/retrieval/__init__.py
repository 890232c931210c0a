"""How do documents become passages, and how is the passage found that answers a question?"""
