#!/usr/bin/env bash
# make test-arm: installs the device tier on emulated ARM and compares its poses with this machine's.
#
# PYTHON=.venv/bin/python tests/arm/run.sh aarch64 armv7l
#
# It needs neither root nor binfmt: packages of Debian 12 are unpacked into build/arm/ARCHITECTURE, and QEMU's -L looks
# for files there before it looks on this machine.
set -eu
cd "$(dirname "$0")/../.."

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
for needed in qemu-aarch64-static qemu-arm-static apt-get dpkg-deb "$KEYRING"; do
    if ! command -v "$needed" >/dev/null && [ ! -e "$needed" ]; then
        echo "note: $needed is missing; skipping the tests on ARM" \
            "(on Debian: apt install qemu-user-static debian-archive-keyring)"
        exit 0
    fi
done

# Unpacks packages of Debian and what they depend on: unpack FOLDER DEBIAN_ARCHITECTURE PACKAGE...
unpack() {
    local root=$1 architecture=$2
    shift 2
    rm -rf "$root"
    mkdir -p "$root"/apt/{lists,cache/archives}/partial
    touch "$root/apt/status"
    echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian bookworm main" >"$root/apt/sources.list"
    local settings=(-qq -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture"
        -o "Dir::State=$root/apt" -o "Dir::State::status=$root/apt/status" -o "Dir::Cache=$root/apt/cache"
        -o "Dir::Etc::sourcelist=$root/apt/sources.list" -o Dir::Etc::sourceparts=-
        -o APT::Sandbox::User=root -o Debug::NoLocking=true -o Acquire::Languages=none)
    apt-get "${settings[@]}" update
    apt-get "${settings[@]}" install --yes --no-install-recommends --download-only "$@" >"$root/apt/log"
    for package in "$root"/apt/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$root" \
            --exclude=./usr/share/{doc,man,locale,fonts,icons}
    done
    rm -r "$root/apt"
    # As the packages would choose them when they are configured.
    for library in "$root"/usr/lib/*/{blas/libblas,lapack/liblapack}.so.3; do
        [ ! -e "$library" ] || ln -s "$library" "${library%/*/*}/"
    done
    touch "$root/.complete"
}

# LiteRT reads from /proc/cpuinfo what the processor can do, so it must describe the one that QEMU emulates. That is not
# QEMU's default one, which has ARM's matrix extension: with it, XNNPACK's int8 gives random poses (QEMU 7.2, LiteRT 2.3).
describe_processor() {
    case $1 in
        aarch64) cat <<-END ;;
			processor	: 0
			Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp
			CPU implementer	: 0x41
			CPU architecture: 8
			CPU variant	: 0x4
			CPU part	: 0xd0b
			CPU revision	: 1
		END
        armv7l) cat <<-END ;;
			processor	: 0
			Features	: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae
			CPU implementer	: 0x41
			CPU architecture: 7
			CPU variant	: 0x2
			CPU part	: 0xc0f
			CPU revision	: 4
		END
    esac
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
unset PYTHONPATH
mkdir -p build/arm
rm -rf build/lib build/arm/wheel
"$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir build/arm/wheel .
PYTHONPATH=$PWD "$PYTHON" tests/arm/write_models.py build/arm/models

status=0
for architecture; do
    root=$PWD/build/arm/$architecture
    case $architecture in
        aarch64)
            emulator=qemu-aarch64-static debian=arm64 packages=()
            export QEMU_CPU=cortex-a76
            ;;
        armv7l)
            emulator=qemu-arm-static debian=armhf packages=(python3-numpy python3-opencv python3-yaml)
            export QEMU_CPU=cortex-a15
            ;;
        *)
            echo "error: expected aarch64 or armv7l. Received: $architecture" >&2
            exit 2
            ;;
    esac
    [ -e "$root/.complete" ] || unpack "$root" "$debian" libstdc++6 python3-minimal python3-pip "${packages[@]}"
    mkdir -p "$root/proc"
    describe_processor "$architecture" >"$root/proc/cpuinfo"
    emulated() { "$emulator" -L "$root" "$@"; }
    rm -rf "$root/venv"
    emulated "$root/usr/bin/python3.11" -m venv --without-pip --system-site-packages "$root/venv"
    # This Python cannot start programs, so pip must not build anything.
    emulated "$root/venv/bin/python" -m pip install -qq --only-binary=:all: build/arm/wheel/*.whl
    emulated "$root/venv/bin/python" tests/arm/check_poses.py build/arm/models || status=1
done
exit $status
