#!/bin/bash
# Make this checkout ready to run: packages, Python environment, guest agent, guest kernel, template, group, command.
#
# Idempotent: each step first asks whether there is anything to do, and says nothing if not.
# Reads no stdin. Everything a step prints goes to build/setup.log; its end is shown if the step fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH="$PATH:/usr/sbin:/sbin"
exec </dev/null

readonly VENV=.venv GUEST=build/guest LOG=build/setup.log LINK=/usr/local/bin/twinhull
readonly STAMP=$VENV/.twinhull-lock TRIED=build/.packages-tried TEMPLATE=build/.template-tried
worked=0

say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$1" >&2; [ $# -lt 2 ] || printf '       %s\n' "$2" >&2; exit 1; }

# step NAME CHECK DO: run DO with a running clock unless CHECK says that it is done.
step() {
    local name=$1 check=$2 act=$3 began=$SECONDS pid status=0
    number=$((number + 1))
    "$check" && return 0
    worked=1
    "$act" >>"$LOG" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        [ -t 1 ] && printf '\r[%d/%d] %s … %d s ' "$number" "$STEPS" "$name" $((SECONDS - began))
        sleep 0.2
    done
    wait "$pid" || status=$?
    [ -t 1 ] && printf '\r\033[K'
    if [ "$status" -ne 0 ]; then
        say "[$number/$STEPS] $name: failed after $((SECONDS - began)) s; the end of $LOG:"
        tail -n 25 "$LOG" | sed 's/^/    /'
        exit 1
    fi
    say "[$number/$STEPS] $name: done in $((SECONDS - began)) s"
}

# --- 1 packages -------------------------------------------------------------------------------------------------------
wanted_packages() {
    grep -v '[#?]' setup/packages.txt
    # Debian's own Python has no ensurepip without python3-venv.
    case "$(find_python)" in /usr/bin/*) echo python3-venv ;; '') echo python3-venv ;; esac
}
missing_packages() {
    local wanted
    wanted=$(wanted_packages)
    # shellcheck disable=SC2086
    { dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || true; } | sed -n 's/^installed //p' |
        sort -u | comm -13 - <(sort -u <<<"$wanted")
}
packages_ready() { [ -z "$(missing_packages)" ] && [ -e $TRIED ]; }
apt() { apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }
# A service that comes with a package (haproxy.service) stays out: the daemon runs processes of its own. A policy forbids its start for
# that moment (policy-rc.d, see invoke-rc.d(8)); one that wasn't there before isn't started at the next boot either.
install_packages() {
    local missing first policy=/usr/sbin/policy-rc.d
    missing=$(missing_packages)
    first=$missing
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # shellcheck disable=SC2086
    [ -z "$missing" ] || apt install --no-install-recommends $missing ||
        { apt update && apt install --no-install-recommends $missing; }
    for missing in $(sed -n 's/?$//p' setup/packages.txt); do
        apt install --no-install-recommends "$missing" || echo "$missing isn't to be had here; it is optional"
    done
    if grep -qx haproxy <<<"$first" && command -v systemctl >/dev/null; then systemctl disable haproxy.service; fi
    touch $TRIED
}

# --- 2 Python ---------------------------------------------------------------------------------------------------------
find_python() {
    local name path
    for name in python3.13 python3.12 python3.11 python3; do
        for path in "/usr/bin/$name" "$(command -v "$name" || true)"; do
            if [ -x "$path" ] && "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                echo "$path"
                return 0
            fi
        done
    done
    return 0
}
lock_hash() { cat requirements-dev.txt pyproject.toml | sha256sum | cut -d' ' -f1; }
python_ready() {
    [ -x $VENV/bin/python ] && [ -x $VENV/bin/twinhull ] && [ "$(cat $STAMP 2>/dev/null)" = "$(lock_hash)" ] &&
        $VENV/bin/python -c '' 2>/dev/null
}
install_python() {
    local python
    python=$(find_python)
    [ -n "$python" ] || { echo "no Python 3.11 or newer found"; return 1; }
    echo "Python: $python"
    $VENV/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear $VENV
    # Locked versions with hashes only; the package itself is then linked into the environment without asking any index.
    $VENV/bin/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.txt
    $VENV/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
    write_launcher
    lock_hash >$STAMP
}
# pip's own launcher imports `re`; ours starts the program and nothing else. -I: root's start must not look at PYTHON* or the working folder.
write_launcher() {
    printf '#!%s -I\nimport sys\n\nfrom twinhull.cli.main import main\n\nsys.exit(main())\n' "$PWD/$VENV/bin/python" >$VENV/bin/.twinhull
    chmod 755 $VENV/bin/.twinhull
    mv $VENV/bin/.twinhull $VENV/bin/twinhull
}

# --- 3, 4 what runs inside a VM ---------------------------------------------------------------------------------------
# Not the question whether the file is there: make knows whether a source is newer.
agent_ready() { [ -x $GUEST/agent ] && make -s -q -C agent >/dev/null 2>&1; }
build_agent() { make -C agent; }
kernel_ready() { [ -s $GUEST/initrd ] && [ -s $GUEST/manifest.json ] && ! [ $GUEST/agent -nt $GUEST/manifest.json ]; }
build_kernel() { $VENV/bin/python -m twinhull.instance.vm.assets build --out $GUEST && touch $GUEST/manifest.json; }

# --- 5 what a VM goes on from ----------------------------------------------------------------------------------------
# Without one, VMs boot. So what keeps a guest from being restored here (a sandbox without namespaces, say) is told, and stops nothing.
template_ready() { [ $TEMPLATE -nt $GUEST/manifest.json ] && [ $TEMPLATE -nt "$(command -v qemu-system-x86_64)" ]; }
make_template() { $VENV/bin/python -m twinhull.instance.vm.prepare || echo "VMs boot then; see: twinhull doctor"; touch $TEMPLATE; }

# --- 6 group and command ----------------------------------------------------------------------------------------------
group_ready() { getent group twinhull >/dev/null; }
add_group() { groupadd --system twinhull; }
# A link that somebody else made, or that leads to another living checkout, is left alone.
command_ready() { [ -x $LINK ] || ! [ -w /usr/local/bin ]; }
link_command() { ln -sfn "$PWD/$VENV/bin/twinhull" $LINK; }

[ "$(id -u)" -eq 0 ] || die "setup installs packages and needs root" "run: sudo make ${1:-setup}"
command -v apt-get >/dev/null || die "setup knows Debian and Ubuntu (apt-get) only so far" "packages: setup/packages.txt; then see docs/dependencies.md"
[ "$(uname -m)" = x86_64 ] || die "only x86-64 machines are supported so far, this one is $(uname -m)"
mkdir -p build
: >"$LOG"
readonly STEPS=7
number=0
step "Debian packages ($(missing_packages | wc -l) to install)" packages_ready install_packages
step "Python environment in $VENV" python_ready install_python
step "guest agent" agent_ready build_agent
step "guest kernel and initrd" kernel_ready build_kernel
step "template of the usual VM" template_ready make_template
step "group twinhull" group_ready add_group
step "command $LINK" command_ready link_command
[ "$worked" -eq 0 ] || say "setup: complete after $SECONDS s"
