"""Which format do rows have, that nobody has described, and by which map do they become rows of a set?"""
