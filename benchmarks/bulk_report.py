"""Tables of the results of `benchmarks.bulk`."""

from typing import Any

Row = dict[str, Any]


def print_results(results: dict[str, Any]) -> None:
    """Print the rates and their ratios to the plain loop, then the stages, then what is measured on a GPU."""
    print(
        f"\n{results['network']}, {results['dtype']}; {results['device']}, {results['cores']} cores, "
        f"load before the runs {results['load_before']:.1f}\n{results['images']:,} images, {results['input']}"
    )
    plain, *refined = results["groups"]
    _print_rates(plain, [results["ten_times"]] if "ten_times" in results else [])
    for group in refined:
        _print_rates(group, [])
        if len(group) == 1:
            print("pydensecrf is not installed, so no peer has a CRF; benchmarks/crf_peer.py says how to install it")
    _print_stages(results)
    if "bare" in results:
        _print_bare(results)


def _print_rates(group: list[Row], more: list[Row]) -> None:
    loop = group[0] if len(group) > 1 else {}
    gpu = any(row["utilisation"] is not None for row in group)
    heads = f"{'all in':>9}{'':8}{'beyond':>9}{'':8}{'steady':>9}{'fixed':>11}" + (f"{'GPU':>8}" if gpu else "")
    print(f"\n{'images/s':28}{heads}")
    for row in [*group, *more]:
        rates = "".join(_number(row[key]) + _ratio(row[key], loop.get(key)) for key in ("all_in", "beyond"))
        others = f"{_number(row['steady'])}{_number(row['fixed_seconds'])} s"
        others += f"{_number(row['utilisation'], 6)} %" if gpu else ""
        print(f"{row['name']:28}{rates}{others}")


def _print_stages(results: dict[str, Any]) -> None:
    stages: dict[str, dict[str, float]] = results["stages"]
    print(f"\n{'ms per image on one thread':28}" + "".join(f"{name:>14}" for name in stages))
    for stage in stages["alone"]:
        print(f"{stage:28}" + "".join(f"{costs[stage]:14.2f}" for costs in stages.values()))
    for name, ratios in results.get("efficiency", {}).items():
        print(f"{'efficiency of ' + name:28}" + "".join(_number(ratio, 14, 2) for ratio in ratios.values()))


def _print_bare(results: dict[str, Any]) -> None:
    for name, rate in results["bare"].items():
        text = rate if isinstance(rate, str) else f"{rate:.0f} images/s of 512x512"
        print(f"bare network, {name}: {text}")
    print(f"pixels/s of segpipe over those of the compiled network: {_number(results['of_bare'], 0, 2)}")


def _number(value: float | None, width: int = 9, digits: int = 1) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _ratio(value: float | None, loop: float | None) -> str:
    return f"{'':8}" if value is None or not loop else f"{value / loop:6.2f} x"
