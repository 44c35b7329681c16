"""Countdown: reach a number from given ones by + - * /. The data, and a reward for them.

python docs/recipes/countdown.py > countdown.jsonl     # 2,000 problems, each with a solution
python jobs/prompts.py --config docs/recipes/countdown.toml --data.path countdown.jsonl \
    --task.reward docs/recipes/countdown.py:reached

The reward has TRL's signature: GRPOTrainer takes it as it is.
"""

import ast
import json
import operator
import random
import re

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
PROMPT = "Use each of the numbers {numbers} once, with + - * / and brackets, to make {target}."


def reached(completions, numbers, target, **kwargs):
    """1 where what follows <answer> uses each number once and makes the target; .1 for its form.

    Where </answer> is a stop string, the function sees the text before it.
    """
    return [
        judge(text if isinstance(text, str) else text[0]["content"], given, wanted)
        for text, given, wanted in zip(completions, numbers, target, strict=True)
    ]


def judge(text, numbers, target):
    found = re.findall(r"<answer>([\d\s+\-*/().]{1,100})(?:</answer>|$)", text)
    if not found:
        return 0.0
    if sorted(map(int, re.findall(r"\d+", found[-1]))) != sorted(numbers):
        return 0.1
    try:
        value = evaluate(ast.parse(found[-1].strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return 0.1
    return 1.0 if abs(value - target) < 1e-6 else 0.1


def evaluate(node):
    """The value of a tree of sums; nothing else is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right))
    raise ValueError("no sum of numbers")


def problems(count, seed=0):
    """Rows of three or four numbers and a target that they reach."""
    rng = random.Random(seed)
    while count:
        numbers = [rng.randint(1, 50) for _ in range(rng.choice((3, 4)))]
        target = numbers[0]
        for number in numbers[1:]:
            target = rng.choice((operator.add, operator.sub, operator.mul))(target, number)
        if 10 <= target <= 200:
            count -= 1
            rng.shuffle(numbers)
            text = PROMPT.format(numbers=", ".join(map(str, numbers)), target=target)
            yield {"prompt": text, "numbers": numbers, "target": target}


if __name__ == "__main__":
    for row in problems(2000):
        print(json.dumps(row))
