//! Compiles the BPF programs and generates their skeleton. Needs clang 14 or newer and the kernel's UAPI headers
//! (Debian: clang, linux-libc-dev); libbpf's own headers come with libbpf-sys.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("ringway.skel.rs");
    // Debian keeps <asm/types.h> below the architecture's folder, where `-target bpf` does not look.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let multiarch = format!("-I/usr/include/{arch}-linux-gnu");
    // v3: atomic or without a fetch, and 32-bit jumps.
    let args = ["-Wall", "-Wextra", "-Werror", "-mcpu=v3", &multiarch].map(OsString::from);

    if let Err(error) = SkeletonBuilder::new().source("src/bpf/ringway.bpf.c").clang_args(args).build_and_generate(&out) {
        panic!("compiling src/bpf/ringway.bpf.c (clang and linux-libc-dev are needed): {error:#}");
    }
    println!("cargo:rerun-if-changed=src/bpf");
}
