"""`make audit`: whether a known vulnerability is in what we ship, by pip-audit; and never a yes where nothing was asked.

Ends with 0 where every package was looked up and none is known to be vulnerable, 1 where one is, and 3 where that could not be
found out, for one package or for all: pip-audit itself passes over what its service does not know.
"""

import json
import subprocess
import sys

CLEAN, VULNERABLE, UNKNOWN = 0, 1, 3


def verdict(report: str) -> tuple[int, list[str]]:
    """What pip-audit's JSON comes to: an exit code, and lines that say why."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return UNKNOWN, ["cannot run here: pip-audit gave no report"]
    skipped = [package for package in packages if "skip_reason" in package]
    found = [
        f"{package['name']} {package['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
        for package in packages
        for known in package.get("vulns", ())
    ]
    if found:
        return VULNERABLE, found
    if not packages or len(skipped) == len(packages):
        return UNKNOWN, ["cannot run here: not one package could be looked up"]
    if skipped:
        return UNKNOWN, [f"not audited: {package['name']}: {package['skip_reason']}" for package in skipped]
    return CLEAN, [f"{len(packages)} packages, no known vulnerability"]


def main(pip_audit: str, site_packages: str) -> int:
    done = subprocess.run(
        [pip_audit, "--path", site_packages, "--format", "json", "--progress-spinner", "off", "--timeout", "15"],
        capture_output=True,
        text=True,
        check=False,
    )
    code, lines = verdict(done.stdout)
    if code == UNKNOWN:
        # Its own words: what host it could not reach, or what it could not make of the answer.
        lines += [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line][-3:]
    for line in lines:
        print(f"audit: {line}", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
