# What componentize-py asks for: the interface by name. Its resource is the class in `prompt_strategy.py`.
from wit_world import exports


class PromptStrategy(exports.PromptStrategy):
    pass
