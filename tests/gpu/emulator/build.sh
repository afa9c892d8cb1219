#!/bin/sh
# Builds the emulated libraries: build.sh DIRECTORY
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
for part in driver:libcuda.so.1 nvrtc:libnvrtc.so.12 blas:libcublasLt.so.12 cudnn:libcudnn.so.9 nvml:libnvidia-ml.so.1; do
    g++ -std=c++17 -O3 -shared -fPIC -fvisibility=hidden -Wl,-soname,"${part#*:}" -o "$1/${part#*:}.new" "$here/${part%%:*}.cpp" -ldl
    mv "$1/${part#*:}.new" "$1/${part#*:}"
done
cp "$here/device.h" "$here/compile.py" "$1/"
