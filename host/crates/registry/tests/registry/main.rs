//! Registries: ones on loopback that fail or lie as a test asks for, one that is encrypted, and Debian's.

mod blobs;
mod common;
mod debian;
mod encrypted;
mod logins;
mod server;
mod tls;
