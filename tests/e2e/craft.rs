//! Plugins written by hand, for what no compiler makes: a reward as WebAssembly text, with whatever is wrong with it.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::root;

/// A reward whose `create` works and whose `score` traps, and what differs from that.
pub(crate) struct Craft {
    /// API version of its interfaces.
    pub(crate) version: &'static str,
    /// The manifest section; none leaves it out.
    pub(crate) manifest: Option<String>,
    /// Imports of the module beside its own.
    pub(crate) imports: &'static str,
    /// More fields of the module.
    pub(crate) fields: String,
    /// More lines of the world.
    pub(crate) world: &'static str,
    /// More packages of the world.
    pub(crate) packages: &'static str,
}

impl Default for Craft {
    fn default() -> Self {
        Self {
            version: "0.1.0",
            manifest: Some(manifest("0.1")),
            imports: "",
            fields: String::new(),
            world: "",
            packages: "",
        }
    }
}

/// A manifest for an API version.
pub(crate) fn manifest(api: &str) -> String {
    format!(r#"{{"name":"test:crafted","version":"1.0.0","api":"{api}","kind":"reward","description":"By hand"}}"#)
}

impl Craft {
    /// The module that becomes the component.
    pub(crate) fn module(&self) -> Vec<u8> {
        let (version, imports, fields) = (self.version, self.imports, &self.fields);
        let text = format!(
            r#"(module
  (import "[export]trainer:plugin/reward@{version}" "[resource-new]scorer" (func $new (param i32) (result i32)))
  {imports}
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
  (func (export "trainer:plugin/reward@{version}#[static]scorer.create") (param i32 i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (call $new (i32.const 1)))
    (i32.const 16))
  (func (export "trainer:plugin/reward@{version}#[method]scorer.score") (param i32 i32 i32 i64 i64 i64) (result i32)
    unreachable)
  (func (export "trainer:plugin/reward@{version}#[dtor]scorer") (param i32))
  {fields})"#
        );
        wat::parse_str(text).expect("the text is WebAssembly")
    }

    /// The plugin.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let mut wit = String::new();
        for file in ["types", "host", "reward"] {
            let text = std::fs::read_to_string(root().join(format!("wit/v0.1/{file}.wit"))).unwrap();
            // One file has one package line; the worlds of the others need files that are not here.
            let text = text.replace("package trainer:plugin@0.1.0;", "").replace("world reward-plugin", "world plain");
            wit += &text;
        }
        let package = format!("package trainer:plugin@{};\n{wit}\n{}", self.version, self.packages);
        let world = format!("world crafted {{ export reward; {} }}", self.world);
        let id = resolve.push_str("crafted.wit", &format!("{package}\n{world}")).expect("the API is WIT");
        let world = resolve.select_world(&[id], Some("crafted")).expect("the world is there");
        let mut module = self.module();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        let mut encoder = ComponentEncoder::default();
        let encoder = encoder.module(&module).expect("the module fits the world");
        let mut component = encoder.validate(false).encode().expect("it is a component");
        if let Some(manifest) = &self.manifest {
            append_section(&mut component, "trainer:plugin-manifest", manifest.as_bytes());
        }
        component
    }
}

/// A custom section at the end.
fn append_section(component: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut section = leb(name.len());
    section.extend(name.bytes());
    section.extend(data);
    component.push(0);
    component.extend(leb(section.len()));
    component.extend(section);
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}
