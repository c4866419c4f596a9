//! The header is what its sources say: a change shows up here before it reaches a program.
//!
//! `BLESS=1 cargo test -p laneway-c` rewrites it after a deliberate change.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use cbindgen::{Builder, Config, EnumConfig, Language, RenameRule, Style};

const TOP: &str = "\
/* Laneway: private lanes between two processes of one node.
 *
 * Every function answers a `laneway_status`, and what else there is to tell through pointers.
 * Timeouts are nanoseconds: 0 does not wait, LANEWAY_FOREVER waits for ever.
 *
 * Threads: a handle may move from thread to thread, and one thread at a time uses it, the closing
 * included. Different handles have nothing to do with each other. An attach that pins its thread
 * gives the old affinity back when the same thread closes the handle. Handles are of the process
 * that attached: a forked child has none of the lane's memory and must not use them.
 *
 * A handle is a number and never followed: one that was closed, made up, or is of the other kind,
 * is answered by LANEWAY_STATUS_INVALID_HANDLE. Null, misaligned and oversized arguments are
 * answered by LANEWAY_STATUS_INVALID_ARGUMENT. Nothing was done then.
 *
 * Made from the sources: `BLESS=1 cargo test -p laneway-c` rewrites it. */";

fn generated() -> String {
    let mut config = Config {
        language: Language::C,
        cpp_compat: true,
        header: Some(TOP.to_owned()),
        include_guard: Some("LANEWAY_H".to_owned()),
        no_includes: true,
        sys_includes: vec!["stddef.h".to_owned(), "stdint.h".to_owned()],
        usize_is_size_t: true,
        style: Style::Both,
        line_length: 100,
        documentation_style: cbindgen::DocumentationStyle::C99,
        enumeration: EnumConfig {
            rename_variants: RenameRule::QualifiedScreamingSnakeCase,
            ..EnumConfig::default()
        },
        ..Config::default()
    };
    for (ours, theirs) in [
        ("LanewayStatus", "laneway_status"),
        ("LanewayPeer", "laneway_peer"),
        ("LanewayRelation", "laneway_relation"),
        ("LanewayDistance", "laneway_distance"),
        ("LanewayProducer", "laneway_producer"),
        ("LanewayConsumer", "laneway_consumer"),
        ("LanewaySubscriber", "laneway_subscriber"),
        ("LanewayFrozenBuilder", "laneway_frozen_builder"),
        ("LanewayFrozen", "laneway_frozen"),
        ("LanewayAttachOptions", "laneway_attach_options"),
        ("LanewayGrant", "laneway_grant"),
        ("LanewaySlice", "laneway_slice"),
        ("LanewayBuffer", "laneway_buffer"),
    ] {
        config.export.rename.insert(ours.to_owned(), theirs.to_owned());
    }
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs");
    let builder = Builder::new().with_config(config).with_src(source);
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_what_its_sources_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/laneway.h");
    let text = generated();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let header = std::fs::read_to_string(path).unwrap();
    let differs = header.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert!(header == text, "the C ABI changed; if that is meant: BLESS=1 cargo test: {differs:?}");
}
