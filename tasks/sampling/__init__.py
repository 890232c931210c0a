"""How answers are drawn, and scored fast."""
