"""Other engines over an export: the SQL and the pipe of docs/audit-at-scale.md, as they stand there.

Arguments: the program `hawser`, a folder with `export` and `registry.evidence`, and the page. Prints `equal` at the end.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import datafusion
import duckdb
from pyspark.sql import SparkSession, functions as f

hawser, folder, page = sys.argv[1:4]
page = open(page).read()
os.chdir(folder)
registry = os.path.abspath("registry.evidence")
statements = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", page, re.S)
    for statement in block.split(";")
    if statement.strip()
]
views, queries = statements[:3], statements[3:]


def hawser_json(*arguments):
    done = subprocess.run([hawser, *arguments], capture_output=True, text=True)
    assert done.returncode in (0, 8), done
    return json.loads(done.stdout)


def check(name, bills, tallies, booked, congestion, gaps, holes):
    """Compares the results of the page's queries with what a replay of the folder says."""
    strands = replayed["strands"]
    expected = sorted(
        (strand["originator_id"], "0x" + payer, figures["messages"], figures["stated_picodollars"])
        for strand in strands
        for payer, figures in strand["figures"]["payers"].items()
    )
    found = sorted((row[0], row[1], row[2], int(row[4])) for row in bills)
    assert found == expected, (name, found, expected)
    assert found, name
    assert tallies == [] and congestion == [], (name, tallies, congestion)
    places = {}
    for strand in strands:
        for gap in strand["figures"]["gaps"]:
            key = (strand["originator_id"], gap["reason"])
            places[key] = places.get(key, 0) + gap["through"] - gap["from"] + 1
    assert {(row[0], row[1]): int(row[2]) for row in gaps} == places, (name, gaps, places)
    assert holes == [], (name, holes)


replayed = hawser_json("audit", "replay", "--json", "--from", "data", "--registry", registry)

# DuckDB, a second implementation of Parquet.
database = duckdb.connect()
for view in views:
    database.execute(view)
check("duckdb", *[database.execute(query).fetchall() for query in queries])

# Tallies that do not follow from the log are found.
found = []
for column in ("messages", "bytes", "stated_picodollars", "last_sequence_id"):
    database.execute(f"CREATE OR REPLACE VIEW usage AS SELECT * REPLACE ({column} + 1 AS {column}) FROM read_parquet('export/usage/*/*.parquet')")
    found.append(len(database.execute(queries[1]).fetchall()))
database.execute("CREATE OR REPLACE VIEW congestion AS SELECT * REPLACE (messages + 1 AS messages) FROM read_parquet('export/congestion/*/*.parquet')")
found.append(len(database.execute(queries[3]).fetchall()))
assert min(found) > 0, found
database.execute("CREATE OR REPLACE VIEW log AS FROM read_parquet('export/log/*/*.parquet') WHERE sequence_id <> 7")
assert len(database.execute(queries[5]).fetchall()) == 1

# DataFusion, with Arrow's reader.
context = datafusion.SessionContext()
for table in ("log", "usage", "congestion"):
    context.register_parquet(table, f"export/{table}/")
rows = [[tuple(row.values()) for batch in context.sql(query).collect() for row in batch.to_pylist()] for query in queries]
check("datafusion", *rows)

# Spark, with two workers that are processes of their own.
spark = (
    SparkSession.builder.master("local-cluster[2,1,1024]")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.executorEnv.PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
for table in ("log", "usage", "congestion"):
    path = os.path.abspath(os.path.join("export", table))
    spark.read.parquet(path).drop("originator").createOrReplaceTempView(table)
check("spark", *[[tuple(row) for row in spark.sql(query).collect()] for query in queries])

columns = [
    "originator_id", "sequence_id", "through_sequence_id", "kind", "mark", "rule",
    "originator_ns", "retention_days", "leaf_hash", "bytes",
]


def verdict(partitions, command):
    lines = (
        spark.table("log")
        .select(columns)
        .repartitionByRange(partitions, "originator_id", "sequence_id")
        .sortWithinPartitions("originator_id", "sequence_id", f.col("kind") == "leaf")
        .select(f.to_json(f.struct(*columns)).alias("line"))
    )
    ranges = lines.rdd.map(lambda row: row.line).pipe(command, checkCode=True)
    with open("ranges.jsonl", "w") as file:
        file.writelines(line + "\n" for line in ranges.collect())
    found = sum('"range"' in line for line in open("ranges.jsonl"))
    assert found >= partitions // 2, (found, partitions)
    return hawser_json("audit", "merge", "--json", "--export", "export", "ranges.jsonl")


command = f"{hawser} audit check-partition --json --threads 1 --registry {registry}"
whole = verdict(1, command)
print(whole["verdict"], whole["faults"])
for fault in whole["first_faults"]:
    assert fault in replayed["first_faults"], fault
assert whole["faults"] == replayed["faults"], (whole, replayed["faults"])
assert verdict(2, command) == whole
assert verdict(8, command) == whole

# The first `hawser` that is started is killed; Spark runs its task again.
with tempfile.TemporaryDirectory() as place:
    killer = os.path.join(place, "check")
    with open(killer, "w") as file:
        file.write(f"#!/bin/sh\nmkdir {place}/killed 2>/dev/null && kill -9 $$\nexec {command}\n")
    os.chmod(killer, 0o755)
    assert verdict(8, killer) == whole
    assert os.path.exists(f"{place}/killed")
spark.stop()
print("equal")
