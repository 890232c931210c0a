"""Sums worked out by column addition, as the tiny recipe's answers show them and its grader of steps expects them."""


def working(a: int, b: int) -> str:
    """Write out a column addition, lowest digit first: `8+7=15 5+6+1=12 so 125` for 58 + 67."""
    steps = []
    carry = 0
    x, y = a, b
    while x or y:
        s = x % 10 + y % 10 + carry
        steps.append(f"{x % 10}+{y % 10}{'+1' if carry else ''}={s}")
        carry, x, y = s // 10, x // 10, y // 10
    return f"{' '.join(steps)} so {a + b}"
