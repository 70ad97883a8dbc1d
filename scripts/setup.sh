#!/bin/sh
# Make or fix .venv: everything of requirements*.txt plus this package. Does nothing when it is up to date.
# PYTHON=... chooses the interpreter. An interrupted run leaves no stamp, so the next one starts over.
set -eu
unset PYTHONHOME VIRTUAL_ENV CDPATH
cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/netpress-stamp
lock=.netpress/setup.lock

# An activated .venv must not be what a new one is made with.
others=
IFS=:
for folder in $PATH; do
    [ "$folder" = "$PWD/$venv/bin" ] || others=$others:$folder
done
unset IFS
PATH=${others#:}

fail() {
    echo "setup: $1" >&2
    shift
    for line in "$@"; do echo "       $line" >&2; done
    exit 1
}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Is $1 Python 3.11.4 to 3.($2 - 1)?
suits() { "$1" -c "import sys; sys.exit(not (3, 11, 4) <= sys.version_info < (3, $2))" 2>/dev/null; }

find_python() {
    for below in 15 99; do # the pinned packages have wheels for 3.11 to 3.14: later ones only if there is no other
        for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
            if suits "$candidate" $below; then
                command -v "$candidate"
                return
            fi
        done
    done
    fail "no ${PYTHON:+usable }Python 3.11.4 or later${PYTHON:+ at PYTHON=$PYTHON}; install one, then run this again:" \
        "sudo apt install python3 python3-venv   (Debian 12+, Ubuntu 24.04+)" \
        "brew install python@3.13                (macOS)"
}

# First line: what needs a new environment when it changes. Second: what needs another installation.
wanted() {
    echo "$PWD python $(version "$venv/bin/python" || echo none)"
    cat requirements.txt requirements-dev.txt pyproject.toml scripts/setup.sh | cksum
}

up_to_date() {
    [ -f $stamp ] && [ "$(cat $stamp)" = "$(wanted)" ] &&
        { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version $venv/bin/python)" ]; }
}

take_lock() {
    mkdir -p .netpress
    told=
    until mkdir $lock 2>/dev/null; do
        owner=$(cat $lock/pid 2>/dev/null || echo)
        if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
            rm -rf $lock # its owner was killed
            continue
        fi
        [ -n "$told" ] || echo "setup: another set-up is at work here; waiting for it (else remove $lock)" >&2
        told=yes
        sleep 1
    done
    echo $$ >$lock/pid
    trap 'rm -rf $lock' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

make_venv() {
    python=$(find_python)
    echo "setup: making $venv with $python (Python $(version "$python"))"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments; install what it lacks, then run this again:" \
            "sudo apt install python$(version "$python")-venv"
    rm -rf $venv
    "$python" -m venv $venv || fail "cannot make $venv; see above"
}

install() {
    uv_pin=$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' requirements-dev.txt)
    echo "setup: installing $uv_pin"
    $venv/bin/python -m pip install --quiet --disable-pip-version-check "$uv_pin" || no_network "$uv_pin"
    if [ -z "${UV_DEFAULT_INDEX:-}" ]; then # uv does not read pip's settings: take over a mirror
        mirror=$($venv/bin/python -m pip config get global.index-url 2>/dev/null || echo "${PIP_INDEX_URL:-}")
        [ -z "$mirror" ] || export UV_DEFAULT_INDEX="$mirror"
    fi
    echo "setup: installing requirements.txt and requirements-dev.txt, about 6 GB; compiling them takes a minute"
    # Compiled now, because importing torch uncompiled takes three times as long, in every stage.
    $venv/bin/uv pip sync --python $venv/bin/python --compile-bytecode requirements.txt requirements-dev.txt ||
        no_network "the requirements"
    $venv/bin/uv pip install --quiet --python $venv/bin/python --no-deps --no-build-isolation --editable . ||
        fail "cannot install this package; see above"
}

# `dvc plots` draws with scripts from elsewhere, unless it has a page that holds them.
offline_plots() {
    $venv/bin/python -m netpress.report.page.plots &&
        $venv/bin/dvc config --local plots.html_template plots/page.html ||
        echo "setup: 'dvc plots' will need a network to draw; all else works" >&2
}

no_network() {
    fail "could not install $1; see above. What is needed:" \
        "- a connection to the Python package index, or a mirror: export PIP_INDEX_URL=https://..." \
        "- 8 GB of free disk; here are $(df -Pk . | awk 'NR == 2 {printf "%.1f", $4 / 1e6}') GB" \
        "Then run 'make setup' again: finished downloads are kept."
}

if up_to_date; then
    echo "setup: $venv is up to date"
    exit 0
fi
take_lock
up_to_date && exit 0 # another set-up has done it meanwhile
if [ "$(sed -n 1p $stamp 2>/dev/null)" != "$(wanted | sed -n 1p)" ] ||
    { [ -n "${PYTHON:-}" ] && [ "$(version "$PYTHON")" != "$(version $venv/bin/python)" ]; }; then
    make_venv
fi
rm -f $stamp
install
offline_plots
wanted >$stamp
echo "setup: done; '. .venv/bin/activate' puts it on your PATH, the make targets need no activation"
