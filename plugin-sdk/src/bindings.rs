//! What wit-bindgen generates from the WIT files, a module per world.

#![expect(
    clippy::pedantic,
    reason = "generated code; the WIT files carry the words"
)]
#![allow(unused, reason = "generated code")]

#[cfg(feature = "dataset-loader")]
pub mod loader {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "dataset-loader-plugin",
        pub_export_macro: true,
        export_macro_name: "export_dataset_loader",
        default_bindings_module: "plugin_sdk::__private::bindings::loader",
    });
}

#[cfg(feature = "prompt-strategy")]
pub mod strategy {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "prompt-strategy-plugin",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_prompt_strategy",
        default_bindings_module: "plugin_sdk::__private::bindings::strategy",
    });
}

#[cfg(feature = "reward")]
pub mod reward {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "reward-plugin",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_reward",
        default_bindings_module: "plugin_sdk::__private::bindings::reward",
    });
}

#[cfg(feature = "compat-rules")]
pub mod rules {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "compat-rules-plugin",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_compat_rules",
        default_bindings_module: "plugin_sdk::__private::bindings::rules",
    });
}
