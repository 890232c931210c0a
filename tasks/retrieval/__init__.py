"""How are passages found for a question, and put before the model that answers?"""
