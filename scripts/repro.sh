#!/bin/sh
# Check params.yaml and the data, then run the pipeline. `make repro` calls this after set-up.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
export PATH
unset GIT_DIR GIT_WORK_TREE # as set by Git inside its hooks

if [ -e .git ]; then
    if ! command -v git >/dev/null; then
        echo "repro: git is missing; install it: sudo apt install git" >&2
        exit 1
    fi
    if grep -qs no_scm .dvc/config.local; then # it was an archive once, now it is a repository
        dvc config --local --unset core.no_scm
    fi
elif ! grep -qs 'no_scm = true' .dvc/config.local; then
    dvc config --local core.no_scm true
fi
[ -f params.yaml ] || python -m netpress use default
python -m netpress doctor --quiet
exec python -m netpress.verify.repro "$@" # netpress run, and what it has changed of the commit
