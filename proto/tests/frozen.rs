//! The API's text is frozen: a change shows up here before it reaches a client.
//!
//! `BLESS=1 cargo test -p laneway-proto` rewrites the text after a deliberate change.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write;

use prost::Message;
use prost_types::field_descriptor_proto::Label;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

#[test]
fn the_api_is_what_its_frozen_text_says() {
    let set = FileDescriptorSet::decode(laneway_proto::DESCRIPTORS).unwrap();
    let mut text = String::new();
    for file in set.file.iter().filter(|file| file.package() == "laneway.v1") {
        describe(&mut text, file);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/api/laneway.v1.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let frozen = std::fs::read_to_string(path).unwrap();
    assert_eq!(frozen, text, "the API changed; if that is meant: BLESS=1 cargo test");
}

fn describe(out: &mut String, file: &FileDescriptorProto) {
    for service in &file.service {
        for method in &service.method {
            let stream = if method.server_streaming() { "stream " } else { "" };
            let (name, rpc) = (service.name(), method.name());
            let (input, output) = (method.input_type(), method.output_type());
            writeln!(out, "rpc {name}.{rpc}({input}) returns ({stream}{output})").unwrap();
        }
    }
    for enumeration in &file.enum_type {
        describe_enum(out, "", enumeration);
    }
    for message in &file.message_type {
        describe_message(out, "", message);
    }
}

fn describe_enum(out: &mut String, prefix: &str, enumeration: &EnumDescriptorProto) {
    for value in &enumeration.value {
        let (name, number) = (value.name(), value.number());
        writeln!(out, "enum {prefix}{} {number} = {name}", enumeration.name()).unwrap();
    }
}

fn describe_message(out: &mut String, prefix: &str, message: &DescriptorProto) {
    let name = format!("{prefix}{}", message.name());
    if message.field.is_empty() {
        writeln!(out, "message {name} empty").unwrap();
    }
    for field in &message.field {
        let label = match field.label() {
            Label::Repeated => "repeated ",
            _ if field.proto3_optional() => "optional ",
            _ => "",
        };
        let kind = match field.type_name() {
            "" => field.r#type().as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            name => name.to_owned(),
        };
        let (number, field) = (field.number(), field.name());
        writeln!(out, "message {name} {number} = {label}{kind} {field}").unwrap();
    }
    for enumeration in &message.enum_type {
        describe_enum(out, &format!("{name}."), enumeration);
    }
    for nested in &message.nested_type {
        describe_message(out, &format!("{name}."), nested);
    }
}
