"""How long something takes, in words."""


def duration(seconds: float) -> str:
    """Tells seconds to people: 12.3 s, 4.5 min, 6 h 7 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60 % 60, int(seconds // 3600)
    return f"{hours} h {minutes:.0f} min" if hours else f"{minutes:.1f} min"
