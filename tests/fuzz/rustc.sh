#!/bin/sh
# What `cargo xtask fuzz` calls in place of rustc: our crates, and the parsers that they hand strangers' bytes to, report
# which branches they take (LLVM's SanitizerCoverage, which the stable compiler has), and check their arithmetic.
instrument() {
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
}
case " $* " in
# What runs while others are compiled (a build script, a plugin) is no part of the program.
*" --target wasm"*) exec "$@" ;;
*" --target "*) ;;
*) exec "$@" ;;
esac
for name in host curation engine intake plugin_runtime fuzz saphyr_parser yaml_serde libyaml_rs safetensors serde_json \
    tokenizers wasmparser whatlang rows columns arrow_rows csv_rows jsonl_rows parquet_rows text_rows plugin_sdk; do
    case " $* " in
    *" --crate-name $name "*) instrument "$@" -Cdebug-assertions=on -Coverflow-checks=on ;;
    esac
done
# Parsers that run in the sandbox alone, as they are there: without such checks.
for name in arrow_array arrow_buffer arrow_data arrow_ipc arrow_schema arrow_select csv_core flatbuffers flate2 lz4_flex \
    miniz_oxide parquet ruzstd snap; do
    case " $* " in
    *" --crate-name $name "*) instrument "$@" ;;
    esac
done
exec "$@"
