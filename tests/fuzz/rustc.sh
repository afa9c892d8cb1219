#!/bin/sh
# What `cargo xtask fuzz` calls in place of rustc: our crates, and the parsers that they hand strangers' bytes to, report
# which branches they take (LLVM's SanitizerCoverage, which the stable compiler has), and check their arithmetic.
instrument() {
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on
}
case " $* " in
# What runs while others are compiled (a build script, a plugin) is no part of the program.
*" --target wasm"*) exec "$@" ;;
*" --target "*) ;;
*) exec "$@" ;;
esac
for name in host curation engine intake plugin_runtime fuzz saphyr_parser yaml_serde libyaml_rs safetensors serde_json tokenizers \
    wasmparser whatlang; do
    case " $* " in
    *" --crate-name $name "*) instrument "$@" ;;
    esac
done
exec "$@"
