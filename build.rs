//! Compiles the library that workers load, `python/allocator.c`, which travels inside of the program with the worker package.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "python/allocator.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread", SOURCE, "-o"]);
    command.arg(Path::new(&folder).join("liballocator.so"));
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("the C compiler {} does not start: {error}", compiler.display()));
    assert!(status.success(), "{SOURCE} could not be compiled: {status}");
}
