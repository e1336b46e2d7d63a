"""The table at the end of a run, from one list of figures per name.

Always: a ratio is taken within a round, and the median is one of ratios, so a slow minute weighs on both of its sides.
"""

from statistics import median

TARGET = 0.30
BATCH_TARGET = 0.50
SERVED_TARGET = 25_000
INGEST_TARGET = 0.40
# Of the rate without encryption at rest.
ENCRYPTED_TARGET = 0.75
PULLED_TARGET = 3.0
# Milliseconds to the first 200 at /readyz over 100,000 facts.
START_TARGETS = (("start clean", 1000), ("start killed", 3000))
REPLAY_TARGETS = (
    ("checked/Ed25519", 0.80),
    ("checked(2)/checked(1)", 1.7),
    ("quick(2)", 300_000),
    ("rebuilt", 60_000),
)
ADDED_TARGET_MS = 50
# Of an empty handler's rate.
READ_TARGET = 0.40
READ_KINDS = ("by id", "by entity", "by id anew", "by entity anew")
SIZES = (1, 16, 64)
Figures = dict[str, list[float]]


def table(figures: Figures) -> str:
    rows = [("", "median", "min", "max", "")]
    for name, values in (figures | _ratios(figures)).items():
        rows.append((name, *(_number(f(values)) for f in (median, min, max)), _unit(name)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(_line(row, widths) for row in rows)


def verdicts(figures: Figures) -> list[str]:
    ratios, lines = _ratios(figures), []
    if "N(64)/G(64)" in ratios:
        ratio = median(ratios["N(64)/G(64)"])
        lines.append(f"N(64)/G(64) = {ratio:.2f}, target >= {TARGET:.2f}: {_met(ratio >= TARGET)}")
    if "batch(4)/G(64)" in ratios:
        ratio = median(ratios["batch(4)/G(64)"])
        lines.append(f"batch(4)/G(64) = {ratio:.2f}, target >= {BATCH_TARGET:.2f}: {_met(ratio >= BATCH_TARGET)}")
    lines += [
        f"{name} = {median(ratios[name]):.2f}, target >= {ENCRYPTED_TARGET:.2f}: "
        f"{_met(median(ratios[name]) >= ENCRYPTED_TARGET)}"
        for name in ("N on(1)/N off(1)", "N on(64)/N off(64)", "N on(64)/N off(64) CPU")
        if name in ratios
    ]
    if "seal: sign" in figures and "N(64)" in figures:
        seal = median(figures["seal: message"]) + median(figures["seal: sign"])
        write = 1e6 / median(figures["N(64)"])
        lines.append(
            f"a seal costs {seal:.0f} us, {seal / write:.0%} of the {write:.0f} us that a write takes at 64 connections"
        )
    if "longest added" in figures:
        added = median(figures["longest added"])
        lines.append(
            f"the longest write beside a snapshot waits {added:.0f} ms more than without, target <= {ADDED_TARGET_MS}: "
            f"{_met(added <= ADDED_TARGET_MS)}"
        )
    return (
        lines
        + _read_verdicts(ratios)
        + _exchange_verdicts(figures | ratios)
        + _replay_verdicts(figures | ratios)
        + _start_verdicts(figures)
    )


def _read_verdicts(ratios: Figures) -> list[str]:
    shares = [
        (f"read {kind}/plain", median(ratios[f"read {kind}/plain"]))
        for kind in READ_KINDS
        if f"read {kind}/plain" in ratios
    ]
    return [
        f"{name} = {share:.2f}, target >= {READ_TARGET:.2f}: {_met(share >= READ_TARGET)}" for name, share in shares
    ]


def _exchange_verdicts(figures: Figures) -> list[str]:
    lines = []
    if "served(1)" in figures:
        served = median(figures["served(1)"])
        lines.append(
            f"served(1) = {served:,.0f} facts a second in pages of 500, target >= {SERVED_TARGET:,}: "
            f"{_met(served >= SERVED_TARGET)}"
        )
    if "ingested/verified" in figures:
        share = median(figures["ingested/verified"])
        lines.append(
            f"ingested/verified = {share:.2f} of one core's Ed25519, target >= {INGEST_TARGET:.2f}: "
            f"{_met(share >= INGEST_TARGET)}"
        )
    if "p99 pulled/idle" in figures:
        slower = median(figures["p99 pulled/idle"])
        lines.append(
            f"p99 of a write while a peer pulls = {slower:.1f} times that without, target <= {PULLED_TARGET:.0f}: "
            f"{_met(slower <= PULLED_TARGET)}"
        )
    return lines


def _start_verdicts(figures: Figures) -> list[str]:
    found = [(name, median(figures[name]), most) for name, most in START_TARGETS if name in figures]
    return [f"{name} = {seen:,.0f} ms, target <= {most:,}: {_met(seen <= most)}" for name, seen, most in found]


def _replay_verdicts(figures: Figures) -> list[str]:
    found = [(name, median(figures[name]), target) for name, target in REPLAY_TARGETS if name in figures]
    return [
        f"{name} = {_number(seen)}, target >= {_number(target)}: {_met(seen >= target)}" for name, seen, target in found
    ]


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _ratios(figures: Figures) -> Figures:
    pairs = {f"N({n})/G({n})": (f"N({n})", f"G({n})") for n in SIZES} | {
        "batch(4)/G(64)": ("batch(4)", "G(64) beside"),
        "N(64)/plain(64)": ("N(64)", "plain(64)"),
        "ingested/verified": ("ingested", "verified"),
        "checked(2)/checked(1)": ("checked(2)", "checked(1)"),
    }
    pairs |= {
        f"N on({n})/N off({n}){kind}": (f"N on({n}){kind}", f"N off({n}){kind}") for n in SIZES for kind in ("", " CPU")
    }
    pairs |= {f"read {kind}/plain": (f"read {kind}", f"plain GET {kind}") for kind in READ_KINDS}
    pairs |= {f"read {kind}/plain CPU": (f"read {kind} CPU", f"plain GET {kind} CPU") for kind in READ_KINDS}
    return {
        name: [a / b for a, b in zip(figures[over], figures[under], strict=True)]
        for name, (over, under) in pairs.items()
        if over in figures and under in figures
    }


def _unit(name: str) -> str:
    if "/" in name:
        return ""
    if ":" in name:
        return "us"
    return "ms" if name.startswith(("p50", "p99", "longest", "start")) else "a second"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    name, *numbers, unit = row
    return "  ".join(
        [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)), unit]
    ).rstrip()
