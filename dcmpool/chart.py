"""The doctor's chart: what was found on this machine, on the terminal and as a configuration."""

from typing import TYPE_CHECKING

from dcmpool.doctor import Finding, Health
from dcmpool.syntaxes import syntax_name
from dcmpool.text import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SIGNS = {"cannot": "cannot", "refused": "refuses"}


def print_health(health: Health, console: "Console") -> None:
    """Print versions, what each engine makes of each Transfer Syntax, the storage, and what is wrong."""

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    line(", ".join(f"{name} {version or 'missing'}" for name, version in health.versions.items()))
    landlock = f"Landlock {health.landlock}" if health.landlock else "no Landlock: workers are not confined"
    line(f"{health.cpus} CPUs, {size(health.memory_bytes)} of memory, {landlock}\n")
    console.print(_table(health.findings))
    if health.storage:
        rates = ", ".join(f"{count}: {rate:,.0f}" for count, rate in health.storage.files_per_second.items())
        line(f"\n{health.storage.path}: {size(health.storage.free_bytes)} free")
        line(f"  files of 512 KiB written and synced a second, by writers: {rates}")
    for ailment in health.ailments:
        line(f"\nwrong: {ailment}")
    line("\nThis machine can do it." if not health.ailments else "\nDo not trust this machine with an archive.")


def order_as_toml(order: dict[str, tuple[str, ...]]) -> str:
    """Return the order of engines as the table of a configuration file."""
    lines = ["# The engines of each Transfer Syntax, the fastest on this machine first; by `dcmpool doctor --bench`."]
    lines += ["[engines]"]
    for uid, names in order.items():
        lines.append(f'"{uid}" = [{", ".join(f"{name!r}" for name in names)}]  # {syntax_name(uid)}'.replace("'", '"'))
    return "\n".join(lines) + "\n"


def _table(findings: list[Finding]) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - slow to import

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Transfer Syntax", no_wrap=True)
    table.add_column("Engines")
    for uid in dict.fromkeys(finding.uid for finding in findings):
        table.add_row(syntax_name(uid), ", ".join(_words(finding) for finding in findings if finding.uid == uid))
    return table


def _words(finding: Finding) -> str:
    if finding.result != "right":
        return f"{finding.engine} {_SIGNS.get(finding.result, finding.result.upper())}"
    return f"{finding.engine} {finding.seconds * 1e3:.2f} ms" if finding.seconds else finding.engine
