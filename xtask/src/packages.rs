//! What the chores need beyond Rust: the one place that names Debian packages and cargo-installed programs.

/// Compiler, its source, its linter and LLVM for the kernel programs.
pub const BPF_TOOLCHAIN: [&str; 7] = [
    "rustc-web",
    "rust-web-src",
    "rust-web-clippy",
    "cargo-web",
    "llvm-22-dev",
    "clang-22",
    "libpolly-22-dev",
];

/// Where Debian's LLVM of [`BPF_TOOLCHAIN`] stands; bpf-linker is built against it.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Arguments of `cargo` that install the linker.
pub const BPF_LINKER: [&str; 8] = [
    "install",
    "bpf-linker",
    "--locked",
    "--version",
    "0.13.0",
    "--no-default-features",
    "--features",
    "llvm-22",
];

/// Peers and tools of the kernel tests.
pub const KERNEL_TESTS: [&str; 5] = ["iproute2", "iptables", "nftables", "ethtool", "bpftool"];

/// For booting other kernels (which are downloaded, not installed).
pub const OTHER_KERNELS: [&str; 2] = ["qemu-system-x86", "xz-utils"];

/// How a person would install the linker.
pub fn bpf_linker_command() -> String {
    format!("LLVM_PREFIX={LLVM_PREFIX} cargo {}", BPF_LINKER.join(" "))
}
