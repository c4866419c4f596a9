//! Compiles the C side of rivals that exist only as inline functions of a C header. Without such
//! a rival's feature there is nothing to do, and nothing is looked for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "rivals-dpdk")]
    dpdk::build();
}

#[cfg(feature = "rivals-dpdk")]
mod dpdk {
    use std::process::Command;

    const SOURCE: &str = "src/rivals/dpdk.c";
    const HOW: &str = "the feature `rivals-dpdk` needs DPDK's headers and a C compiler: \
                       `apt-get install gcc pkg-config libdpdk-dev`";

    /// The shim with the flags that DPDK asks its users for, and the two libraries that it calls.
    pub(super) fn build() {
        println!("cargo::rerun-if-changed={SOURCE}");
        let mut shim = cc::Build::new();
        // A crate would keep the paths and drop `-include` and `-march`, which DPDK wants, too.
        for flag in pkg_config("--cflags") {
            shim.flag(flag);
        }
        // Optimised in every profile: without that nothing of it is inlined.
        shim.file(SOURCE).opt_level(3).debug(false).warnings(true).compile("laneway-dpdk");
        for path in pkg_config("--libs-only-L") {
            println!("cargo::rustc-link-search=native={}", path.trim_start_matches("-L"));
        }
        println!("cargo::rustc-link-lib=rte_ring");
        println!("cargo::rustc-link-lib=rte_eal");
    }

    fn pkg_config(what: &str) -> Vec<String> {
        let output = Command::new("pkg-config").args([what, "libdpdk"]).output();
        let output = match output {
            Ok(output) if output.status.success() => output,
            Ok(output) => panic!("{}\n{HOW}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("cannot run pkg-config: {error}\n{HOW}"),
        };
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }
}
