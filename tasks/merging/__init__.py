"""How several models become one."""
