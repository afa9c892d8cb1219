//! What wasmtime generates from the WIT files: one module per world, and one for what the worlds share.

#![expect(missing_docs, unreachable_pub, reason = "generated code; the WIT files carry the words")]

pub mod shared {
    wasmtime::component::bindgen!({
        path: "../../../wit/v0.1",
        inline: "package host:shared; world shared { import trainer:plugin/types@0.1.0; import trainer:plugin/log@0.1.0; import trainer:plugin/files@0.1.0; import trainer:plugin/grants@0.1.0; }",
        world: "host:shared/shared",
        imports: { default: trappable },
        additional_derives: [PartialEq],
        with: {
            "trainer:plugin/files.byte-source": crate::files::ByteSource,
            "trainer:plugin/files.directory": crate::files::Directory,
        },
    });
}

macro_rules! world {
    ($module:ident, $world:literal, [$($derive:ident),*] $(, $interface:literal => $path:path)*) => {
        pub mod $module {
            wasmtime::component::bindgen!({
                path: "../../../wit/v0.1",
                world: $world,
                additional_derives: [$($derive),*],
                with: {
                    "trainer:plugin/types": crate::bindings::shared::trainer::plugin::types,
                    "trainer:plugin/log": crate::bindings::shared::trainer::plugin::log,
                    $($interface: $path,)*
                },
            });
        }
    };
}

world!(
    loader,
    "dataset-loader-plugin",
    [],
    "trainer:plugin/files" => crate::bindings::shared::trainer::plugin::files,
    "trainer:plugin/grants" => crate::bindings::shared::trainer::plugin::grants
);
world!(strategy, "prompt-strategy-plugin", [PartialEq]);
world!(reward, "reward-plugin", [PartialEq]);
world!(rules, "compat-rules-plugin", [PartialEq]);
world!(filter, "row-filter-plugin", [PartialEq]);
world!(schedule, "schedule-plugin", [PartialEq]);
world!(health, "run-health-plugin", [PartialEq]);
world!(environment, "environment-plugin", [PartialEq]);
