# What componentize-py asks for: the interface by name. Its resource is the class in `reward.py`.
from wit_world import exports


class Reward(exports.Reward):
    pass
