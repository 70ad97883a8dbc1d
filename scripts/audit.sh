#!/bin/sh
# Known vulnerabilities of the pinned requirements: a report, never a gate, since they appear without a commit.
# Exit code 0: none known; 1: some, named; 2: the vulnerability service could not be asked about everything.
set -eu
cd "$(dirname "$0")/.."
VERSION=2.10.1 # of pip-audit, which runs in an environment of its own

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
.venv/bin/uv tool run "pip-audit==$VERSION" --requirement requirements.txt --no-deps --disable-pip \
    --progress-spinner off --format json --output "$work/report" >"$work/log" 2>&1 || true
if [ ! -s "$work/report" ]; then
    echo "audit: NOT DONE; pip-audit ended with: $(tail -n 1 "$work/log")" >&2
    exit 2
fi
# pip-audit itself says "No known vulnerabilities found" also of what it could not look up.
.venv/bin/python - "$work/report" <<'PYTHON'
import json
import pathlib
import sys

packages = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))["dependencies"]
skipped = [p for p in packages if "skip_reason" in p]
faults = [(p, v) for p in packages for v in p.get("vulns", [])]
for package, fault in faults:
    fixed = ", ".join(fault["fix_versions"]) or "no version yet"
    print(f"audit: {package['name']} {package['version']}: {fault['id']}, fixed in {fixed}")
asked = len(packages) - len(skipped)
if skipped:
    print(f"audit: {len(skipped)} of {len(packages)} could not be asked about; first: {skipped[0]['skip_reason']}")
print(f"audit: {len(faults)} known vulnerabilities in {asked} of {len(packages)} pinned packages")
sys.exit(1 if faults else 2 if skipped else 0)
PYTHON
