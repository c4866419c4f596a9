//! Text and messages that become values, or errors that say why not.

use laneway_agent::config::Config;
use laneway_agent::journal::{RequestRecord, TicketRecord};
use laneway_agent::model::id::{LaneId, NAME_MAX, Name, parse_hex};
use laneway_agent::model::lane::LaneRecord;
use laneway_agent::recovery::{Sighting, judge};
use laneway_agent::service::spec_from_proto;
use laneway_proto::v1;
use laneway_tests::fuzz::fuzz;
use prost::Message;

use crate::agent::InProcess;

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Whether a text from a caller could do harm where it is printed.
fn is_harmless(text: &str) -> bool {
    !text.chars().any(|found| found.is_control() && found != '\n')
}

#[test]
fn lane_id() {
    let texts = ["orders", "a-1", "-a", "", "A", "../x", "0123456789abcdef0123456789abcdef"];
    fuzz("lane_id", seeds(&texts), &mut |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match Name::parse(&text) {
            Ok(name) => {
                let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
                assert!(!text.is_empty() && text.len() <= NAME_MAX, "oracle: length");
                assert!(text.bytes().all(legal) && name.as_str() == text, "oracle: {text:?}");
            }
            Err(error) => assert!(is_harmless(&error.to_string()), "oracle: {error:?}"),
        }
        if let Some(number) = parse_hex(&text) {
            assert_eq!(LaneId(number).to_string(), text.to_lowercase(), "oracle: hexadecimal");
        }
    });
}

#[test]
fn config_file() {
    let write = |config: &Config| toml::to_string(config).expect("every field has a form");
    let whole = write(&Config::default());
    let texts = [
        whole.as_str(),
        "version = 1",
        "version = 1\n[hugepages]\nreserve = { \"2MiB\" = 3 }",
        "version = 1\n[limits]\nlanes = 0\n[tenants]\nnames = [\"dx\", \"A\"]",
        "version = 1\n[agent]\nlisten_tcp = \"127.0.0.1:1\"\n[log]\nformat = \"json\"",
    ];
    fuzz("config_file", seeds(&texts), &mut |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(config) = Config::parse(&text) else { return };
        let again = Config::parse(&write(&config));
        assert_eq!(again.ok(), Some(config), "oracle: a configuration that is read as another");
    });
}

#[test]
fn journal_replay() {
    let ticket = r#"{"lane":"0123456789abcdef0123456789abcdef","role":"Producer",
        "expires_ms":7,"used":false,"request_hash":"ab"}"#;
    let agent = InProcess::start();
    let lanes = [agent.create("orders", None), agent.create("quotes", Some(3))];
    let lanes = lanes.iter().map(|lane| serde_json::to_string(lane).expect("as in the journal"));
    let lanes: Vec<String> = lanes.collect();
    drop(agent);
    fuzz("journal_replay", seeds(&[&lanes[0], &lanes[1], ticket]), &mut |bytes| {
        let _ = serde_json::from_slice::<TicketRecord>(bytes);
        let _ = serde_json::from_slice::<RequestRecord>(bytes);
        let Ok(lane) = serde_json::from_slice::<LaneRecord>(bytes) else { return };
        let text = serde_json::to_vec(&lane).expect("records have no failing serializers");
        let again = serde_json::from_slice::<LaneRecord>(&text);
        assert_eq!(again.ok().as_ref(), Some(&lane), "oracle: a record that is read as another");
        for sighting in [Sighting::Alive, Sighting::Dead, Sighting::Unseen] {
            let first = judge(&lane, "boot", |_, _| sighting);
            assert_eq!(judge(&lane, "boot", |_, _| sighting), first, "oracle: two verdicts");
        }
    });
}

#[test]
fn proto_to_model() {
    let end = |exclusive| v1::EndSpec { exclusive, ..Default::default() };
    let plain = v1::LaneSpec {
        name: "orders".to_owned(),
        tenant: "dx".to_owned(),
        geometry: Some(v1::Geometry { slot_payload_bytes: 56, slot_count: 1024 }),
        pages: Some(v1::PageRequest { page_size_bytes: 2 << 20, require: true }),
        producer: Some(end(true)),
        consumer: Some(end(false)),
        ..Default::default()
    };
    let shape = v1::Shape::Broadcast.into();
    let broadcast = Some(v1::BroadcastSpec { readers_max: 3, ..Default::default() });
    let shared = v1::LaneSpec { shape, broadcast, ..plain.clone() };
    let tenant = Name::parse("dx").expect("legal");
    let seeds = [plain, shared].map(|spec| spec.encode_to_vec()).to_vec();
    fuzz("proto_to_model", seeds, &mut |bytes| {
        let Ok(message) = v1::LaneSpec::decode(bytes) else { return };
        match spec_from_proto(Some(message), &tenant) {
            Ok(spec) => {
                let text = serde_json::to_vec(&spec).expect("as in the journal");
                let again = serde_json::from_slice(&text).ok();
                assert_eq!(again, Some(spec), "oracle: a specification that is read as another");
            }
            Err(status) => {
                assert!(is_harmless(status.message()), "oracle: {:?}", status.message());
                assert!(status.message().len() < 1000, "oracle: a long refusal");
            }
        }
    });
}
