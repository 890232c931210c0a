"""Is an answer right, and how sure is a mean?"""
