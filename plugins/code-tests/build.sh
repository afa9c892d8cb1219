#!/bin/sh
# Builds the component of this plugin, as it becomes part of the program, and writes down the digests of component and
# source. Run it when anything here changes; the file is the same for the same source and the same Rust.
#
#     plugins/code-tests/build.sh [--check]      # --check: builds, writes nothing, fails if the component is another
set -eu
cd "$(dirname "$0")"
target=${CARGO_TARGET_DIR:-../../target/code-tests}
# No path of this machine is to be in it.
home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
RUSTFLAGS="--remap-path-prefix=$(realpath ../..)=/source --remap-path-prefix=$home=/cargo --remap-path-prefix=$sysroot=/rust" \
    cargo build --release --locked --target wasm32-wasip2 --target-dir "$target"
built=$target/wasm32-wasip2/release/code_tests.wasm
if [ "${1:-}" = --check ]; then
    cmp "$built" component/code-tests.wasm
    exit
fi
mkdir -p component
cp "$built" component/code-tests.wasm
sha256sum component/code-tests.wasm Cargo.toml Cargo.lock src/*.rs > component/SHA256SUMS
rustc --version > component/RUSTC
