#!/bin/sh
# The gate: in a clean clone of HEAD, nothing pulled, no stage may want to run. Exit code 1 names those that do.
# It proves that the committed dvc.lock, metrics and plots follow from the committed code, params and data.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
unset GIT_DIR GIT_WORK_TREE

if [ -n "$(git status --porcelain)" ]; then
    echo "gate: the working tree has changes that are not committed; they are not looked at" >&2
fi
clone=$(mktemp -d)
trap 'rm -rf "$clone"' EXIT
trap 'exit 130' INT TERM
git clone --quiet . "$clone/clone"
cd "$clone/clone"
status=0
dvc repro --dry --allow-missing >"$clone/log" 2>&1 || status=$?
# When a stage would run, DVC prints it, or ends with a misleading "No such file".
if grep -q 'Running stage' "$clone/log"; then
    echo "gate: FAILED; these stages do not follow from what is committed:" >&2
    sed -n "s/^.*Running stage '\([^']*\)'.*/  \1/p" "$clone/log" >&2
elif [ "$status" -ne 0 ]; then
    echo "gate: FAILED; 'dvc repro --dry --allow-missing' in a clean clone ended with exit code $status:" >&2
    tail -n 15 "$clone/log" >&2
else
    echo "gate: passed; dvc.lock follows from the committed code, params and data"
    exit 0
fi
echo "gate: run 'make repro', then commit dvc.lock, metrics/ and plots/ together with the change" >&2
exit 1
