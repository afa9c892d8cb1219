//! What wit-bindgen generates from the WIT files: the interfaces that all kinds share once, then a module per world.
//!
//! A plugin exports one world only, because it invokes the export macro of one; what it does not use is not linked.

#![expect(clippy::pedantic, reason = "generated code; the WIT files carry the words")]
#![allow(unused, reason = "generated code")]

pub mod shared {
    wit_bindgen::generate!({
        inline: "
            package trainer:sdk;
            world shared {
                import trainer:plugin/types@0.1.0;
                import trainer:plugin/log@0.1.0;
                import trainer:plugin/files@0.1.0;
                import trainer:plugin/grants@0.1.0;
            }
        ",
        path: "../wit/v0.1",
        world: "trainer:sdk/shared",
        generate_all,
        additional_derives: [PartialEq],
        additional_derives_ignore: ["byte-source", "directory"],
    });
}

pub mod loader {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "dataset-loader-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
            "trainer:plugin/files@0.1.0": crate::bindings::shared::trainer::plugin::files,
            "trainer:plugin/grants@0.1.0": crate::bindings::shared::trainer::plugin::grants,
        },
        additional_derives: [PartialEq],
        additional_derives_ignore: ["source"],
        pub_export_macro: true,
        export_macro_name: "export_dataset_loader",
        default_bindings_module: "plugin_sdk::bindings::loader",
    });
}

pub mod strategy {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "prompt-strategy-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_prompt_strategy",
        default_bindings_module: "plugin_sdk::bindings::strategy",
    });
}

pub mod reward {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "reward-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_reward",
        default_bindings_module: "plugin_sdk::bindings::reward",
    });
}

pub mod rules {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "compat-rules-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_compat_rules",
        default_bindings_module: "plugin_sdk::bindings::rules",
    });
}

pub mod filter {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "row-filter-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_row_filter",
        default_bindings_module: "plugin_sdk::bindings::filter",
    });
}

pub mod schedule {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "schedule-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_schedule",
        default_bindings_module: "plugin_sdk::bindings::schedule",
    });
}

pub mod health {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "run-health-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_run_health",
        default_bindings_module: "plugin_sdk::bindings::health",
    });
}

pub mod environment {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "environment-plugin",
        with: {
            "trainer:plugin/types@0.1.0": crate::bindings::shared::trainer::plugin::types,
            "trainer:plugin/log@0.1.0": crate::bindings::shared::trainer::plugin::log,
        },
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_environment",
        default_bindings_module: "plugin_sdk::bindings::environment",
    });
}
