"""Writes those seeds of `rows` that are files of parquet and Arrow, small ones: libFuzzer makes inputs of 8192 bytes. Needs pyarrow.

    python3 tests/fuzz/columns.py
"""

import datetime
import decimal
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

CORPUS = Path(__file__).parent / "corpus/rows"


def write(name, content):
    (CORPUS / f"seed-{name}").write_bytes(content)


def parquet(name, table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, store_schema=False, **options)
    write(f"parquet-{name}", b"p" + file.getvalue())


def arrow(name, table, make, rows=2, **options):
    file = io.BytesIO()
    with make(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table, max_chunksize=rows)
    write(f"arrow-{name}", b"a" + file.getvalue())


TEXT = pa.table({"q": [f"Say {index % 3}." for index in range(12)], "a": [None if index % 4 else "é" * index for index in range(12)]})
NUMBERS = pa.table({
    "bool": pa.array([True, None, False]),
    "i8": pa.array([-128, None, 127], pa.int8()),
    "u64": pa.array([0, None, 2**64 - 1], pa.uint64()),
    "f16": pa.array([0.5, None, 65504.0], pa.float16()),
    "f64": pa.array([0.1, float("inf"), 5e-324]),
})
INSTANT = datetime.datetime(2024, 1, 31, 12, 0, 0, 250_000)
TIMES = pa.table({
    "date": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)]),
    "time": pa.array([datetime.time(1, 2, 3, 4), None, datetime.time(23, 59)], pa.time64("us")),
    "ms": pa.array([INSTANT, None, INSTANT], pa.timestamp("ms", "UTC")),
    "decimal": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-12345678901234567890.12")], pa.decimal128(30, 2)),
    "small": pa.array([decimal.Decimal("0.001"), None, decimal.Decimal("-9.999")], pa.decimal128(4, 3)),
})
NESTED = pa.table({
    "messages": pa.array(
        [[{"role": "user", "content": "Hi."}, None], [], None], pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    ),
    "map": pa.array([[("k", 1), ("l", None)], [], None], pa.map_(pa.string(), pa.int64())),
    "fixed": pa.array([[1.5, 2.5], None, [5.5, None]], pa.list_(pa.float64(), 2)),
})
CATEGORIES = pa.table({"c": pa.array(["red", None, "red"]).dictionary_encode(), "n": pa.array([None, None, None], pa.null())})
BYTES = pa.table({"b": pa.array([b"abc", None, b"\xff\0"]), "f": pa.array([b"ab", b"cd", None], pa.binary(2)), "l": pa.array(["x", None, ""], pa.large_string())})
TABLES = {"text": TEXT, "numbers": NUMBERS, "times": TIMES, "nested": NESTED, "categories": CATEGORIES, "bytes": BYTES}

if __name__ == "__main__":
    for name, table in TABLES.items():
        parquet(name, table, compression="none")
        arrow(name, table, pa.ipc.new_stream)
    for packing in ["snappy", "gzip", "zstd", "lz4"]:
        parquet(packing, TEXT, compression=packing)
    parquet("groups", TEXT, compression="none", row_group_size=5, data_page_size=16, write_batch_size=2)
    parquet("pages-v2", TEXT, compression="zstd", data_page_version="2.0", data_page_size=16, write_batch_size=2)
    parquet("plain", TEXT, compression="none", use_dictionary=False)
    delta = {"q": "DELTA_BYTE_ARRAY", "a": "DELTA_LENGTH_BYTE_ARRAY"}
    parquet("delta", TEXT, compression="none", use_dictionary=False, column_encoding=delta)
    whole = pa.table({"n": list(range(40)), "f": [index / 3 for index in range(40)]})
    packed = {"n": "DELTA_BINARY_PACKED", "f": "BYTE_STREAM_SPLIT"}
    parquet("delta-numbers", whole, compression="none", use_dictionary=False, column_encoding=packed)
    arrow("file", TEXT, pa.ipc.new_file, rows=5)
    arrow("packed", TEXT, pa.ipc.new_file, compression="zstd")
    views = pa.table({"v": pa.array(["short", "a text that is longer than twelve", None], pa.string_view())})
    arrow("views", views, pa.ipc.new_stream)
