"""Writes tasks.jsonl: small functions with tests, the shape of MBPP. `python3 configs/code/make.py`; checks itself."""

import json
import pathlib

TASKS = [
    ("double a number", "double", "x", "x * 2", ["double(2) == 4", "double('a') == 'aa'"]),
    ("square a number", "square", "x", "x * x", ["square(3) == 9", "square(-2) == 4"]),
    ("add two numbers", "add", "a, b", "a + b", ["add(1, 2) == 3", "add(-1, 1) == 0"]),
    ("tell whether a number is even", "is_even", "n", "n % 2 == 0", ["is_even(4)", "not is_even(7)"]),
    ("reverse a string", "reverse", "s", "s[::-1]", ["reverse('abc') == 'cba'", "reverse('') == ''"]),
    ("count the words of a text", "words", "s", "len(s.split())", ["words('a b c') == 3", "words('') == 0"]),
    ("give the largest of a list", "largest", "xs", "max(xs)", ["largest([1, 5, 2]) == 5", "largest([-1]) == -1"]),
    ("sum a list", "total", "xs", "sum(xs)", ["total([1, 2, 3]) == 6", "total([]) == 0"]),
]

rows = []
for task, name, parameters, body, tests in TASKS:
    code = f"def {name}({parameters}):\n    return {body}\n"
    tests = [f"assert {test}" for test in tests]
    for test in tests:
        exec(code + test, {})
    rows.append({"instruction": f"Write a Python function `{name}` to {task}.", "output": code, "test_list": tests})
path = pathlib.Path(__file__).with_name("tasks.jsonl")
path.write_text("".join(json.dumps(row) + "\n" for row in rows))
