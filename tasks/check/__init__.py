"""Is a recipe right, before anything runs?"""
