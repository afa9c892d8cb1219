# What componentize-py asks for: the interface by name. Its resource is the class in `row_filter.py`.
from wit_world import exports


class RowFilter(exports.RowFilter):
    pass
