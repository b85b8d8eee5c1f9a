//! Gives the linker the payload's own memory map, and the payload its table of litmus tests.
//!
//! A build script rather than `.cargo/config.toml`, because cargo looks for the latter from the current
//! directory up, and the payload is also built with `--manifest-path` from elsewhere.

use std::path::PathBuf;

use tessera_litmus::{encode, shapes};

fn main() {
    link();
    let table = encode::encode(&shapes::all()).expect("the named tests are small");
    let folder = std::env::var_os("OUT_DIR").expect("cargo gives a folder to write to");
    std::fs::write(PathBuf::from(folder).join("litmus.table"), table).expect("that can be written to");
}

fn link() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=src/runtime/ring0.s");
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{here}/link.ld");
}
