"""Computes what flights.yaml publishes, without millpond, and compares.

    python expected.py OUT [--data DIR]    compares the files in OUT; exit code 1 and the differences if they differ
    python expected.py --write DIR         writes the expected tables instead

Needs pandas and pyarrow. Row by row with the standard library where the pipeline works in columns, so that the two
share no code. Comparison is exact, in values and in order. With the default params of the pipeline only.
"""

import argparse
import glob
import json
import math
import re
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd

HERE = Path(__file__).parent
MAX_GROUND = 150
MIN_FLIGHTS = 20
LATE = 15
TRIP_COLUMNS = [
    "scheduled_hour", "departed", "arrived", "carrier", "airline", "flight", "origin", "dest", "destination", "tailnum",
    "maker", "model", "built", "seats", "dep_delay", "arr_delay", "air_minutes", "ground_minutes", "distance",
    "great_circle", "mph", "temp", "wind_dir", "wind_speed", "visib",
]  # fmt: skip
TRIP_TYPES = {
    "timestamp": ["scheduled_hour", "departed", "arrived"],
    "int": ["flight", "built", "seats", "dep_delay", "arr_delay", "air_minutes", "ground_minutes", "distance", "wind_dir"],
    "double": ["great_circle", "mph", "temp", "wind_speed", "visib"],
}


