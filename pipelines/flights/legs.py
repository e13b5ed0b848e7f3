"""What a flight's clock times mean: moments in UTC, minutes on the ground, distance and speed."""

import numpy as np
import pandas as pd

EARTH_RADIUS_MILES = 3958.7613


class Legs:
    """Adds moments and distances to flights. Every row is computed from that row alone.

    Local times can only be read with the rules of the destination's time zone, which differ by place and by date.
    Destinations that the airport table does not have get nulls.
    """

    def __init__(self, airports: str, max_ground: int):
        table = pd.read_csv(airports).set_index("faa")
        self.zone = table["tzone"]
        self.latitude = np.radians(table["lat"])
        self.longitude = np.radians(table["lon"])
        self.max_ground = max_ground

    def __call__(self, flights: pd.DataFrame) -> pd.DataFrame:
        departed = flights["scheduled_hour"] + minutes(flights["minute"] + flights["dep_delay"])
        arrived = self.arrivals(flights, departed)
        air = flights["air_time"].astype("Int64")
        ground = ((arrived - departed).dt.total_seconds() / 60).astype("Int64") - air
        self.check_ground(flights, ground)
        distance = flights["distance"].astype("Int64")
        return pd.DataFrame(
            {
                "scheduled_hour": flights["scheduled_hour"].astype("datetime64[us]"),
                "departed": departed.astype("datetime64[us]"),
                "arrived": arrived.astype("datetime64[us]"),
                "carrier": flights["carrier"],
                "flight": flights["flight"],
                "tailnum": flights["tailnum"],
                "origin": flights["origin"],
                "dest": flights["dest"],
                "dep_delay": flights["dep_delay"],
                "arr_delay": flights["arr_delay"],
                "air_minutes": air,
                "ground_minutes": ground,
                "distance": distance,
                "great_circle": self.great_circle(flights["origin"], flights["dest"]).round(1),
                "mph": (distance * 60 / air).astype("float64").round(1),
            }
        )

    def arrivals(self, flights, departed):
        """The first moment after departure at which the clock at the destination shows the arrival time."""
        clock = flights["arr_time"].astype("int64")
        of_day = minutes(clock // 100 * 60 + clock % 100) % pd.Timedelta(days=1)
        zones = flights["dest"].map(self.zone)
        arrived = pd.Series(pd.NaT, index=flights.index, dtype="datetime64[ns]")
        for zone in zones.dropna().unique():
            rows = zones == zone
            took_off = departed[rows].dt.tz_localize("UTC").dt.tz_convert(zone).dt.tz_localize(None)
            landed = took_off.dt.normalize() + of_day[rows]
            landed = landed.where(landed >= took_off, landed + pd.Timedelta(days=1))
            arrived[rows] = in_utc(landed, zone).astype("datetime64[ns]")
        return arrived

    def great_circle(self, origin, dest):
        """Miles between two airports on a sphere (haversine)."""
        from_lat, to_lat = origin.map(self.latitude), dest.map(self.latitude)
        d_lat, d_lon = to_lat - from_lat, dest.map(self.longitude) - origin.map(self.longitude)
        h = np.sin(d_lat / 2) ** 2 + np.cos(from_lat) * np.cos(to_lat) * np.sin(d_lon / 2) ** 2
        return 2 * EARTH_RADIUS_MILES * np.arcsin(np.sqrt(h))

    def check_ground(self, flights, ground):
        wrong = ((ground < 0) | (ground > self.max_ground)).fillna(False)
        if wrong.any():
            row = wrong.idxmax()
            leg = f"{flights.at[row, 'origin']}-{flights.at[row, 'dest']}"
            raise ValueError(f"{ground[row]} minutes on the ground between {leg}, believed are 0 to {self.max_ground}")


def minutes(count):
    return pd.to_timedelta(count.astype("int64"), unit="min")


def in_utc(local, zone):
    utc = local.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT").dt.tz_convert("UTC").dt.tz_localize(None)
    if utc.isna().any():
        moment = local[utc.isna()].iloc[0]
        raise ValueError(f"arrival at {moment:%Y-%m-%d %H:%M}: the clock in {zone} skips or repeats this time")
    return utc
