#!/bin/sh
# Builds Mesa's `asahi_clc`, unmodified, from Debian's source package, in an empty or its own folder.
# Usage: build_asahi_clc.sh FOLDER      On Debian 12 or newer, or Ubuntu 24.04 or newer.
# SUITE names the Debian release, MIRROR its mirror, JOBS the processes.
set -eu
folder=${1:?"build_asahi_clc: Expected a folder to build in."}
suite=${SUITE:-trixie}
mirror=${MIRROR:-http://deb.debian.org/debian}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

newest_llvm() {
  for version in 19 18 17 16 15; do
    if [ -n "$(apt-cache search --names-only "^libllvmspirvlib-$version-dev\$")" ]; then
      echo "$version"
      return
    fi
  done
  echo "build_asahi_clc: Expected a package libllvmspirvlib-15-dev or newer." >&2
  exit 1
}

llvm=$(newest_llvm)
wanted="gcc g++ ninja-build flex bison pkg-config dpkg-dev python3-venv debian-archive-keyring
  libdrm-dev zlib1g-dev spirv-tools llvm-$llvm-dev libclang-$llvm-dev libclang-cpp$llvm-dev
  libclc-$llvm-dev libllvmspirvlib-$llvm-dev"
missing=
for package in $wanted; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null |
    grep -qx installed || missing="$missing $package"
done
if [ -n "$missing" ]; then
  echo "build_asahi_clc: Expected more packages; as root:" >&2
  echo "  apt-get install --no-install-recommends$missing" >&2
  exit 1
fi

# A configuration of apt's own, so that the system's list of sources stays as it is.
apt=$folder/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb-src [signed-by=$keyring] $mirror $suite main" >"$apt/sources.list"
cat >"$apt/apt.conf" <<END
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "$(id -un)";
END
cd "$folder"
export APT_CONFIG="$apt/apt.conf"
apt-get --quiet update
rm -rf mesa-*/
apt-get --quiet source mesa
source=$(echo mesa-*/)

python3 -m venv tools
tools/bin/pip install --quiet "meson>=1.1" mako pyyaml packaging
PATH="$folder/tools/bin:/usr/lib/llvm-$llvm/bin:$PATH"
export PATH
# `b_ndebug`: with assertions on, a kernel that spills aborts.
meson setup --wipe build "$source" --buildtype=release -Doptimization=1 -Db_ndebug=true \
  -Dgallium-drivers=asahi -Dvulkan-drivers= -Dplatforms= -Dvideo-codecs= \
  -Dmesa-clc=enabled -Dprecomp-compiler=enabled -Dllvm=enabled \
  -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dopengl=false -Dgles1=disabled -Dgles2=disabled \
  -Dvalgrind=disabled -Dlibunwind=disabled -Dzstd=disabled -Dshader-cache=disabled \
  -Dxmlconfig=disabled -Dexpat=disabled
nice -n 19 ninja -C build -j "${JOBS:-1}" src/asahi/clc/asahi_clc
echo "export MLX_TILEGEMM_ASAHI_CLC=$folder/build/src/asahi/clc/asahi_clc"