class Rejected(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder that the pipeline wrote")
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--write", type=Path, help="folder for the expected tables")
    options = parser.parse_args()
    if (options.out is None) == (options.write is None):
        parser.error("give either OUT or --write DIR")
    trips, rejected = expected_trips(options.data)
    routes = expected_routes(trips)
    if options.write:
        return write(options.write, trips, routes, rejected)
    problems = [
        *differences("trips.parquet", trips, read(options.out / "trips.parquet")),
        *wrong_types(options.out / "trips.parquet"),
        *differences("routes.csv", routes, read(options.out / "routes.csv")),
        *differences("rejected.jsonl", rejected, read_rejected(options.out / "rejected.jsonl")),
    ]
    for problem in problems:
        print(problem)
    if not problems:
        print(f"equal: {len(trips)} trips, {len(routes)} routes, {len(rejected)} rejected")
    return 1 if problems else 0


# --- the answer ------------------------------------------------------------------------------------------------------


def expected_trips(data):
    """Returns the trips in their published order, and the rejected rows in the order of the input."""
    airlines = pd.read_csv(data / "airlines.tsv", sep="\t").set_index("carrier")["name"].to_dict()
    airports = pd.read_csv(data / "airports.csv").set_index("faa").to_dict("index")
    planes = {plane["tailnum"]: plane for plane in map(json.loads, plane_lines(data))}
    weather = pd.read_parquet(data / "weather.parquet").astype(object)
    weather = weather.where(weather.notna(), None)
    weather = {(row["origin"], row["time_hour"].to_pydatetime()): row for row in weather.to_dict("records")}
    trips, rejected = [], []
    for path in sorted(glob.glob(str(data / "flights" / "*.csv.gz"))):
        flights = pd.read_csv(path, dtype={"tailnum": str}, keep_default_na=False)
        for number, flight in enumerate(flights.to_dict("records"), start=1):
            if flight["air_time"] == "":
                continue
            try:
                trips.append(trip(flight, airlines, airports, planes, weather))
            except Rejected as reason:
                rejected.append(reject(flight, str(reason), Path(path).name, number))
    trips.sort(key=lambda row: (row["scheduled_hour"], row["carrier"], row["flight"], row["origin"]))
    return pd.DataFrame(trips, columns=TRIP_COLUMNS, dtype=object), pd.DataFrame(rejected, dtype=object)


def plane_lines(data):
    import gzip

    with gzip.open(data / "planes.jsonl.gz", "rt") as lines:
        return list(lines)


def trip(flight, airlines, airports, planes, weather):
    scheduled = datetime.strptime(flight["time_hour"], "%Y-%m-%dT%H:%M:%SZ")
    departed = scheduled + timedelta(minutes=int(flight["minute"]) + int(flight["dep_delay"]))
    air, distance = int(flight["air_time"]), int(flight["distance"])
    origin, dest = airports[flight["origin"]], airports.get(flight["dest"])
    arrived = arrival(departed, int(flight["arr_time"]), dest["tzone"]) if dest else None
    ground = int((arrived - departed).total_seconds() // 60) - air if dest else None
    if ground is not None and not 0 <= ground <= MAX_GROUND:
        leg = f"{flight['origin']}-{flight['dest']}"
        raise Rejected(f"{ground} minutes on the ground between {leg}, believed are 0 to {MAX_GROUND}")
    plane = planes.get(flight["tailnum"], {})
    sky = weather.get((flight["origin"], scheduled), {})
    return {
        "scheduled_hour": scheduled,
        "departed": departed,
        "arrived": arrived,
        "carrier": flight["carrier"],
        "airline": airlines[flight["carrier"]],
        "flight": int(flight["flight"]),
        "origin": flight["origin"],
        "dest": flight["dest"],
        "destination": dest["name"] if dest else None,
        "tailnum": flight["tailnum"] or None,
        "maker": maker(plane["manufacturer"]) if plane else None,
        "model": plane.get("model"),
        "built": plane.get("year"),
        "seats": plane.get("seats"),
        "dep_delay": int(flight["dep_delay"]),
        "arr_delay": int(flight["arr_delay"]),
        "air_minutes": air,
        "ground_minutes": ground,
        "distance": distance,
        "great_circle": round(great_circle(origin, dest), 1) if dest else None,
        "mph": round(distance * 60 / air, 1),
        **{column: sky.get(column) for column in ["temp", "wind_dir", "wind_speed", "visib"]},
    }


def arrival(departed, clock, zone_name):
    zone = ZoneInfo(zone_name)
    took_off = departed.replace(tzinfo=timezone.utc).astimezone(zone).replace(tzinfo=None)
    landed = took_off.replace(hour=clock // 100 % 24, minute=clock % 100)
    if landed < took_off:
        landed += timedelta(days=1)
    aware = landed.replace(tzinfo=zone)
    # Around a change of the clock, the two readings of a local time have different offsets.
    if aware.utcoffset() != aware.replace(fold=1).utcoffset():
        raise Rejected(f"arrival at {landed:%Y-%m-%d %H:%M}: the clock in {zone_name} skips or repeats this time")
    return aware.astimezone(timezone.utc).replace(tzinfo=None)


def great_circle(origin, dest):
    """Miles on a sphere, by the angle between two unit vectors."""
    a, b = unit_vector(origin), unit_vector(dest)
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return 3958.7613 * math.atan2(math.hypot(*cross), sum(x * y for x, y in zip(a, b)))


def unit_vector(airport):
    latitude, longitude = math.radians(airport["lat"]), math.radians(airport["lon"])
    return (
        math.cos(latitude) * math.cos(longitude),
        math.cos(latitude) * math.sin(longitude),
        math.sin(latitude),
    )


def maker(name):
    return re.sub(r" (INDUSTRIE|INC|CORP|CORPORATION|AIRCRAFT CO|CO)$", "", name)


def reject(flight, message, file, row):
    return {
        "carrier": flight["carrier"],
        "flight": int(flight["flight"]),
        "tailnum": flight["tailnum"],
        "origin": flight["origin"],
        "dest": flight["dest"],
        "arr_time": int(flight["arr_time"]),
        "air_time": int(flight["air_time"]),
        "_stage": "legs",
        "_verdict": "exception",
        "_message": message,
        "_file": file,
        "_row": row,
    }


def expected_routes(trips):
    routes = []
    for (airline, dest), group in trips.groupby(["airline", "dest"]):
        if len(group) < MIN_FLIGHTS:
            continue
        delays = [int(delay) for delay in group["arr_delay"]]
        ground = [int(minutes) for minutes in group["ground_minutes"] if minutes is not None]
        late = sum(delay >= LATE for delay in delays)
        routes.append(
            {
                "airline": airline,
                "dest": dest,
                "flights": len(group),
                "mean_arr_delay": half_away(sum(delays) / len(delays), 2),
                "worst_arr_delay": max(delays),
                "late": late,
                "late_percent": half_away(100.0 * late / len(group), 1),
                "mean_ground_minutes": half_away(sum(ground) / len(ground), 2) if ground else None,
                "fastest_mph": max(group["mph"]),
            }
        )
    routes.sort(key=lambda row: (-row["late_percent"], row["airline"], row["dest"]))
    return pd.DataFrame(routes, dtype=object)


def half_away(value, digits):
    """Rounds as SQL does: halves away from zero."""
    scale = 10**digits
    return math.copysign(math.floor(abs(value) * scale + 0.5), value) / scale


# --- comparing -------------------------------------------------------------------------------------------------------


def read(path):
    if not path.exists():
        return None
    if path.suffix == ".parquet":
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(path)
        return pd.DataFrame({name: column(rows[name]) for name in rows.column_names}, dtype=object)
    table = pd.read_csv(path, dtype=object, keep_default_na=False)
    return table.apply(lambda texts: texts.map(from_text))


def wrong_types(path):
    """Returns a line per column of another kind: integers with nulls must not have become floats, for one."""
    import pyarrow.parquet

    if not path.exists():
        return []
    schema = pyarrow.parquet.read_schema(path)
    return [
        f"{path.name}: {name} is {schema.field(name).type}, expected {kind}"
        for kind, names in TRIP_TYPES.items()
        for name in names
        if name in schema.names and not str(schema.field(name).type).startswith(kind)
    ]


def column(values):
    """Python values, with timestamps of every unit and zone as naive UTC."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us"))
    return pd.Series(values.to_pylist(), dtype=object)


def from_text(text):
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text


def read_rejected(path):
    """The published rejects with the columns that are compared; a file's path is reduced to its name."""
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["_file"] = Path(row["_file"]).name if row.get("_file") else None
        row["_message"] = (row.get("_message") or "").removeprefix("ValueError: ")
    keep = ["carrier", "flight", "tailnum", "origin", "dest", "arr_time", "air_time", "_stage", "_verdict", "_message",
            "_file", "_row"]  # fmt: skip
    return pd.DataFrame([{name: row.get(name) for name in keep} for row in rows], columns=keep, dtype=object)


def differences(name, expected, actual, shown=5):
    """Returns a line per difference, the first few of each column."""
    if actual is None:
        return [f"{name}: not there"]
    if list(expected.columns) != list(actual.columns):
        return [f"{name}: columns are {list(actual.columns)}, expected {list(expected.columns)}"]
    if len(expected) != len(actual):
        return [f"{name}: {len(actual)} rows, expected {len(expected)}", *first_difference(name, expected, actual)]
    lines = []
    for label in expected.columns:
        wrong = [row for row, pair in enumerate(zip(expected[label], actual[label])) if not same(*pair)]
        for row in wrong[:shown]:
            lines.append(f"{name}: row {row + 1}, {label}: {actual[label][row]!r}, expected {expected[label][row]!r}")
        if len(wrong) > shown:
            lines.append(f"{name}: {label}: {len(wrong) - shown} more rows differ")
    return lines


def first_difference(name, expected, actual):
    for row, (wanted, got) in enumerate(zip(expected.to_dict("records"), actual.to_dict("records"))):
        if not all(same(wanted[label], got[label]) for label in wanted):
            return [f"{name}: first difference in row {row + 1}:", f"  expected {wanted}", f"  is       {got}"]
    return []


def same(expected, actual):
    missing = [value is None or value != value for value in (expected, actual)]
    return all(missing) or (not any(missing) and expected == actual)


def write(folder, trips, routes, rejected):
    folder.mkdir(parents=True, exist_ok=True)
    trips.infer_objects().astype(dict.fromkeys(TRIP_TYPES["int"], "Int64")).to_parquet(folder / "trips.parquet", index=False)
    routes.to_csv(folder / "routes.csv", index=False)
    rejected.to_json(folder / "rejected.jsonl", orient="records", lines=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
