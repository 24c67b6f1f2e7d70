"""Other engines over an export: the SQL and the pipe of docs/audit-at-scale.md, as they stand there.

Arguments: the program `hawser`, a folder with `export` and `registry.evidence`, the page, and a folder with exports of logs in which faults
were planted. Prints `equal` at the end.
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

hawser, folder, page, planted = sys.argv[1:5]
page = open(page).read()
os.chdir(folder)
registry = os.path.abspath("registry.evidence")
statements = [
    statement.strip()
    for block in re.findall(r"```sql\n(.*?)```", page, re.S)
    for statement in block.split(";")
    if statement.strip()
]
views, queries = statements[:3], statements[3:9]
void_view, checkpoint_view, declared_void, void_signed, checkpoint_times, rate_view, overcharged = statements[9:]


def hawser_json(*arguments):
    done = subprocess.run([hawser, *arguments], capture_output=True, text=True)
    # Claims alone end with 5, proven faults with 8 (docs/auditing.md).
    assert done.returncode in (0, 5, 8), done
    return json.loads(done.stdout)


def check(name, bills, tallies, booked, congestion, gaps, holes):
    """Compares the results of the page's queries with what a replay of the folder says."""
    strands = replayed["strands"]
    expected = sorted(
        (strand["originator_id"], "0x" + payer, figures["messages"], int(figures["stated_picodollars"]))
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
            # The rows are those of the log. The statements of nodes stand in a table of their own.
            reason = "missing" if gap["reason"] == "declared_void" else gap["reason"]
            key = (strand["originator_id"], reason)
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

def piped(lines, command):
    return lines.rdd.map(lambda row: row.line).pipe(command, checkCode=True).collect()


def in_parts(log, partitions):
    return (
        log
        .repartitionByRange(partitions, "originator_id", "sequence_id")
        .sortWithinPartitions("originator_id", "sequence_id", f.col("kind") == "leaf")
        .select(f.to_json(f.struct(*log.columns)).alias("line"))
    )


def verdict(partitions, command, log=None, export="export", more=()):
    lines = in_parts(log or spark.table("log"), partitions)
    with open("ranges.jsonl", "w") as file:
        file.writelines(line + "\n" for line in [*piped(lines, command), *more])
    found = sum('"range"' in line for line in open("ranges.jsonl"))
    assert found >= partitions // 2, (found, partitions)
    return hawser_json("audit", "merge", "--json", "--export", export, "ranges.jsonl")


def with_chains(partitions, command, log):
    """Pipes the strands of the chains, and returns the command that judges dependencies by the times of their places."""
    lines = in_parts(log.where(f.col("originator_id") < 2), partitions)
    with open("chains.jsonl", "w") as file:
        file.writelines(line + "\n" for line in piped(lines, command))
    return f"{command} --chains {os.path.abspath('chains.jsonl')}"


killers = tempfile.TemporaryDirectory()


# Kills the process of Spark, a worker's executor, that has started this one through others.
KILL_EXECUTOR = """process=$PPID
until tr '\\0' ' ' <"/proc/$process/cmdline" | grep -q CoarseGrainedExecutorBackend; do
  process=$(awk '/^PPid:/ { print $2 }' "/proc/$process/status")
  [ -n "$process" ] || exit 1
done
kill -9 "$process" && touch "$mark/executor"
"""


def killed_once(command, kill="kill -9 $$"):
    """Returns a program that runs the command, and the mark that its first start has run `kill`; Spark runs that task again."""
    place = tempfile.mkdtemp(dir=killers.name)
    killer, mark = os.path.join(place, "check"), os.path.join(place, "killed")
    with open(killer, "w") as file:
        file.write(f'#!/bin/sh\nmark={mark}\nif mkdir "$mark" 2>/dev/null; then\n{kill}\nexit 1\nfi\nexec {command} "$@"\n')
    os.chmod(killer, 0o755)
    return killer, mark


command = f"{hawser} audit check-partition --json --threads 1 --registry {registry}"
whole = verdict(1, command)
print(whole["verdict"], whole["faults"])
for fault in whole["first_faults"]:
    assert fault in replayed["first_faults"], fault
assert whole["faults"] == replayed["faults"], (whole, replayed["faults"])
assert verdict(2, command) == whole
assert verdict(8, command) == whole

# A payer who was exchanged in the rows is named, though the signed bytes are untouched.
other = spark.table("log").withColumn("payer", f.when(f.col("sequence_id") == 7, f.lit("0x" + "1" * 40)).otherwise(f.col("payer")))
named = [fault["kind"] for fault in verdict(2, command, other)["first_faults"] if fault["kind"] == "column"]
assert named and "columns" not in str(whole["unchecked"]), (named, whole)

# The first `hawser` that is started is killed.
killer, mark = killed_once(command)
assert verdict(8, killer) == whole
assert os.path.exists(mark)

# A worker is killed with the checks that it runs: Spark has another one run them again.
killer, mark = killed_once(command, KILL_EXECUTOR)
assert verdict(8, killer) == whole
assert os.path.exists(os.path.join(mark, "executor"))


def check_dependency(export, log, command, more):
    """Judges dependencies on places of chains in both passes, in any number of parts, and with a check killed in each pass."""
    by_chains = verdict(1, with_chains(1, command, log), log, export, more)
    assert not any("--chains" in text for text in by_chains["unchecked"]), by_chains
    for partitions in (2, 8):
        assert verdict(partitions, with_chains(partitions, command, log), log, export, more) == by_chains
    first, first_mark = killed_once(command)
    second, second_mark = killed_once(with_chains(8, first, log))
    assert verdict(8, second, log, export, more) == by_chains
    assert os.path.exists(first_mark) and os.path.exists(second_mark)
    # Without the first pass the rows show no such fault, and the verdict says so.
    without = verdict(2, command, log, export, more)
    assert without["first_faults"] == [] and any("--chains" in text for text in without["unchecked"]), without
    return by_chains


def check_void(number, export, case):
    """Compares what the statements of nodes say about the places of an export, in all three engines, with a replay of the same log."""
    context = datafusion.SessionContext()
    for table in ("log", "void_statements", "checkpoints"):
        context.register_parquet(table, f"{export}/{table}/")
    database = duckdb.connect()
    for view in (views[0], void_view, checkpoint_view):
        database.execute(view.replace("'export/", f"'{export}/"))
    engines = (
        lambda query: [tuple(row) for row in spark.sql(query).collect()],
        lambda query: [tuple(row.values()) for batch in context.sql(query).collect() for row in batch.to_pylist()],
        lambda query: database.execute(query).fetchall(),
    )
    signed = [(100, place) for kind, place in case["beside"] if kind == "void_signed"]
    for engine in engines:
        declared = [(row[0], int(row[1])) for row in engine(declared_void)]
        assert declared == ([(100, case["declared_void"])] if case["declared_void"] else []), (case, declared)
        assert engine(void_signed) == signed, (case, signed)
    checked_statements[number] = case["declared_void"]


def check_times(export, case):
    """Compares the checkpoints that are earlier than a smaller tree's, in all three engines, with the planted ones."""
    context = datafusion.SessionContext()
    context.register_parquet("checkpoints", f"{export}/checkpoints/")
    database = duckdb.connect()
    database.execute(checkpoint_view.replace("'export/", f"'{export}/"))
    found = (
        [tuple(row) for row in spark.sql(checkpoint_times).collect()],
        [tuple(row.values()) for batch in context.sql(checkpoint_times).collect() for row in batch.to_pylist()],
        database.execute(checkpoint_times).fetchall(),
    )
    late = [(100, place) for kind, place in case["beside"] if kind == "checkpoint_time"]
    assert all(rows == late for rows in found), (case, found)
    return len(late)


def check_fees(export, case):
    """Compares the congestion fees that are too high for the envelopes before them with the planted ones; in all three engines if there are any."""
    high = [(100, place) for kind, place in case["beside"] if kind == "fee"]
    database = duckdb.connect()
    for view in (views[0], rate_view):
        database.execute(view.replace("'export/", f"'{export}/"))
    found = [database.execute(overcharged).fetchall()]
    if high:
        context = datafusion.SessionContext()
        for table in ("log", "rates"):
            context.register_parquet(table, f"{export}/{table}/")
        found.append([tuple(row.values()) for batch in context.sql(overcharged).collect() for row in batch.to_pylist()])
        found.append([tuple(row) for row in spark.sql(overcharged).collect()])
    assert all(rows == high for rows in found), (case, found)
    return len(high)


checked_statements, late_checkpoints, high_fees = {}, 0, 0

# Each kind of fault, planted into a log of its own, is named by Spark, and nothing else is.
cases = sorted(name for name in os.listdir(planted) if os.path.isdir(os.path.join(planted, name)))
assert len(cases) > 30, cases
kinds = set()
for number in cases:
    case = json.load(open(os.path.join(planted, number, "case.json")))
    export = os.path.join(planted, number, "export")
    # One case has a registry of its own.
    keys = os.path.join(planted, number, "registry.evidence")
    keys = keys if os.path.exists(keys) else os.path.join(planted, "registry.evidence")
    command = f"{hawser} audit check-partition --json --threads 1 --registry {keys}"
    tables = {name: spark.read.parquet(os.path.join(export, name)).drop("originator") for name in os.listdir(export) if os.path.isdir(os.path.join(export, name))}
    for name, table in tables.items():
        table.createOrReplaceTempView(name)
    checkpoints = tables["checkpoints"].repartition(2).select(f.to_json(f.struct("originator_id", "checkpoint")).alias("line"))
    more = piped(checkpoints, command)
    if "void_statements" in tables:
        stated = tables["void_statements"].select(f.to_json(f.struct("originator_id", "statement")).alias("line"))
        more += piped(stated, command)
        check_void(number, export, case)
    late_checkpoints += check_times(export, case)
    high_fees += check_fees(export, case)
    if os.path.isdir(os.path.join(export, "log", "originator=0")):
        found = [check_dependency(export, tables["log"], command, more)]
    else:
        found = [verdict(partitions, command, tables["log"], export, more) for partitions in (1, 8)]
    for merged in found:
        named = sorted([fault["kind"], fault["sequence_id"]] for fault in merged["first_faults"])
        assert named == sorted(case["by_partition"]), (case, merged)
    kinds.update(kind for kind, _ in named)
    # Stored tallies and rates are compared in SQL.
    differing = [row for query in queries[1:4] for row in spark.sql(query).collect()]
    rates = [row for row in tables["rates"].collect()]
    for kind, _ in case["beside"]:
        if kind in ("usage", "congestion"):
            assert differing, case
        elif kind == "rates":
            given = json.load(open(os.path.join(planted, "registry.evidence")))["rates"]
            assert len(rates) != len(given), case
        else:
            # What an export does not have, or one partition cannot show: docs/audit-at-scale.md says why.
            assert kind in ("root", "checkpoint_root", "checkpoint_time", "void_signed", "fee"), case
    if not case["by_partition"] and not case["beside"]:
        assert differing == [], (case, differing)
assert (late_checkpoints, high_fees) == (1, 1), (late_checkpoints, high_fees)
# A signed tree takes three of the eight places from the statements.
assert (checked_statements["97"], checked_statements["98"]) == (5, 8) and len(checked_statements) == 4, checked_statements
assert "dependency" in kinds, kinds
print("planted faults that Spark has named:", sorted(kinds))
spark.stop()
print("equal")
