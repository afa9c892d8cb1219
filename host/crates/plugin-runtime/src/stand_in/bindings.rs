//! What wasmtime generates from `wit/guests.wit`.

wasmtime::component::bindgen!({
    path: "wit",
    world: "host:sandbox/guests",
    imports: { default: trappable },
    with: {
        "wasi:io/error.error": super::console::Failure,
        "wasi:io/poll.pollable": super::console::Over,
        "wasi:io/streams.input-stream": super::console::Input,
        "wasi:io/streams.output-stream": super::console::Output,
        "wasi:cli/terminal-input.terminal-input": super::console::Terminal,
        "wasi:cli/terminal-output.terminal-output": super::console::Terminal,
    },
});
