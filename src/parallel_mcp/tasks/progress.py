"""What the API says of a run's progress -> a number that rises and never claims more than the API does. Pure."""

CEILING = 99.0
_CREEP = 0.001


class RisingPercent:
    """The value of MCP progress notifications (total 100), which must exceed the one before.

    The API's meter may be missing, repeat itself or go back: then the value creeps towards 99 by a thousandth of what
    is left, too little to be read as progress. Only `finish` gives 100.
    """

    def __init__(self) -> None:
        self._last = -1.0

    def next(self, meter: float | None) -> float:
        """The next value, given the newest meter (0 to 100) or None."""
        known = max(0.0, min(meter, CEILING)) if meter is not None else 0.0
        if known > self._last:
            self._last = known
        else:
            self._last = round(self._last + (100.0 - self._last) * _CREEP, 6)
        return self._last

    def finish(self) -> float:
        """The value of a run that has completed."""
        self._last = 100.0
        return self._last
