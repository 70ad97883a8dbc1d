"""Numbers as people read them. 1 kB is 1,000 bytes, 1 MB is 1,000,000."""


def short_count(value: float) -> str:
    """11182155 -> '11.18 M', 406220 -> '406.2 k', 870 -> '870'."""
    return _scaled(value, [(1e9, "G"), (1e6, "M"), (1e3, "k")], "")


def size(value: float) -> str:
    """4320000 -> '4.32 MB', 263000 -> '263.0 kB', 870 -> '870 B'."""
    return _scaled(value, [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")], "B")


def _scaled(value: float, units: list[tuple[float, str]], base: str) -> str:
    for factor, unit in units:
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{1 if scaled >= 100 else 2}f} {unit}"
    return f"{value:.0f} {base}".rstrip()


def percent(fraction: float, std: float | None = None) -> str:
    """0.8731 -> '87.31', with a deviation '87.31 ± 0.20'; in percent."""
    return f"{100 * fraction:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")


def points(difference: float) -> str:
    """A difference of two fractions in percentage points: 0.0123 -> '+1.23', 0 -> '0.00'."""
    text = f"{100 * difference:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def interval(difference: float, half: float) -> str:
    """Return a difference of two fractions less and plus `half`, in percentage points: '-0.20 to +1.20'."""
    return f"{points(difference - half)} to {points(difference + half)}"


def share(part: float, whole: float) -> str:
    """Return `part` of `whole` in percent: '34.3 %'."""
    return f"{100 * part / whole:.1f} %"


def times(larger: float, smaller: float) -> str:
    """How many times smaller: '3.98x'."""
    ratio = larger / smaller
    return f"{ratio:.{2 if ratio < 10 else 1}f}x"
