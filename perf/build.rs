//! Compiles the generator and the sink. Not into a skeleton: that would bring `unsafe` code here.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("perf.bpf.o");
    // Debian keeps <asm/types.h> below the architecture's folder, where `-target bpf` does not look.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let multiarch = format!("-I/usr/include/{arch}-linux-gnu");
    let args = ["-Wall", "-Wextra", "-Werror", "-mcpu=v3", &multiarch].map(OsString::from);
    if let Err(error) = SkeletonBuilder::new().source("src/bpf/perf.bpf.c").obj(&out).clang_args(args).build() {
        panic!("compiling src/bpf/perf.bpf.c (clang and linux-libc-dev are needed): {error:#}");
    }
    println!("cargo:rerun-if-changed=src/bpf");
}
